"""Watchdogs: leases are renewed until they are released or lost, by one thread that ends when there are none."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from redismem.coordination.watchdog import TaskWatchdog, ThreadWatchdog, Watchdog

WITHIN = 20.0


class Lease:
    """A lease of some seconds on a server that answers, refuses, or is away."""

    def __init__(self, seconds: float, *, answers: bool = True) -> None:
        self.seconds = seconds
        self.answers = answers
        self.ends = time.monotonic() + seconds
        self.tries = 0
        self.losses = 0

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    @property
    def lost(self) -> bool:
        return self.left <= 0

    async def renew(self) -> None:
        self.tries += 1
        if self.answers:
            self.ends = time.monotonic() + self.seconds

    def lose(self) -> None:
        self.losses += 1


class Silent(Lease):
    """The server never says anything."""

    async def renew(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture(params=[ThreadWatchdog, TaskWatchdog])
async def dog(request: pytest.FixtureRequest) -> Watchdog:
    kind: type[Watchdog] = request.param
    return kind()


def watching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "redismem-watchdog"}


async def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


async def test_a_lease_is_renewed_until_it_is_released(dog: Watchdog) -> None:
    lease = Lease(2.0)
    lease.ends -= 1.9
    dog.watch(lease)
    await eventually(lambda: lease.tries > 0)
    assert lease.left > 0.5
    dog.forget(lease)
    dog.forget(lease)
    assert lease.losses == 0


async def test_a_renewal_that_fails_is_tried_again_before_the_lease_ends(dog: Watchdog) -> None:
    lease = Lease(0.5, answers=False)
    dog.watch(lease)
    await eventually(lambda: lease.losses > 0)
    assert lease.tries >= 2
    tries = lease.tries
    await asyncio.sleep(0.05)
    assert (lease.tries, lease.losses) == (tries, 1)
    dog.forget(lease)


async def test_a_task_learns_of_a_loss_while_the_server_is_silent() -> None:
    lease, dog = Silent(0.1), TaskWatchdog()
    dog.watch(lease)
    await eventually(lambda: lease.losses > 0)
    dog.forget(lease)


async def test_one_thread_serves_one_lock_after_the_other_and_ends() -> None:
    before, dog = watching(), ThreadWatchdog()
    threads: set[threading.Thread] = set()
    for _ in range(50):
        lease = Lease(30.0)
        dog.watch(lease)
        threads |= watching() - before
        dog.forget(lease)
    # a machine that stalls for longer than a thread lingers makes it some more
    assert len(threads) <= 10, "a thread for each lock would cost more than the lock"
    await eventually(lambda: not watching() - before)


async def test_a_short_lease_is_not_kept_waiting_behind_a_long_one() -> None:
    dog, long, short = ThreadWatchdog(), Lease(3_000.0), Lease(0.3)
    dog.watch(long)
    dog.watch(short)
    await eventually(lambda: short.tries >= 2)
    assert (long.tries, short.losses) == (0, 0)
    dog.forget(long)
    dog.forget(short)
