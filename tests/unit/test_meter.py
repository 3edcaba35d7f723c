"""Measuring: percentiles out of buckets, and sums of meters."""

import random

import pytest

from redismem.ops.replay.meter import Latencies, Meter


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_percentiles_are_within_one_percent(fraction: float) -> None:
    chance = random.Random(1)
    times = sorted(chance.lognormvariate(-7, 1.5) for _ in range(10_000))
    latencies = Latencies()
    for time in times:
        latencies.add(time)
    assert latencies.percentile(fraction) == pytest.approx(times[round(fraction * len(times)) - 1], rel=0.011)


def test_no_calls_and_no_time() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) == 0.0
    latencies.add(0.0)
    assert 0 < latencies.percentile(0.5) < 1e-6


async def test_meters_add_up() -> None:
    one, other = Meter(messages=1, round_trips=2), Meter(lost=1, torn=4)
    assert await one.time(answer()) == 42
    with other.timing(operations=7):
        pass
    one.merge(other)
    assert (one.messages, one.round_trips, one.lost, one.torn, one.operations) == (1, 2, 1, 4, 8)
    assert one.latencies.percentile(1.0) >= one.latencies.percentile(0.5) > 0


async def answer() -> int:
    return 42
