"""What the doctor makes of a server's health."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from redismem.errors import Unavailable
from redismem.health import Health
from redismem.link.features import ExpiryTier
from redismem.ops.doctor import Finding, Status, examine

WELL = Health(
    ok=True,
    latency_ms=0.2,
    server="valkey 9.1.2",
    tier=ExpiryTier.HSETEX,
    role="master",
    used_memory_bytes=10 * 2**20,
    max_memory_bytes=100 * 2**20,
    eviction_policy="noeviction",
    aof_enabled=True,
    aof_last_write_ok=True,
    last_save=datetime.fromtimestamp(1, UTC),
    rdb_last_save_ok=True,
    connected_clients=3,
)


def found(health: Health) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(health)}


def test_a_server_in_good_health() -> None:
    findings = examine(WELL)
    assert {finding.status for finding in findings} == {Status.OK}
    assert [f.name for f in findings] == [
        "server",
        "latency",
        "features",
        "expiry",
        "persistence",
        "eviction",
        "memory",
    ]
    assert all(finding.found and finding.advice for finding in findings)


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [
        ("server", {"role": "slave"}, Status.FAIL),
        ("server", {"server": None}, Status.WARN),
        ("latency", {"latency_ms": 30.0}, Status.WARN),
        ("expiry", {"tier": ExpiryTier.HPEXPIRE}, Status.OK),
        ("expiry", {"tier": ExpiryTier.DEADLINES}, Status.WARN),
        ("persistence", {"aof_enabled": False}, Status.WARN),
        ("persistence", {"aof_last_write_ok": False}, Status.FAIL),
        ("persistence", {"rdb_last_save_ok": False}, Status.FAIL),
        ("persistence", {"aof_enabled": None}, Status.WARN),
        ("eviction", {"eviction_policy": "allkeys-lru"}, Status.FAIL),
        ("eviction", {"eviction_policy": "volatile-ttl", "max_memory_bytes": 0}, Status.WARN),
        ("eviction", {"eviction_policy": None}, Status.WARN),
        ("memory", {"max_memory_bytes": 0}, Status.WARN),
        ("memory", {"used_memory_bytes": 95 * 2**20}, Status.FAIL),
        ("memory", {"used_memory_bytes": None}, Status.WARN),
    ],
)
def test_one_thing_is_not_as_it_should_be(name: str, changes: dict[str, object], status: Status) -> None:
    findings = found(replace(WELL, **changes))
    assert findings[name].status is status
    assert findings[name].advice
    assert all(finding.status is Status.OK for finding in findings.values() if finding.name not in (name, "memory"))


def test_a_server_that_does_not_answer() -> None:
    (finding,) = examine(Health.down(Unavailable("nobody there")))
    assert (finding.name, finding.status, finding.found) == ("server", Status.FAIL, "nobody there")
