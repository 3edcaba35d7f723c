"""One connection through a proxy: a client, the server, and what is on the way between them.

Each direction is a lane that takes in and passes on at the same time, so a packet's delay keeps nobody from sending
the next one. All of it runs in the proxy's loop.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redismem.chaos.faults import Cutting, Faults

if TYPE_CHECKING:
    from redismem.chaos.proxy import ChaosProxy

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK: Final = 64 * 1024
_MOST_ON_THE_WAY: Final = 16 * 1024 * 1024
_OPENING: Final = 16 * 1024
_NO_FAULTS: Final = Faults()
_CLOSE_BY_RESET: Final = struct.pack("ii", 1, 0)


def abort(writer: asyncio.StreamWriter) -> None:
    """Close with a RST instead of a FIN."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_BY_RESET)
    writer.transport.abort()


def finish(writer: asyncio.StreamWriter) -> None:
    """Send a FIN behind all that was written; the other side may still speak."""
    with suppress(OSError):  # it broke just now
        writer.write_eof()


async def _hear_out(reader: asyncio.StreamReader) -> None:
    """Read to the end: a connection that is closed with something unread in it is reset."""
    with suppress(ConnectionError):
        while await reader.read(CHUNK):
            pass


class Connection:
    """Passes on until a side ends, or until it is told how to end."""

    def __init__(self, proxy: "ChaosProxy", client: Stream, server: Stream) -> None:
        self.proxy = proxy
        self.is_open = True
        self._client_sends, self._client = client
        self._server_sends, self._server = server
        self._opening = b""
        self._asked = b""
        self._verdict: tuple[object, int, bool] = (None, -1, True)
        self._ended = asyncio.get_running_loop().create_future()
        self._is_half_open = False

    @property
    def is_chosen(self) -> bool:
        """Whether the proxy's faults touch this connection."""
        only, known = self.proxy.only, len(self._opening)
        if self._verdict[:2] != (only, known):
            self._verdict = (only, known, self.proxy.chooses(self._opening))
        return self._verdict[2]

    async def run(self) -> None:
        """Be a connection, from its beginning to its end."""
        try:
            await self._pass_on()
            finish(self._server)
            await asyncio.gather(_hear_out(self._server_sends), self._hear_client_out())
            self.is_open = False
            for writer in (self._client, self._server):
                writer.close()
            await asyncio.gather(self._client.wait_closed(), self._server.wait_closed(), return_exceptions=True)
        finally:
            self.is_open = False
            self._client.transport.abort()
            self._server.transport.abort()

    async def _pass_on(self) -> None:
        """Until the server has ended, or the connection was told to; a client that ends may still be answered."""
        requests = _Requests(self, self._client_sends, self._server)
        replies = _Replies(self, self._server_sends, self._client)
        async with asyncio.TaskGroup() as group:
            lanes = [group.create_task(lane.run()) for lane in (requests, replies)]
            await self._ended
            for lane in lanes:
                lane.cancel()

    async def _hear_client_out(self) -> None:
        if self._is_half_open:
            await _hear_out(self._client_sends)
            self.client_left()

    def reset(self) -> None:
        """RST to both sides."""
        self._abort("resets", self._client, self._server)

    def cut(self) -> None:
        """RST to the client; the server still reads all that it was sent."""
        self._abort("cuts", self._client)

    def half_open(self) -> None:
        """The server's side ends; the client is not told, and hears nothing more."""
        self._is_half_open = True
        self._end()

    def _abort(self, counted_as: str, *writers: asyncio.StreamWriter) -> None:
        if all(writer.is_closing() for writer in writers):
            return
        self.proxy.note(counted_as)
        self.is_open = self._is_half_open = False
        for writer in writers:
            abort(writer)
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # --- what its lanes tell and ask --------------------------------------------------------------------------------

    def client_sent(self, data: bytes) -> None:
        """The proxy has this from the client."""
        if len(self._opening) < _OPENING:
            self._opening = (self._opening + data)[:_OPENING]

    def client_left(self) -> None:
        """The client will send nothing more."""
        self.is_open = False

    def server_left(self) -> None:
        """The client has got all that the server will ever send."""
        self._end()

    def asks(self, data: bytes) -> None:
        """This goes to the server."""
        self._asked = self._asked[-CHUNK:] + data

    def is_cut(self) -> bool:
        """Whether the connection ends now, instead of passing on the replies that have come."""
        asked, self._asked = self._asked, b""
        cutting: Cutting | None = self.proxy.cutting
        if cutting is None or cutting.to not in asked or not self.is_chosen:
            return False
        return self.proxy.dice.random() < cutting.part and self.proxy.takes_cut(cutting)


class _OnTheWay(asyncio.Queue[tuple[float, bytes]]):
    """Packets, and when each is due: any number of them, of so many bytes together, or latency would limit the rate."""

    size = 0

    def full(self) -> bool:
        return self.size >= _MOST_ON_THE_WAY

    def _put(self, item: tuple[float, bytes]) -> None:
        self.size += len(item[1])
        super()._put(item)

    def _get(self) -> tuple[float, bytes]:
        item = super()._get()
        self.size -= len(item[1])
        return item


class _Lane:
    """One direction. It ends when its source has ended and everything has been passed on."""

    counts: str

    def __init__(self, connection: Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        self.connection = connection
        self._proxy = connection.proxy
        self._source = source
        self._target = target
        self._on_the_way = _OnTheWay()
        self._now = asyncio.get_running_loop().time
        self._obeyed = _NO_FAULTS
        self._passed = 0

    # --- where the directions differ --------------------------------------------------------------------------------

    def ordered(self) -> Faults:
        """What the proxy has been told about this direction."""
        raise NotImplementedError

    def arrives(self, data: bytes) -> None:
        """The proxy has a packet; nothing at all when the source has ended."""

    def lets_pass(self, data: bytes) -> bool:
        """Whether the packet is passed on; asked when it would be."""
        raise NotImplementedError

    def left(self) -> None:
        """Everything has been passed on, and nothing more will come."""

    # --- what they have in common -----------------------------------------------------------------------------------

    @property
    def faults(self) -> Faults:
        """What happens to this lane now."""
        return self.ordered() if self.connection.is_chosen else _NO_FAULTS

    async def run(self) -> None:
        """Take in and pass on."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take_in())
            both.create_task(self._pass_on())
        finish(self._target)
        self.left()

    async def _take_in(self) -> None:
        data, due = b"...", 0.0
        while data:
            data = await self._read()
            self.arrives(data)
            faults = self.faults
            due = max(due, self._now() + faults.latency + faults.jitter * self._proxy.dice.random())
            await self._on_the_way.put((due, data))

    async def _read(self) -> bytes:
        with suppress(ConnectionError):
            return await self._source.read(CHUNK)
        return b""

    async def _pass_on(self) -> None:
        data = b"..."
        while data:
            due, data = await self._on_the_way.get()
            if (early := due - self._now()) > 0:
                await asyncio.sleep(early)
            await self._out_of_the_hole()
            if data and self.lets_pass(data):
                await self._write(data)

    async def _out_of_the_hole(self) -> None:
        while self.faults.black_hole:
            await self._proxy.change()

    async def _write(self, data: bytes) -> None:
        for packet in _sliced(data, self.faults.slices):
            await self._out_of_the_hole()
            allowed = self._allowance(len(packet))
            if not self._target.is_closing():
                self._proxy.note(self.counts, allowed)
                self._target.write(packet[:allowed])
                with suppress(ConnectionError):
                    await self._target.drain()
            if self._passed == self._obeyed.reset_after:
                self.connection.reset()
            await asyncio.sleep(0)  # or small packets would become large ones again

    def _allowance(self, wanted: int) -> int:
        """How many of so many bytes may pass before the connection is reset."""
        faults = self.faults
        if faults is not self._obeyed:
            self._obeyed, self._passed = faults, 0
        allowed = wanted if faults.reset_after is None else min(wanted, faults.reset_after - self._passed)
        self._passed += allowed
        return allowed


class _Requests(_Lane):
    counts = "request_bytes"

    def ordered(self) -> Faults:
        return self._proxy.requests

    def arrives(self, data: bytes) -> None:
        if data:
            self.connection.client_sent(data)
        else:
            self.connection.client_left()

    def lets_pass(self, data: bytes) -> bool:
        self.connection.asks(data)
        return True


class _Replies(_Lane):
    counts = "reply_bytes"

    def ordered(self) -> Faults:
        return self._proxy.replies

    def lets_pass(self, data: bytes) -> bool:
        if self.connection.is_cut():
            self.connection.cut()
            return False
        return True

    def left(self) -> None:
        self.connection.server_left()


def _sliced(data: bytes, size: int | None) -> Iterator[bytes]:
    if size is None:
        yield data
    else:
        yield from (data[start : start + size] for start in range(0, len(data), size))
