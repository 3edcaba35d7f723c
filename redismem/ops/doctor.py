"""What an operator should know about a server before trusting it with memory: findings, each with advice."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from redismem.health import Health
from redismem.link.features import ExpiryTier

SLOW_MS: Final = 5.0
FULL: Final = 0.9


class Status(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do or to know about it."""

    name: str
    status: Status
    found: str
    advice: str


def examine(health: Health) -> list[Finding]:
    """Everything there is to say of this health, the server itself first."""
    return list(_examine(health))


def _examine(health: Health) -> Iterator[Finding]:
    if not health.ok:
        yield Finding("server", Status.FAIL, health.error or "no answer", "check the URL, and that the server is up")
        return
    yield _server(health)
    yield _latency(health)
    yield _features(health)
    yield _expiry(health)
    yield _persistence(health)
    yield _eviction(health)
    yield _memory(health)


def _server(health: Health) -> Finding:
    if health.server is None:
        return _unknown("server")
    found = f"{health.server}, {health.role}"
    if health.role == "master":
        return Finding("server", Status.OK, found, "takes reads and writes")
    return Finding("server", Status.FAIL, found, "connect to the primary: a replica takes no writes")


def _latency(health: Health) -> Finding:
    found = f"{health.latency_ms:.2f} ms for a round trip"
    if (health.latency_ms or 0) <= SLOW_MS:
        return Finding("latency", Status.OK, found, "close enough for one round trip per call")
    return Finding("latency", Status.WARN, found, "bring workers and server closer together, or use batch()")


_FEATURES: Final = {
    ExpiryTier.HSETEX: "HSETEX, HPEXPIRE",
    ExpiryTier.HPEXPIRE: "HPEXPIRE",
    ExpiryTier.DEADLINES: "neither HSETEX nor HPEXPIRE",
}


def _features(health: Health) -> Finding:
    if health.tier is None:
        return _unknown("features")
    advice = "asked with COMMAND INFO, never guessed from a version"
    return Finding("features", Status.OK, _FEATURES[health.tier], advice)


def _expiry(health: Health) -> Finding:
    match health.tier:
        case ExpiryTier.HSETEX:
            return Finding("expiry", Status.OK, health.tier, "a value and its TTL are written by one command")
        case ExpiryTier.HPEXPIRE:
            return Finding(
                "expiry", Status.OK, health.tier, "exact; Redis 8 or Valkey 9 would save a command per write"
            )
        case ExpiryTier.DEADLINES:
            advice = "exact, but every read runs a script: Redis 8 or Valkey 9 expire fields by themselves"
            return Finding("expiry", Status.WARN, health.tier, advice)
        case None:
            return _unknown("expiry")


def _persistence(health: Health) -> Finding:
    if health.aof_enabled is None:
        return _unknown("persistence")
    if health.aof_enabled and not health.aof_last_write_ok:
        return Finding(
            "persistence", Status.FAIL, "AOF, but its last write failed", "look at the server's log and disk"
        )
    if not health.rdb_last_save_ok:
        return Finding("persistence", Status.FAIL, "the last snapshot failed", "look at the server's log and disk")
    if health.aof_enabled:
        return Finding("persistence", Status.OK, "AOF", "a crash costs a second at most with appendfsync everysec")
    advice = "a crash loses all since the last snapshot, if any: set appendonly yes, or embedded:///directory"
    return Finding("persistence", Status.WARN, "no AOF", advice)


def _eviction(health: Health) -> Finding:
    policy = health.eviction_policy
    if policy is None:
        return _unknown("eviction")
    if policy == "noeviction":
        return Finding("eviction", Status.OK, policy, "a full server refuses writes and forgets nothing")
    status = Status.FAIL if health.max_memory_bytes else Status.WARN
    return Finding("eviction", status, policy, "a full server drops sessions: set maxmemory-policy noeviction")


def _memory(health: Health) -> Finding:
    used, most = health.used_memory_bytes, health.max_memory_bytes
    if used is None or most is None:
        return _unknown("memory")
    if most == 0:
        advice = "set maxmemory, so that a full server refuses writes before the system kills it"
        return Finding("memory", Status.WARN, f"{_mebibytes(used)} used, no limit", advice)
    found = f"{_mebibytes(used)} of {_mebibytes(most)} used"
    if used < FULL * most:
        return Finding("memory", Status.OK, found, "room to grow")
    return Finding("memory", Status.FAIL, found, "writes will be refused soon: raise maxmemory, or shorten TTLs")


def _unknown(name: str) -> Finding:
    return Finding(name, Status.WARN, "the server does not say", "allow the user to call INFO")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
