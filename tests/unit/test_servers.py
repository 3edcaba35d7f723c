"""The servers that the other tests stand on are what their names promise, and end when they are told to."""

import os
import shlex
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from tests import servers
from tests.servers import REAL, Missing, Server, Tier, launch, redis_cli

# version, HPEXPIRE, HSETEX
PROMISED = {
    "valkey9": ("9.", True, True),
    "valkey9-nohsetex": ("9.", True, False),
    "redis70": ("7.0.", False, False),
    "redis62": ("6.2.", False, False),
}


@pytest.mark.parametrize("server", REAL, indirect=True)
def test_a_server_has_the_version_and_the_commands_of_its_tier(server: Server) -> None:
    version, hpexpire, hsetex = PROMISED[server.name]
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        info = client.info("server")
    assert info.get("valkey_version", info["redis_version"]).startswith(version)
    assert server.process is not None
    assert info["process_id"] == server.process.pid
    assert bool(redis_cli(server, "COMMAND", "INFO", "hpexpire")) == hpexpire
    assert bool(redis_cli(server, "COMMAND", "INFO", "hsetex")) == hsetex


def test_fakeredis_has_no_process(server: Server) -> None:
    assert (server.url == "memory://") == (server.process is None) == (server.name == "fakeredis")


@pytest.mark.parametrize("_again", [1, 2])
def test_a_shared_server_is_empty_for_each_test(server: Server, _again: int) -> None:
    if server.process is None:
        return
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0
        assert client.script_exists("e0e1f9fabfc9d4800c877a703b823ac0578ff8db") == [False]
        client.set("left", "over")
        client.script_load("return 1")
        assert client.script_exists("e0e1f9fabfc9d4800c877a703b823ac0578ff8db") == [True]


@pytest.mark.parametrize("server", REAL, indirect=True)
def test_the_unix_socket_reaches_the_same_server(server: Server) -> None:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.set("by", "socket")
    assert redis_cli(server, "GET", "by") == "socket"


def test_redis_cli_takes_and_gives_any_bytes(valkey: Server) -> None:
    assert redis_cli(valkey, "-x", "SET", "k", stdin=b"\xff\0\r\n") == "OK"
    assert redis_cli(valkey, "GET", "k").encode("utf-8", "surrogateescape") == b"\xff\0\r\n"


@pytest.mark.parametrize("name", REAL)
def test_data_survives_sigkill_and_restart_on_the_same_port(name: str, new_server: Callable[..., Server]) -> None:
    server = new_server(name, appendonly=True)
    url = server.url
    redis_cli(server, "SET", "a", "1")
    server.kill()
    assert server.process is None
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
        pass
    server.start()
    assert redis_cli(server, "GET", "a") == "1"
    server.restart()
    assert redis_cli(server, "GET", "a") == "1"
    assert server.url == url


def test_without_appendonly_nothing_survives(new_server: Callable[..., Server]) -> None:
    server = new_server()
    redis_cli(server, "SET", "a", "1")
    server.restart()
    assert redis_cli(server, "EXISTS", "a") == "0"


def test_given_arguments_win(new_server: Callable[..., Server]) -> None:
    server = new_server("valkey9", "--appendonly", "yes", "--requirepass", "secret")
    assert redis_cli(server, "GET", "a").startswith("NOAUTH")
    assert redis_cli(server, "-a", "secret", "--no-auth-warning", "CONFIG", "GET", "appendonly") == "appendonly\nyes"


def test_nothing_is_left_after_the_end(new_server: Callable[..., Server]) -> None:
    with launch() as server:
        assert server.process is not None
        process, directory = psutil.Process(server.process.pid), server.directory
        os.kill(process.pid, signal.SIGSTOP)  # even so
    assert not process.is_running()
    assert not directory.exists()


def test_a_port_taken_in_the_meantime_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken, taken])
        free = servers._free_port
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports, None) or free())
        with launch() as server:
            assert server.port != taken
            assert redis_cli(server, "PING") == "PONG"


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="maxmemory-policy"):
        launch("valkey9", "--maxmemory-policy", "nonsense")


@pytest.mark.parametrize("found", [None, "redis-server"])
def test_a_missing_server_says_what_to_install(
    found: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if found is not None:  # another version than the tier's
        found = str(tmp_path / found)
        Path(found).write_text("#!/bin/sh\necho Redis server v=5.0.14\n")
        Path(found).chmod(0o700)
    monkeypatch.setitem(REAL, "redis70", Tier(lambda: found, "7.0.", "apt-get install it"))
    with pytest.raises(Missing, match="apt-get install it"):
        launch("redis70")


@pytest.mark.parametrize("name", ["valkey9", "redis70"])
def test_the_deployed_configuration_is_accepted(name: str, new_server: Callable[..., Server]) -> None:
    text = Path(__file__).parents[2].joinpath("deploy/valkey.conf").read_text()
    directives = [shlex.split(line, comments=True) for line in text.splitlines()]
    mine = ([], ["bind"], ["dir"])  # blank lines, and what depends on the place
    words = [word for directive in directives if directive[:1] not in mine for word in _option(*directive)]
    server = new_server(name, *words)
    assert redis_cli(server, "CONFIG", "GET", "maxmemory-policy") == "maxmemory-policy\nnoeviction"
    assert redis_cli(server, "CONFIG", "GET", "appendonly") == "appendonly\nyes"


def _option(name: str, *values: str) -> tuple[str, ...]:
    return (f"--{name}", *values)
