"""Real clusters and sentinels for tests, on loopback: found, started, told what to be, and ended here.

`Cluster.launch()` is three primaries with a replica each, `Watched.launch()` a primary with two replicas under three
sentinels. Both are ready when they are returned, and end with `close` or at the end of a `with`. Each server is a
`tests.servers.Server` and is ended by its own process.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis

from tests.servers import REAL, Server, _free_port, launch

SLOTS = 16384
WITHIN = 20.0
"""Seconds that a change of the servers' state may take on a loaded machine."""

_QUICK = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "5")


def ask(server: Server, *words: Any) -> Any:
    """One command's reply, by a connection of its own."""
    with redis.Redis(port=server.port, protocol=2) as client:
        return client.execute_command(*words)


def until(condition: Callable[[], Any], within: float = WITHIN) -> Any:
    """Ask until the answer is true, and return it. What a server answers in the middle of a change is no."""
    deadline = time.monotonic() + within
    while True:
        answer: Any = None
        with suppress(redis.RedisError, OSError):
            answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: the last answer was {answer!r}"
        time.sleep(0.01)


@dataclass
class Cluster:
    """Three primaries, `servers[:3]`, and a replica of each, `servers[3:]`, as they were at first."""

    servers: list[Server]
    stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def launch(cls, *arguments: str, node_timeout: float = 2.0) -> Self:
        """A cluster that serves all slots, each replica in step with its primary. `arguments` go to every server."""
        with ExitStack() as stack:
            words = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(round(node_timeout * 1000)))
            servers = [stack.enter_context(launch("valkey9", *words, *_QUICK, *arguments)) for _ in range(6)]
            cluster = cls(servers, stack.pop_all())
        try:
            cluster._form()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @property
    def url(self) -> str:
        """What a client connects to: two of the nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def slots(self) -> list[Any]:
        """The map, as the first living node tells it."""
        return next(ask(server, "CLUSTER", "SLOTS") for server in self.living())

    def living(self) -> list[Server]:
        """The servers that run."""
        return [server for server in self.servers if server.process is not None]

    def primaries(self) -> list[Server]:
        """The servers that are primaries now."""
        return [server for server in self.living() if ask(server, "ROLE")[0] == b"master"]

    def owner(self, slot: int) -> Server:
        """The primary that serves the slot."""
        port = next(primary[1] for start, end, primary, *_ in self.slots() if start <= slot <= end)
        return next(server for server in self.servers if server.port == port)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(ask(self.living()[0], "CLUSTER", "KEYSLOT", key))

    def begin_move(self, slot: int, target: Server) -> Server:
        """Set the slot on its way, so that both nodes know; returns the node that it leaves."""
        source = self.owner(slot)
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        return source

    def move_keys(self, slot: int, source: Server, target: Server, count: int = 100) -> None:
        """Bring the slot's keys over, so many at a time, until none is left behind."""
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, count):
            ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        """The slot is the target's, and every primary knows."""
        others = [server for server in self.primaries() if server not in (source, target)]
        for server in (target, source, *others):
            ask(server, "CLUSTER", "SETSLOT", slot, "NODE", _id(target))

    def move(self, slots: Iterable[int], target: Server) -> None:
        """Move slots with all that is in them, one after the other, as redis-cli's resharding does."""
        for slot in slots:
            source = self.begin_move(slot, target)
            self.move_keys(slot, source, target)
            self.end_move(slot, source, target)

    def settle(self) -> None:
        """Wait until all living nodes agree on a map without holes and are in step."""
        until(lambda: all(self._is_well(server) for server in self.living()))
        until(lambda: len({str(sorted(map(_shape, ask(server, "CLUSTER", "SLOTS")))) for server in self.living()}) == 1)

    def flush(self) -> None:
        """Forget all data and all scripts."""
        for server in self.primaries():
            ask(server, "FLUSHALL")
            ask(server, "SCRIPT", "FLUSH")

    def close(self) -> None:
        """End every server."""
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _form(self) -> None:
        primaries, replicas = self.servers[:3], self.servers[3:]
        bounds = [0, 5461, 10923, SLOTS]
        for number, server in enumerate(self.servers, 1):
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number)
            if server is not primaries[0]:
                ask(server, "CLUSTER", "MEET", "127.0.0.1", primaries[0].port)
        for server, start, end in zip(primaries, bounds, bounds[1:], strict=False):
            ask(server, "CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        until(lambda: all(_info(server)["cluster_known_nodes"] == "6" for server in self.servers))
        for replica, primary in zip(replicas, primaries, strict=True):
            until(lambda replica=replica, primary=primary: ask(replica, "CLUSTER", "REPLICATE", _id(primary)))
        self.settle()

    def _is_well(self, server: Server) -> bool:
        role = ask(server, "ROLE")
        in_step = role[0] == b"master" or role[3] == b"connected"
        return in_step and _info(server)["cluster_state"] == "ok"


def _info(server: Server) -> dict[str, str]:
    lines = ask(server, "CLUSTER", "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _id(server: Server) -> str:
    return str(ask(server, "CLUSTER", "MYID").decode())


def _shape(row: Sequence[Any]) -> tuple[Any, ...]:
    start, end, primary, *replicas = row
    return start, end, primary[1], sorted(replica[1] for replica in replicas)


@dataclass
class Sentinel:
    """One sentinel, and its directory."""

    directory: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @classmethod
    def launch(cls, primary: Server, service: str, down_after: float, *more: str) -> Self:
        """A sentinel that watches the primary; two of three must agree that it is down."""
        directory, port = Path(tempfile.mkdtemp(prefix="redismem-")), _free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {service} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {service} {round(down_after * 1000)}",
            f"sentinel failover-timeout {service} 1000",
            f"sentinel parallel-syncs {service} 2",
            *more,
        ]
        config = directory / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        with (directory / "sentinel.log").open("wb") as log:
            process = subprocess.Popen(
                [REAL["valkey9"].binary(), str(config), "--sentinel"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return cls(directory, port, process)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for file in self.directory.iterdir():
            file.unlink()
        self.directory.rmdir()


@dataclass
class Watched:
    """A primary and two replicas, of which three sentinels know under the name `service`."""

    servers: list[Server]
    sentinels: list[Sentinel]
    password: str = ""
    sentinel_password: str = ""
    service: str = "main"
    stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def launch(cls, *arguments: str, down_after: float = 1.5, password: str = "", sentinel_password: str = "") -> Self:
        """All of them running, every replica in step, every sentinel knowing of the others."""
        with ExitStack() as stack:
            secret = ("--requirepass", password, "--masterauth", password) if password else ()
            words = (*_QUICK, *secret, *arguments)
            primary = stack.enter_context(launch("valkey9", *words))
            following = ("--replicaof", f"127.0.0.1 {primary.port}")
            replicas = [stack.enter_context(launch("valkey9", *words, *following)) for _ in range(2)]
            lines = [f'sentinel auth-pass main "{password}"'] if password else []
            if sentinel_password:
                lines += f"requirepass {sentinel_password}", f"sentinel sentinel-pass {sentinel_password}"
            sentinels = [
                stack.enter_context(closing(Sentinel.launch(primary, "main", down_after, *lines))) for _ in range(3)
            ]
            watched = cls([primary, *replicas], sentinels, password, sentinel_password, stack=stack.pop_all())
        try:
            watched.settle()
        except BaseException:
            watched.close()
            raise
        return watched

    @property
    def url(self) -> str:
        """What a client connects to."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        users = f":{quote(self.password)}@" if self.password else ""
        query = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        return f"redis+sentinel://{users}{hosts}/{self.service}/0{query}"

    def ask(self, server: Server, *words: Any) -> Any:
        """One command's reply, by a connection of its own."""
        with redis.Redis(port=server.port, password=self.password or None, protocol=2) as client:
            return client.execute_command(*words)

    def primary(self) -> Server:
        """The server that all sentinels name, once they agree."""
        port = until(self._agreed)
        return next(server for server in self.servers if server.port == port)

    def settle(self) -> None:
        """Wait until every server runs in its role and every sentinel knows of all the others."""
        until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels))
        until(lambda: self.ask(self.primary(), "ROLE")[0] == b"master")
        replicas = len([server for server in self.servers if server.process is not None]) - 1
        until(lambda: len(self.ask(self.primary(), "ROLE")[2]) == replicas)

    def failover(self) -> tuple[Server, Server]:
        """Kill the primary, and wait for the next one; returns both."""
        before = self.primary()
        before.kill()
        after = until(lambda: self._other(before))
        return before, after

    def demote(self, primary: Server) -> None:
        """Have a replica take over from a primary that stays alive, and keeps its connections."""
        after = until(lambda: self._left(primary))
        self.ask(primary, "REPLICAOF", "127.0.0.1", after.port)

    def close(self) -> None:
        """End every server and sentinel."""
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _other(self, before: Server) -> Server | None:
        port = self._agreed()
        named = next((server for server in self.servers if server.port == port), None)
        is_other = named is not None and named is not before and self.ask(named, "ROLE")[0] == b"master"
        return named if is_other else None

    def _left(self, before: Server) -> Server | None:
        """The next primary, if there is one; else the first sentinel is asked to see to it, as one attempt may fail."""
        first = self.sentinels[0]
        if int(self._ask_sentinel(first, "GET-MASTER-ADDR-BY-NAME", self.service)[1]) == before.port:
            self._ask_sentinel(first, "FAILOVER", self.service)
        return self._other(before)

    def _agreed(self) -> int | None:
        named = {int(self._ask_sentinel(one, "GET-MASTER-ADDR-BY-NAME", self.service)[1]) for one in self.sentinels}
        return named.pop() if len(named) == 1 else None

    def _knows_all(self, sentinel: Sentinel) -> bool:
        flat = self._ask_sentinel(sentinel, "MASTER", self.service)
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        return state[b"num-other-sentinels"] == b"2" and state[b"num-slaves"] == b"2" and state[b"flags"] == b"master"

    def _ask_sentinel(self, sentinel: Sentinel, *words: str) -> Any:
        with redis.Redis(port=sentinel.port, password=self.sentinel_password or None, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command("SENTINEL", *words)
