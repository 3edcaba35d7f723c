"""What an operator asks of a server first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, TypeVar, cast

from redismem.coordination.lock import LockState
from redismem.errors import LinkError
from redismem.link.features import ExpiryTier

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Health:
    """A server's state in one look; of a cluster's primaries, sums and the worst. What was not told is None."""

    ok: bool
    error: str | None = None
    latency_ms: float | None = None
    """Of the round trip that asked."""
    server: str | None = None
    """Name and version, such as `valkey 9.1.2`."""
    tier: ExpiryTier | None = None
    """How fields expire there."""
    role: str | None = None
    used_memory_bytes: int | None = None
    max_memory_bytes: int | None = None
    """0: no limit."""
    eviction_policy: str | None = None
    aof_enabled: bool | None = None
    aof_last_write_ok: bool | None = None
    last_save: datetime | None = None
    """When the last snapshot was made, or the server started, in UTC (LASTSAVE); in a cluster, the longest ago."""
    rdb_last_save_ok: bool | None = None
    connected_clients: int | None = None
    shards: int = 1
    """Primaries that answered for this."""
    locks: tuple[LockState, ...] = ()
    """The locks that the memory which was asked holds, or waits for, in this process."""

    QUESTIONS: ClassVar[tuple[tuple[str, ...], ...]] = (("PING",), ("INFO",))

    @classmethod
    def down(cls, error: LinkError) -> Self:
        """The server did not answer."""
        return cls(ok=False, error=str(error))

    @classmethod
    def of(cls, replies: Sequence[Any], seconds: float, tier: ExpiryTier) -> Self:
        """From the replies to `QUESTIONS`; a server may refuse INFO and still be well."""
        ping, info = replies
        if isinstance(ping, LinkError):
            return cls.down(ping)
        said = parse_info(info) if isinstance(info, bytes) else {}
        return cls(
            ok=True,
            latency_ms=seconds * 1000,
            server=_server(said),
            tier=tier,
            role=said.get("role"),
            used_memory_bytes=_number(said, "used_memory"),
            max_memory_bytes=_number(said, "maxmemory"),
            eviction_policy=said.get("maxmemory_policy"),
            aof_enabled=_is(said, "aof_enabled", "1"),
            aof_last_write_ok=_is(said, "aof_last_write_status", "ok"),
            last_save=_moment(said, "rdb_last_save_time"),
            rdb_last_save_ok=_is(said, "rdb_last_bgsave_status", "ok"),
            connected_clients=_number(said, "connected_clients"),
        )

    @classmethod
    def together(cls, shards: "Sequence[Health]") -> "Health":
        """Several servers that hold a memory together; one that is down is what counts."""
        first = next((shard for shard in shards if not shard.ok), shards[0])
        if len(shards) == 1 or not first.ok:
            return first
        limits = _all(shard.max_memory_bytes for shard in shards)
        return cls(
            ok=True,
            latency_ms=max(shard.latency_ms or 0.0 for shard in shards),
            server=_each(shard.server for shard in shards),
            tier=first.tier,
            role=_each(shard.role for shard in shards),
            used_memory_bytes=_sum(shard.used_memory_bytes for shard in shards),
            max_memory_bytes=0 if limits is not None and 0 in limits else _sum(limits or (None,)),
            eviction_policy=_each(shard.eviction_policy for shard in shards),
            aof_enabled=_every(shard.aof_enabled for shard in shards),
            aof_last_write_ok=_every(shard.aof_last_write_ok for shard in shards),
            last_save=min(saves) if (saves := _all(shard.last_save for shard in shards)) else None,
            rdb_last_save_ok=_every(shard.rdb_last_save_ok for shard in shards),
            connected_clients=_sum(shard.connected_clients for shard in shards),
            shards=len(shards),
        )


def parse_info(reply: bytes) -> dict[str, str]:
    """The reply to INFO, by name."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _server(said: dict[str, str]) -> str | None:
    if "valkey_version" in said:
        return f"valkey {said['valkey_version']}"
    return f"redis {said['redis_version']}" if "redis_version" in said else None


def _all(values: Iterable[T | None]) -> list[T] | None:
    """The values, if none of them is unknown."""
    known = list(values)
    return None if None in known else cast(list[T], known)


def _sum(values: Iterable[int | None]) -> int | None:
    known = _all(values)
    return None if known is None else sum(known)


def _every(values: Iterable[bool | None]) -> bool | None:
    known = _all(values)
    return None if known is None else all(known)


def _each(values: Iterable[str | None]) -> str | None:
    """What all say, or what each kind of them says."""
    known = _all(values)
    return None if known is None else ", ".join(sorted(set(known)))


def _number(said: dict[str, str], name: str) -> int | None:
    return int(said[name]) if name in said else None


def _moment(said: dict[str, str], name: str) -> datetime | None:
    return datetime.fromtimestamp(int(said[name]), UTC) if name in said else None


def _is(said: dict[str, str], name: str, value: str) -> bool | None:
    return said[name] == value if name in said else None
