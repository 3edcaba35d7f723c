"""A TCP proxy on loopback that fails on demand.

It passes on what it gets until it is told otherwise, and it may be told at any time, from any thread: what `Faults`
each direction has, which connections they touch, whose replies are cut off, whether anybody may connect. It runs in a
thread of its own, so it neither needs an event loop nor disturbs one. What it passes on it does not understand. When
its block ends, so do its connections, its thread, and all that it had held back.
"""

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from redismem.chaos.connection import CHUNK, Connection, Stream, abort
from redismem.chaos.faults import Cutting, Faults

T = TypeVar("T")

_ANSWERS_WITHIN: Final = 20.0
_BACKLOG: Final = 4096


@dataclass(frozen=True, slots=True)
class Counts:
    """What a proxy has seen and done."""

    connections: int = 0
    """Accepted since the beginning."""
    open: int = 0
    """Connections whose client is still there."""
    request_bytes: int = 0
    """Passed on to the server."""
    reply_bytes: int = 0
    """Passed on to clients."""
    resets: int = 0
    """Connections that were reset, except by `ChaosProxy.cut_replies`."""
    cuts: int = 0
    """Connections that `ChaosProxy.cut_replies` ended."""


class ChaosProxy:
    """Forwards to `target`, a port of 127.0.0.1 or ``"host:port"``, while its ``with`` block runs.

    Clients connect to `port` of 127.0.0.1, or to `url`. `seed` makes chance the same every time, as far as packets
    come the same way. Outside of the block `reset`, `half_open`, `refusing` and `heal` raise `RuntimeError`. Raises
    `ValueError` for what is no target.
    """

    def __init__(self, target: int | str, *, seed: int | None = None) -> None:
        self.port = 0
        """Where the proxy listens on 127.0.0.1; known from the beginning of the block."""
        self.dice = random.Random(seed)
        self.cutting: Cutting | None = None
        self._target = _address(target)
        self._requests = self._replies = Faults()
        self._only: Callable[[bytes], bool] | None = None
        self._failure: Exception | None = None
        self._tally = dict.fromkeys(Counts.__slots__, 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exits = ExitStack()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """What a memory connects to: database 0 behind the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def counts(self) -> Counts:
        """What the proxy has seen and done so far."""
        return Counts(**self._tally | {"open": sum(one.is_open for one in self._connections.copy())})

    # --- what may be set --------------------------------------------------------------------------------------------

    @property
    def requests(self) -> Faults:
        """What happens to what clients send. Assign other `Faults` at any time; open connections obey them too."""
        return self._requests

    @requests.setter
    def requests(self, faults: Faults) -> None:
        self._requests = faults
        self._tell()

    @property
    def replies(self) -> Faults:
        """What happens to what the server sends; as `requests`."""
        return self._replies

    @replies.setter
    def replies(self, faults: Faults) -> None:
        self._replies = faults
        self._tell()

    @property
    def only(self) -> Callable[[bytes], bool] | None:
        """Which connections the proxy's faults touch: those of which this says true. None: all.

        It is asked about what the client has sent so far, again whenever there is more, up to 16 KiB:
        ``proxy.only = lambda sent: b"TRACKING" in sent``. What it raises is raised at the end of the block.
        """
        return self._only

    @only.setter
    def only(self, chooses: Callable[[bytes], bool] | None) -> None:
        self._only = chooses
        self._tell()

    @property
    def refusing(self) -> bool:
        """Whether nobody can connect, as if there were no server. Connections that are open stay open."""
        return self._listening is None

    @refusing.setter
    def refusing(self, refusing: bool) -> None:
        self._wait_for(self._refuse() if refusing else self._listen())

    # --- what may be done -------------------------------------------------------------------------------------------

    def cut_replies(self, part: float = 1.0, *, to: bytes = b"", times: int | None = None) -> None:
        """Drop replies whose requests were forwarded, and reset their connections: applied, but not acknowledged.

        When replies come, they are cut with the probability `part`, if what was asked since the last ones contains
        `to`: with a key's name, handshakes are left alone. The server's side is closed in good order, so whatever was
        sent to it is done. After `times` cuts it is over. ``part=0`` ends it at once.
        Raises `ValueError` for a `part` that is no probability.
        """
        if not 0 <= part <= 1:
            raise ValueError(f"part is {part!r}: it must be from 0 to 1")
        self.cutting = Cutting(part, to, times) if part and times != 0 else None

    def reset(self) -> int:
        """Reset (RST) both sides of the open connections; returns of how many."""
        return self._wait_for(self._each(Connection.reset))

    def half_open(self) -> int:
        """Close the server's side of the open connections and tell no client; returns of how many."""
        return self._wait_for(self._each(Connection.half_open))

    def heal(self) -> None:
        """Be an ordinary proxy again. Half-open connections stay as they are."""
        self._requests = self._replies = Faults()
        self._only = self.cutting = None
        self._tell()
        self.refusing = False

    # --- its life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Bound, but never listening, it keeps the port for us while nobody may connect.
            self.port = stack.enter_context(_bound(0)).getsockname()[1]
            self._loop = stack.enter_context(_loop_in_a_thread())
            stack.callback(lambda: self._wait_for(self._end()))
            self._wait_for(self._listen())
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("a ChaosProxy works in its `with` block")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_ANSWERS_WITHIN)

    async def _listen(self) -> None:
        if self._listening is None:
            bound = _bound(self.port)
            self._listening = await asyncio.start_server(self._accept, sock=bound, limit=CHUNK, backlog=_BACKLOG)

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _each(self, do: Callable[[Connection], None]) -> int:
        chosen = [one for one in self._connections if one.is_open and one.is_chosen]
        for one in chosen:
            do(one)
        return len(chosen)

    async def _end(self) -> None:
        await self._refuse()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # also asyncio's own, amid accepting somebody
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()  # which has looked up the server's name
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.note("connections")
        task = asyncio.get_running_loop().create_task(self._serve((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Stream) -> None:
        try:
            server = await asyncio.open_connection(*self._target, limit=CHUNK)
        except (OSError, asyncio.CancelledError):  # there is no server, or the proxy ends
            abort(client[1])
            return
        connection = Connection(self, client, server)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    # --- what its connections tell and ask, in its loop ---------------------------------------------------------------

    def note(self, what: str, count: int = 1) -> None:
        """Count one of `Counts`."""
        self._tally[what] += count

    def chooses(self, sent: bytes) -> bool:
        """Whether faults touch a connection whose client has sent this."""
        try:
            return self._only is None or self._only(sent)
        except Exception as error:  # it is the caller's to hear of
            self._failure = self._failure or error
            return False

    def takes_cut(self, cutting: Cutting) -> bool:
        """Use up one of the cuts; false if somebody has ordered otherwise meanwhile."""
        if cutting is not self.cutting:
            return False
        if cutting.times is not None:
            cutting.times -= 1
            self.cutting = cutting if cutting.times else None
        return True

    async def change(self) -> None:
        """Wait until somebody has set something."""
        await self._changed.wait()

    def _tell(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@contextmanager
def _loop_in_a_thread() -> Generator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chaos-proxy", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _address(target: int | str) -> tuple[str, int]:
    host, _, port = (f"127.0.0.1:{target}" if isinstance(target, int) else target).rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"target is {target!r}: it must be a port or 'host:port'")
    return host.strip("[]"), int(port)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
