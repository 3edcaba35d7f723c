"""Hit ratios of eviction policies on made-up traces: `python bench/traces.py` prints the table of docs/adr/0010.

Each policy is its textbook's shortest form, on keys of one size. The last one is L1 itself: S3-FIFO that, when it is
full, keeps only what is asked for a second time.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import argparse
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script's own path begins with its directory

from redismem.cache.l1 import L1
from redismem.op import UNKNOWN

KEYS = 100_000
REQUESTS = 500_000
NEW = KEYS * 10
"""Keys from here on are asked for once."""


class Policy(Protocol):
    """Keeps some keys."""

    def hit(self, key: int) -> bool:
        """Whether the key was kept; it is now asked for, and may be kept from now on."""
        ...


class LRU:
    """The one used longest ago goes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: OrderedDict[int, None] = OrderedDict()

    def hit(self, key: int) -> bool:
        if key in self.kept:
            self.kept.move_to_end(key)
            return True
        self.kept[key] = None
        if len(self.kept) > self.room:
            self.kept.popitem(last=False)
        return False


class Sieve:
    """A queue and a hand that spares once what was used since it last passed (Zhang, NSDI 2024)."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.used: dict[int, bool] = {}
        self.next: dict[int, int | None] = {}
        self.last: dict[int, int | None] = {}
        self.head: int | None = None
        self.tail: int | None = None
        self.hand: int | None = None

    def hit(self, key: int) -> bool:
        if key in self.used:
            self.used[key] = True
            return True
        if len(self.used) >= self.room:
            self._evict()
        self.used[key], self.next[key], self.last[key] = False, self.head, None
        if self.head is not None:
            self.last[self.head] = key
        self.head = key
        self.tail = key if self.tail is None else self.tail
        return False

    def _evict(self) -> None:
        hand = self.tail if self.hand is None else self.hand
        while hand is not None and self.used[hand]:
            self.used[hand] = False
            before = self.last[hand]
            hand = self.tail if before is None else before
        assert hand is not None
        self.hand = before = self.last[hand]
        after = self.next[hand]
        if before is None:
            self.head = after
        else:
            self.next[before] = after
        if after is None:
            self.tail = before
        else:
            self.last[after] = before
        del self.used[hand], self.next[hand], self.last[hand]


class S3FIFO:
    """Three queues: new keys in a small one, those used again in the main one, and the names of those that went
    (Yang, SOSP 2023)."""

    def __init__(self, room: int) -> None:
        self.room, self.small_room = room, max(1, room // 10)
        self.uses: dict[int, int] = {}
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def hit(self, key: int) -> bool:
        if key in self.uses:
            self.uses[key] = min(3, self.uses[key] + 1)
            return True
        known = key in self.ghosts
        self.ghosts.pop(key, None)
        while len(self.uses) >= self.room:
            self._evict()
        self.uses[key] = 0
        (self.main if known else self.small).append(key)
        return False

    def _evict(self) -> None:
        if len(self.small) >= self.small_room or not self.main:
            key = self.small.popleft()
            if self.uses[key]:
                self.uses[key] = 0
                self.main.append(key)
                return
            del self.uses[key]
            self.ghosts[key] = None
            if len(self.ghosts) > self.room:
                self.ghosts.popitem(last=False)
            return
        key = self.main.popleft()
        if self.uses[key]:
            self.uses[key] -= 1
            self.main.append(key)
        else:
            del self.uses[key]


class TinyLFU:
    """W-TinyLFU (Einziger, ToS 2017): a small LRU, then a segmented LRU that takes in only what was asked for more
    often than what would go. The counts are exact here, and halved from time to time."""

    def __init__(self, room: int) -> None:
        self.window_room = max(1, room // 100)
        self.main_room = max(1, room - self.window_room)
        self.protected_room = self.main_room * 8 // 10
        self.window: OrderedDict[int, None] = OrderedDict()
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.protected: OrderedDict[int, None] = OrderedDict()
        self.counts: Counter[int] = Counter()
        self.asked, self.sample = 0, 10 * room

    def hit(self, key: int) -> bool:
        self._count(key)
        if key in self.window:
            self.window.move_to_end(key)
            return True
        if key in self.protected:
            self.protected.move_to_end(key)
            return True
        if key in self.probation:
            del self.probation[key]
            self.protected[key] = None
            if len(self.protected) > self.protected_room:
                self.probation[self.protected.popitem(last=False)[0]] = None
            return True
        self.window[key] = None
        if len(self.window) > self.window_room:
            self._admit(self.window.popitem(last=False)[0])
        return False

    def _admit(self, key: int) -> None:
        if len(self.probation) + len(self.protected) >= self.main_room:
            victim = next(iter(self.probation or self.protected))
            if self.counts[key] <= self.counts[victim]:
                return
            del (self.probation if victim in self.probation else self.protected)[victim]
        self.probation[key] = None

    def _count(self, key: int) -> None:
        self.asked += 1
        self.counts[key] = min(15, self.counts[key] + 1)
        if self.asked >= self.sample:
            self.asked //= 2
            self.counts = Counter({key: count // 2 for key, count in self.counts.items() if count > 1})


class Real:
    """`redismem.cache.l1.L1` itself."""

    def __init__(self, room: int) -> None:
        self.l1 = L1(room, room * 10_000, lambda: 0.0)
        self.l1.good_until = 1.0

    def hit(self, key: int) -> bool:
        name = str(key)
        if self.l1.get(name, b"f") is not UNKNOWN:
            return True
        if self.l1.admits(name, (b"f",)):
            fill, _ = self.l1.fill(name, (b"f",), 1.0)
            self.l1.end(fill, {b"f": (b"", 1.0, 1)})
        return False


POLICIES: dict[str, Callable[[int], Policy]] = {
    "LRU": LRU,
    "SIEVE": Sieve,
    "S3-FIFO": S3FIFO,
    "W-TinyLFU": TinyLFU,
    "L1": Real,
}


def zipf(skew: float, requests: int, draw: np.random.Generator) -> np.ndarray:
    """Keys as often as Zipf's law says: the n-th with weight 1 / n ** skew."""
    weights = 1 / np.arange(1, KEYS + 1) ** skew
    return draw.choice(KEYS, size=requests, p=weights / weights.sum())


def with_scans(trace: np.ndarray, every: int, length: int) -> np.ndarray:
    """The trace, interrupted by runs over keys that are never asked for again."""
    pieces: list[np.ndarray] = []
    for start in range(0, len(trace), every):
        first = NEW + start // every * length
        pieces += trace[start : start + every], np.arange(first, first + length)
    return np.concatenate(pieces)


def shifting(trace: np.ndarray, every: int) -> np.ndarray:
    """The trace, whose popular keys are others every so often."""
    return (trace + np.arange(len(trace)) // every * 7_919) % KEYS


def traces(requests: int, room: int) -> Iterator[tuple[str, np.ndarray]]:
    """What is asked for, by name; the same at every run."""
    draw = np.random.default_rng(7)
    for skew in (0.7, 0.9, 1.1):
        yield f"Zipf {skew}", zipf(skew, requests, draw)
    for skew in (0.7, 0.9, 1.1):
        yield f"Zipf {skew}, scans", with_scans(zipf(skew, requests, draw), 5 * room, 2 * room)
    yield "Zipf 0.9, shifting", shifting(zipf(0.9, requests, draw), requests // 10)


def ratio(policy: Policy, trace: Sequence[int]) -> tuple[float, float]:
    """Share of hits among the keys that come again, and microseconds for each request."""
    began = time.perf_counter()
    hits = sum(map(policy.hit, trace))
    return hits / sum(key < NEW for key in trace), (time.perf_counter() - began) / len(trace) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    requests = parser.parse_args().requests
    print("| room | trace |", " | ".join(POLICIES), "|\n|---|---|", "---|" * len(POLICIES), sep="")
    for room in (1_000, 10_000):
        for name, trace in traces(requests, room):
            asked = trace.tolist()
            cells = [f"{100 * ratio(policy(room), asked)[0]:.1f} %" for policy in POLICIES.values()]
            print(f"| {room:,} | {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
