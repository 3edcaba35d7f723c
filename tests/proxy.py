"""A TCP proxy on loopback that counts round trips as they are on the wire.

A round trip is all that a client sends before it has been given a reply. How TCP cuts that into segments must not
matter: the proxy passes requests on at once, but holds replies back until the client has sent whole commands and then
been silent for a moment. A client that waits for its replies is silent for as long as that takes; one that is in the
midst of a write is not. So a stall of the client would have to be longer than `SILENCE`, and to come between two
commands of one write, to be counted as two.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Self

import hiredis

SILENCE: Final = 0.01
_CHUNK: Final = 1 << 20


class CountingProxy:
    """Forwards to a port of 127.0.0.1 while its `with` block runs; `port` is where it listens itself."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.round_trips = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="counting-proxy", daemon=True)
        self._conversations: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait_for(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait_for(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._conversations)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        turn = _Turn(self)
        pumps = {
            asyncio.create_task(self._pass_requests(reader, server_writer, turn)),
            asyncio.create_task(self._pass_replies(server_reader, writer, turn)),
        }
        self._pumps |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps -= pumps
        for stream in (server_writer, writer):
            stream.close()
            with suppress(ConnectionError):
                await stream.wait_closed()
        self._conversations.discard(task)

    @staticmethod
    async def _pass_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: "_Turn") -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                turn.client_sent(data)
                writer.write(data)
                await writer.drain()

    @staticmethod
    async def _pass_replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: "_Turn") -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                await turn.over.wait()
                turn.answered = True
                writer.write(data)
                await writer.drain()


class _Turn:
    """Whether the client of one connection has finished what it has to say."""

    def __init__(self, proxy: CountingProxy) -> None:
        self.over = asyncio.Event()
        self.answered = True
        self._proxy = proxy
        self._commands = hiredis.Reader()  # a command has the form of a reply
        self._unfinished = 0
        self._loop = asyncio.get_running_loop()
        self._silence: asyncio.TimerHandle | None = None

    def client_sent(self, data: bytes) -> None:
        if self.answered:
            self._proxy.round_trips += 1
            self.answered = False
        self.over.clear()
        if self._silence is not None:
            self._silence.cancel()
        self._commands.feed(data)
        self._unfinished += len(data)
        while (command := self._commands.gets()) is not False:
            self._unfinished -= len(hiredis.pack_command(tuple(command)))
        if not self._unfinished:
            self._silence = self._loop.call_later(SILENCE, self.over.set)
