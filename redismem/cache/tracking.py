"""The listener: one thread that hears from every server which hashes change, and says how long L1 may be believed.

Every quarter of the bound it asks each server something. An answer comes behind all that the server had to tell when it
was asked, so whatever is kept may be served until the bound has passed since the oldest of the last questions that
were answered: `L1.good_until`. That holds whatever becomes of the connection, the thread, or a process that was
stopped: nobody has to notice anything for L1 to be bypassed in time.

When a connection breaks, and in a cluster when its primaries are others, L1 is emptied, and bypassed until every
primary is listened to again. Of a server that does not tell of changes, nothing is served for longer than the bound.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from redismem.cache.l1 import L1
from redismem.errors import LinkClosed
from redismem.keys import Keys
from redismem.link.base import Link
from redismem.link.changes import Changes, Untold

logger = logging.getLogger("redismem")

_JOINS_WITHIN: Final = 5.0


class Listener:
    """Keeps one L1 true. It knows nothing of the memory that it works for, so that one can be forgotten."""

    def __init__(self, l1: L1[Any], link: Link, keys: Keys, bound: float) -> None:
        self.untold = False
        """Whether the server refused to tell."""
        self._l1 = l1
        self._link = link
        self._keys = keys
        self._bound = bound
        self._stop = asyncio.Event()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._run, name="redismem-listener", daemon=True)
        self._servers: Sequence[Changes] = ()
        self._checked = -math.inf
        self._is_on = False

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Wait for the end."""
        if self._thread is not threading.current_thread():
            self._thread.join(_JOINS_WITHIN)

    # --- what servers tell ------------------------------------------------------------------------------------------

    def changed(self, name: str) -> None:
        """See `Hears.changed`."""
        self._l1.invalidate(self._keys.kept_hash(name))

    def changed_all(self) -> None:
        """See `Hears.changed_all`."""
        self._l1.invalidations += 1
        self._l1.flush()

    def answered(self) -> None:
        """A server has answered: L1 is good for a while."""
        oldest = min(self._checked, *(server.answered for server in self._servers))
        if oldest == -math.inf:
            return
        if not self._is_on:
            self._l1.flush()  # reads that began before everybody was listened to are not stored
            self._is_on = True
        self._l1.good_until = oldest + self._bound

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        work, stop = asyncio.create_task(self._work()), asyncio.create_task(self._stop.wait())
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stop):
            task.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)

    async def _work(self) -> None:
        failures = 0
        while True:
            error = await self._broken()
            failures = 1 if self._is_on else failures + 1
            self._lose()
            if isinstance(error, Untold):
                self._fall_back(error)
            if isinstance(error, (Untold, LinkClosed)):
                return
            if failures == 1:
                logger.warning("%s: L1 is bypassed: %s", self._link.endpoint.name, error)
            await asyncio.sleep(self._link.patience.delay(failures))

    async def _broken(self) -> Exception:
        """Listen until something breaks: what."""
        try:
            await self._listen()
        except ExceptionGroup as group:
            return group.exceptions[0]
        except Exception as error:  # whatever it is, L1 is bypassed until it is over
            return error

    async def _listen(self) -> NoReturn:
        """Listen to everybody until something breaks, which is raised."""
        shards = await self._link.shards()
        patience, clock = self._link.patience, self._l1.clock
        self._servers = [Changes(shard.endpoint, patience, clock) for shard in shards]
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.listen(self._keys.kept_prefixes(), self, self.answered))
            while True:
                now = self._l1.clock()
                if set(await self._link.shards()) != set(shards):
                    raise ConnectionError("the cluster has other primaries")
                self._link.refuse_if_closed()
                self._checked = now
                for server in self._servers:
                    await server.ask()
                await asyncio.sleep(self._bound / 4)

    def _lose(self) -> None:
        self._l1.good_until = -math.inf
        self._is_on = False
        self._servers, self._checked = (), -math.inf
        self._l1.flush()

    def _fall_back(self, error: Untold) -> None:
        logger.warning(
            "%s: the server does not tell of changes (%s): what L1 keeps is read again after at most %g s",
            self._link.endpoint.name,
            error,
            self._bound,
        )
        self.untold = True
        self._l1.good_until = math.inf
