"""Reads that nobody waits for: an asyncio task each, or, for threads, one after the other in a thread of their own."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Coroutine
from queue import SimpleQueue
from typing import Any

from redismem.errors import RedisMemError
from redismem.op import run

logger = logging.getLogger("redismem")
Work = Coroutine[Any, Any, object]


class Background:
    """Where reads are sent. An error of one is logged, and otherwise the next reader's business."""

    def submit(self, work: Work) -> None:
        """Do this soon."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more will be done."""

    def restart(self) -> None:
        """As if new, in a forked child."""


class Tasks(Background):
    """For coroutines: in the event loop of whoever submits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, work: Work) -> None:
        """See `Background.submit`."""
        task = asyncio.get_running_loop().create_task(_done(work), name="redismem-refresh")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Worker(Background):
    """For threads: a daemon thread that starts with the first work and ends with the memory."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """See `Background.restart`."""
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._is_running = self._is_closed = False
        weakref.finalize(self, self._queue.put, None)

    def submit(self, work: Work) -> None:
        """See `Background.submit`."""
        with self._lock:
            if self._is_closed:
                work.close()
                return
            if not self._is_running:
                threading.Thread(target=_work_off, args=(self._queue,), name="redismem-refresh", daemon=True).start()
                self._is_running = True
        self._queue.put(work)

    def close(self) -> None:
        """See `Background.close`."""
        with self._lock:
            self._is_closed = True
        self._queue.put(None)


def _work_off(queue: "SimpleQueue[Work | None]") -> None:
    while (work := queue.get()) is not None:
        run(_done(work))
    while not queue.empty():
        if (work := queue.get()) is not None:
            work.close()


async def _done(work: Work) -> None:
    try:
        await work
    except RedisMemError as error:
        logger.info("a refresh in the background failed: %s", error)
