"""What every store is made of."""

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from redismem.cache.reads import Reads, clock, drop, is_anything_kept
from redismem.codec import Codec
from redismem.config import Settings
from redismem.durability import Durability, Receipt
from redismem.errors import ConfigError
from redismem.keys import Keys
from redismem.link.base import Link
from redismem.op import Batched
from redismem.operations import Operations
from redismem.stores.recent import Recent

if TYPE_CHECKING:
    from redismem.batch import BatchLink


_ASK_AGAIN: Final = 600.0
"""Seconds: clocks drift, and another server may have taken over."""
_SURE: Final = 0.02
"""Seconds: an answer that took longer is off by up to half of that, such as when it opened the connection."""
_ATTEMPTS: Final = 3


class ServerClock:
    """The server's time: asked now and then, and carried on by this process' clock. Until it is asked, that's time."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._asked = 0.0

    def seconds(self) -> float:
        """Since 1970."""
        return time.time() if self._ahead is None else clock() + self._ahead

    async def asked(self, link: Link) -> float:
        """`seconds`, by the server's clock in any case: a round trip, the first time and every ten minutes.

        Up to three if answers come slowly: then the one that came soonest counts.
        """
        if self._ahead is None or clock() > self._asked + _ASK_AGAIN:
            soonest = math.inf
            for _ in range(_ATTEMPTS):
                before = clock()
                seconds, micros = await link.execute("TIME")
                self._asked = clock()
                if (took := self._asked - before) < soonest:
                    soonest, self._ahead = took, int(seconds) + int(micros) / 1e6 - before - took / 2
                if soonest < _SURE:
                    break
        return self.seconds()


@dataclass(frozen=True, slots=True)
class Shared:
    """One memory's parts, shared by its stores."""

    settings: Settings
    link: Link
    keys: Keys
    codec: Codec
    recent: Recent
    operations: Operations
    replicas: dict[str, Any] = field(default_factory=dict[str, Any])
    """What this process searches, by kind."""
    used: dict[tuple[str, str], deque[str]] = field(default_factory=dict[tuple[str, str], deque[str]])
    """Which documents were used, by kind and scope, that the server was not told of yet."""
    l1: Reads | None = None
    """What reads on `Reads.link` go through; None: reads go to the server. Writes tell it, whatever their link."""
    clock: ServerClock = field(default_factory=ServerClock)

    @classmethod
    def of(cls, settings: Settings, link: Link, *, awaited: bool = False) -> Self:
        """The parts that these settings describe, on this link. `awaited`: for tasks, not for threads."""
        codec = Codec(settings.compress_threshold, settings.compression, settings.max_value_bytes)
        keys = Keys(settings.prefix)
        l1 = None if settings.coherence == "off" else Reads(settings, link, keys, codec, awaited=awaited)
        return cls(settings, link, keys, codec, Recent(), Operations(settings.operation_memory), l1=l1)

    def drop(self, name: str) -> None:
        """This process has changed a hash, or may have: what its memories keep of it is forgotten."""
        if is_anything_kept():
            drop(self.link, name)

    async def aclose(self) -> None:
        """Close the link, and what listens for L1."""
        if self.l1 is not None:
            await self.l1.aclose()
        await self.link.aclose()

    def on(self, link: Link) -> Self:
        """The same parts on another link."""
        return replace(self, link=link)


class Store:
    """A kind of memory: what its operations need."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._link = shared.link
        self._keys = shared.keys
        self._codec = shared.codec
        self._l1 = shared.l1 if shared.l1 is not None and shared.l1.link is shared.link else None

    async def _receipt(self, durable: Durability | None) -> Receipt | None:
        """The receipt for a write, None where nothing is to be waited for. Raises `ConfigError`, `LinkError`."""
        wish = self._settings.durable if durable is None else durable
        if wish is not None and not isinstance(wish, Durability):
            raise ConfigError(f"durable={wish!r}: give a Durability, such as Durability(replicas=1)")
        if not wish:
            return None
        if wish.fsync and not (await self._link.features()).waitaof:
            raise ConfigError(f"{self._link.endpoint.name}: fsync needs a server with WAITAOF; nothing was written")
        return Receipt(wish)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._link.endpoint.name}>"


class BatchedStore(Store, Batched):
    """A store inside a batch: its operations give handles."""

    _link: "BatchLink"

    @property
    def batch(self) -> "BatchLink":
        """See `Batched.batch`."""
        return self._link
