"""The keeper of an embedded server: starts it, and ends it some time after its last user has left.

It runs by path, in a session of its own, on the standard library alone::

    python -I -S keeper.py DIRECTORY SOCKET BINARY LINGER private|shared

Three files of the directory are locked with flock, which the kernel undoes when the holder dies, however it dies:

=============  ================================================================================================
users.lock     shared, by every user of the server; exclusively by the keeper, while it ends the server
keeper.lock    exclusively, by the one keeper
server.lock    exclusively, by the one server: it inherits the open file, and holds it exactly as long as it lives
=============  ================================================================================================

The process that was launched ends as soon as the server answers: with status 0 then (also when another keeper is at
work), with 1 if the server did not start. The keeper itself goes on as an orphan, so that no user has a child to reap.
A server that outlived its keeper is adopted by the next one. Of a private server nothing is left, the directory least.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time

USERS, KEEPER, SERVER, LOG = "users.lock", "keeper.lock", "server.lock", "server.log"
PAUSE = 0.002
"""Seconds between two looks at something that no call can wait for."""
PATIENCE = 10.0
"""Seconds that a server has to start or to stop."""


def take(path: str | os.PathLike[str], operation: int, create: int = os.O_CREAT) -> int | None:
    """Lock the file without waiting and return its descriptor, or None while another holds it."""
    file = os.open(path, os.O_RDWR | create, 0o600)
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def is_held(path: str | os.PathLike[str], operation: int = fcntl.LOCK_SH) -> bool:
    """Whether others hold a lock on the file that forbids this one; by default, an exclusive lock."""
    try:
        file = take(path, operation, create=0)
    except FileNotFoundError:
        return False
    if file is None:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: another thread may have forked in between
    os.close(file)
    return False


def ping(socket_path: str) -> bytes:
    """What a server says to PING, be it an error: empty when nobody answers within a second."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        link.connect(socket_path)
        link.sendall(b"PING\r\n")
        return link.recv(1024)
    return b""


def is_ready(socket_path: str) -> bool:
    """Whether a server answers and has its data loaded."""
    answer = ping(socket_path)
    return bool(answer) and not answer.startswith(b"-LOADING")


def shutdown(socket_path: str) -> bool:
    """End the server in good order, whatever it is doing; False when it did not go within PATIENCE, or is not there.

    NOSAVE is about RDB files, of which there are none: an append-only file is flushed and synced all the same.
    """
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE)
            link.connect(socket_path)
            link.sendall(b"SHUTDOWN NOSAVE NOW FORCE\r\n")
            return link.recv(1024) == b""  # the connection ends with the process
    except ConnectionResetError:
        return True
    except OSError:
        return False


class Keeper:
    """One server, from its start to its end. The server's directory is the current one."""

    def __init__(self, directory: str, socket_path: str, binary: str, linger: float, private: bool) -> None:
        self.directory = directory
        self.socket_path = socket_path
        self.binary = binary
        self.linger = linger
        self.private = private
        self.users = os.open(USERS, os.O_RDWR | os.O_CREAT, 0o600)
        self.child: subprocess.Popen[bytes] | None = None

    def run(self, answers: int) -> None:
        """Start the server, wait for its end, clean up; ``answers`` is a pipe, told whether the server answers."""
        if self.private:  # cleaners of temporary directories pass by a locked one
            fcntl.flock(os.open(".", os.O_RDONLY), fcntl.LOCK_SH)
        started = self.start()
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, b"1" if started else b"")
        os.close(answers)
        if started:
            threading.Thread(target=self.end_when_deserted, daemon=True).start()
            self.wait_for_end()
            with contextlib.suppress(FileNotFoundError):  # a server that was killed leaves its socket
                os.unlink(self.socket_path)
        if self.private:
            self.remove_directory()

    def start(self) -> bool:
        """Have a server that answers: an orphan of a keeper that died, or a new one."""
        deadline = time.monotonic() + PATIENCE
        while (lock := take(SERVER, fcntl.LOCK_EX)) is None:
            if ping(self.socket_path):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
        if self.private and os.path.exists(LOG):  # it crashed: an empty one must not take its place
            return False
        self.child = self.spawn(lock)
        os.close(lock)
        while not is_ready(self.socket_path):
            if self.child.poll() is not None:
                return False
            time.sleep(PAUSE)
        return True

    def spawn(self, lock: int) -> subprocess.Popen[bytes]:
        """Start the server with the lock in its hands; its log begins anew, and the one before is kept."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(LOG, LOG + ".1")
        options = {
            "port": "0",
            "unixsocket": self.socket_path,
            "unixsocketperm": "700",
            "daemonize": "no",
            "save": "",
            "appendonly": "no" if self.private else "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        command = [self.binary, *(word for name, value in options.items() for word in (f"--{name}", value))]
        with open(LOG, "ab") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())  # the keeper's own troubles are told there as well
            # S603: the binary is the one that was installed
            return subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock]
            )

    def wait_until_deserted(self) -> None:
        """Return with the users' lock held, when nobody has come for ``linger`` seconds and nobody is there."""
        while True:
            fcntl.flock(self.users, fcntl.LOCK_EX)
            if not self.linger:
                return
            last_arrival = os.fstat(self.users).st_mtime_ns
            fcntl.flock(self.users, fcntl.LOCK_UN)  # who comes now is welcome
            time.sleep(self.linger)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self.users).st_mtime_ns == last_arrival:
                    return

    def end_when_deserted(self) -> None:
        """End the server after its last user. Newcomers wait for the users' lock meanwhile, then start a new one."""
        self.wait_until_deserted()
        if not shutdown(self.socket_path) and self.child:
            self.child.kill()

    def wait_for_end(self) -> None:
        """Return when the server is gone, for whatever reason."""
        if self.child:
            self.child.wait()
        else:
            lock = os.open(SERVER, os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.close(lock)

    def remove_directory(self) -> None:
        """Leave nothing of a private server, as soon as nobody can ask for the log of a crash any more."""
        import shutil  # slow to load, and not needed before

        fcntl.flock(self.users, fcntl.LOCK_EX)
        shutil.rmtree(self.directory, ignore_errors=True)


def main(directory: str, socket_path: str, binary: str, linger: str, kind: str) -> int:
    """Become the keeper of the directory's server unless there is one; the exit status is the module's."""
    os.umask(0o077)
    os.chdir(directory)
    if take(KEEPER, fcntl.LOCK_EX) is None:
        return 0
    answer, answers = os.pipe()
    if os.fork():
        os.close(answers)
        return 0 if os.read(answer, 1) else 1
    os.close(answer)
    Keeper(directory, socket_path, binary, float(linger), kind == "private").run(answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
