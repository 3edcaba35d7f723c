"""Who holds a lock now, on the whole server: what an operator looks at. Nothing is changed by looking."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redismem.errors import InvalidKey, LinkError, WrongType
from redismem.keys import Keys
from redismem.link.base import Link
from redismem.link.scan import scanned
from redismem.scripts import script, surely


@dataclass(frozen=True, slots=True)
class Holder:
    """One grant of one lock."""

    user_id: str
    name: str
    owner: str
    """A random id, new each time that a lock is asked for."""
    shared: bool
    """Whether it is a reader, of which there may be several."""
    token: int
    """The fencing token."""
    left: float
    """Seconds that are left of the lease, by the server's clock."""
    waiters: int
    """How many wait for the lock, as far as they are believed to be alive."""


async def holders(link: Link, keys: Keys, batch_size: int = 100) -> AsyncIterator[Holder]:
    """All holders of locks, in no order, those of one lock together; two round trips for each batch of keys.

    As SCAN promises: a lock that is held from first to last is met, perhaps twice. Raises `LinkError`.
    """
    look = script("lock_look", (await link.features()).tier)
    async for names in scanned(link, keys.lock_pattern(), "hash", batch_size):
        places = list(_places(keys, names))
        asked = [look.command((keys.lock(*place), keys.lock_waiting(*place)), ()) for place in places]
        replies = await link.pipeline(list(surely(asked))) if asked else []
        for place, reply in zip(places, replies, strict=True):
            for holder in _holders_of(place, reply):
                yield holder


def _places(keys: Keys, names: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield keys.lock_names_of(name)
        except InvalidKey:  # not a key of ours: no id is written like that
            continue


def _holders_of(place: tuple[str, str], reply: Any) -> Iterator[Holder]:
    if isinstance(reply, WrongType):  # a key beside it that is none of ours
        return
    if isinstance(reply, LinkError):
        raise reply
    waiters, *said = reply
    for owner, mode, token, left in zip(*(iter(said),) * 4, strict=True):
        yield Holder(*place, owner.decode(), mode == b"r", int(token), int(left) / 1000, int(waiters))
