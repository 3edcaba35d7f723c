"""What an operator asks of a server first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from redismem.errors import LinkError
from redismem.link.features import ExpiryTier


@dataclass(frozen=True, slots=True)
class Health:
    """A server's state in one look. What the server would not tell is None."""

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
    rdb_last_save_at: int | None = None
    """Seconds since the epoch."""
    rdb_last_save_ok: bool | None = None
    connected_clients: int | None = None

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
            rdb_last_save_at=_number(said, "rdb_last_save_time"),
            rdb_last_save_ok=_is(said, "rdb_last_bgsave_status", "ok"),
            connected_clients=_number(said, "connected_clients"),
        )


def parse_info(reply: bytes) -> dict[str, str]:
    """The reply to INFO, by name."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _server(said: dict[str, str]) -> str | None:
    if "valkey_version" in said:
        return f"valkey {said['valkey_version']}"
    return f"redis {said['redis_version']}" if "redis_version" in said else None


def _number(said: dict[str, str], name: str) -> int | None:
    return int(said[name]) if name in said else None


def _is(said: dict[str, str], name: str, value: str) -> bool | None:
    return said[name] == value if name in said else None
