"""Looking through all keys of a server, or of every primary of a cluster."""

from collections.abc import AsyncIterator

from redismem.link.base import Link


async def scanned(link: Link, pattern: str, kind: str, batch_size: int) -> AsyncIterator[list[bytes]]:
    """The names of the keys of one type (as TYPE says it) that match, those of one round trip at a time.

    As SCAN promises: a key that is there from first to last is met; one that comes or goes may be, and one may be met
    twice while the server's table of keys grows or shrinks. About `batch_size` keys are looked at for each round trip.
    """
    for shard in await link.shards():
        cursor = b""
        while cursor != b"0":
            asked = ("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", batch_size, "TYPE", kind)
            cursor, names = await shard.execute(*asked)
            yield list(dict.fromkeys(names))
