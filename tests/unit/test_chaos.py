"""The proxy and the injector do what they are told, and nothing else."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.chaos import ChaosProxy, Fate, Faults, inject, random_fates
from redismem.chaos.connection import _OnTheWay
from redismem.errors import Unavailable
from redismem.op import run
from tests.servers import Server

PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
WITHIN = 20.0


@pytest.fixture
def proxy(valkey: Server) -> Iterator[ChaosProxy]:
    with ChaosProxy(valkey.port, seed=7) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: ChaosProxy) -> Iterator[Callable[[], socket.socket]]:
    """Connections to the proxy that end with the test."""
    wires: list[socket.socket] = []

    def connected() -> socket.socket:
        wire = socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wires.append(wire)
        return wire

    yield connected
    for wire in wires:
        wire.close()


@pytest.fixture
def wire(connect: Callable[[], socket.socket]) -> socket.socket:
    return connect()


def receive(wire: socket.socket, expected: bytes) -> None:
    data = b""
    while len(data) < len(expected):
        piece = wire.recv(len(expected) - len(data))
        assert piece, f"hung up after {data!r}"
        data += piece
    assert data == expected


def ping(wire: socket.socket) -> float:
    """Seconds that a PING took."""
    began = time.monotonic()
    wire.sendall(PING)
    receive(wire, PONG)
    return time.monotonic() - began


def is_silent(wire: socket.socket, for_: float = 0.2) -> bool:
    wire.settimeout(for_)
    try:
        wire.recv(1)
    except TimeoutError:
        return True
    finally:
        wire.settimeout(WITHIN)
    return False


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- an ordinary proxy ------------------------------------------------------------------------------------------------


def test_it_passes_on_and_counts(proxy: ChaosProxy, connect: Callable[[], socket.socket]) -> None:
    wires = [connect() for _ in range(3)]
    for wire in wires:
        ping(wire)
    counts = proxy.counts
    assert (counts.connections, counts.open, counts.resets, counts.cuts) == (3, 3, 0, 0)
    assert (counts.request_bytes, counts.reply_bytes) == (3 * len(PING), 3 * len(PONG))
    wires[0].close()
    eventually(lambda: proxy.counts.open == 2)


def test_large_values_pass_both_ways(proxy: ChaosProxy) -> None:
    value = b"x" * 5_000_000
    with redis.Redis(port=proxy.port, protocol=2) as client:
        client.set("k", value)
        assert client.get("k") == value


def test_without_a_server_connections_break() -> None:
    def call() -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN) as wire:
            wire.recv(1)

    with ChaosProxy(1) as proxy:
        with pytest.raises(ConnectionResetError):
            call()
        assert proxy.counts.open == 0


def test_a_server_that_hangs_up_is_passed_on(proxy: ChaosProxy, wire: socket.socket) -> None:
    wire.sendall(b"*1\r\n$4\r\nQUIT\r\n")
    receive(wire, b"+OK\r\n")
    assert wire.recv(1) == b""


def test_it_ends_with_its_block_whatever_is_open(valkey: Server) -> None:
    with ChaosProxy(valkey.port) as proxy:
        wire = socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN)
        ping(wire)
        proxy.requests = Faults(black_hole=True)
        wire.sendall(PING)
    with wire, suppress(ConnectionResetError):
        assert wire.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_nothing_is_left_however_connections_ended(valkey: Server) -> None:
    def left() -> tuple[int, set[str]]:
        return psutil.Process().num_fds(), {thread.name for thread in threading.enumerate()}

    ChaosProxy(valkey.port)  # nothing ever starts
    before = left()
    with ChaosProxy(f"localhost:{valkey.port}") as proxy:
        ends: list[Callable[[], object]] = [proxy.reset, proxy.half_open, proxy.cut_replies, lambda: None]
        for end in ends:
            for faults in (Faults(), Faults(slices=1), Faults(latency=60), Faults(black_hole=True)):
                proxy.heal()
                with socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN) as wire:
                    ping(wire)
                    proxy.requests = proxy.replies = faults
                    end()
                    with suppress(ConnectionError):
                        wire.sendall(PING)
    assert left() == before


def test_it_works_in_its_block_only(valkey: Server) -> None:
    proxy = ChaosProxy(valkey.port)
    proxy.requests = Faults(latency=0.1)
    for _ in range(2):
        for attempt in (proxy.reset, proxy.half_open, proxy.heal, lambda: setattr(proxy, "refusing", True)):
            with pytest.raises(RuntimeError, match="in its `with` block"):
                attempt()
        proxy.requests = Faults(latency=0.1)
        with proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN) as wire:
            assert ping(wire) >= 0.1


def test_what_cannot_be_is_refused() -> None:
    for impossible in (
        lambda: Faults(latency=-1),
        lambda: Faults(jitter=float("nan")),
        lambda: Faults(slices=0),
        lambda: Faults(reset_after=-1),
        lambda: ChaosProxy("localhost"),
        lambda: ChaosProxy(1).cut_replies(1.5),
        lambda: random_fates(unsent=-0.1),
        lambda: random_fates(unsent=0.6, unanswered=0.6),
    ):
        with pytest.raises(ValueError, match="must be"):
            impossible()


# --- a server that is no store ----------------------------------------------------------------------------------------


def talk(serve: Callable[[socket.socket], Any], call: Callable[[ChaosProxy, socket.socket], object]) -> Any:
    """What `serve` returns, which has a connection through a proxy to what `call` has."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:

        def served() -> Any:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(WITHIN)
                return serve(connection)

        serving = thread.submit(served)
        with (
            ChaosProxy(listener.getsockname()[1]) as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN) as wire,
        ):
            call(proxy, wire)
            return serving.result(WITHIN)


def read_all(wire: socket.socket) -> bytes:
    data = b""
    while piece := wire.recv(1 << 16):
        data += piece
    return data


@pytest.mark.parametrize("faults", [Faults(), Faults(latency=0.05, slices=7)])
def test_who_has_said_all_can_still_be_answered(faults: Faults) -> None:
    def serve(server: socket.socket) -> None:
        server.sendall(b"<" + read_all(server) + b">")

    def call(proxy: ChaosProxy, wire: socket.socket) -> None:
        proxy.requests = proxy.replies = faults
        wire.sendall(b"x" * 1000)
        wire.shutdown(socket.SHUT_WR)
        assert read_all(wire) == b"<" + b"x" * 1000 + b">"

    talk(serve, call)


@pytest.mark.parametrize("end", ["cut_replies", "half_open"])
def test_the_servers_side_is_closed_in_good_order_whatever_it_still_says(end: str) -> None:
    def serve(server: socket.socket) -> bytes:
        heard = server.recv(1)
        server.sendall(b"y" * 1_000_000)
        return heard + read_all(server)

    def call(proxy: ChaosProxy, wire: socket.socket) -> None:
        if end == "half_open":
            wire.sendall(b"x")
            eventually(lambda: proxy.counts.reply_bytes)
            proxy.half_open()
        else:
            proxy.cut_replies()
            wire.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                read_all(wire)

    assert talk(serve, call) == b"x"


# --- faults of a direction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_latency_is_added_and_order_is_kept(proxy: ChaosProxy, wire: socket.socket, direction: str) -> None:
    ping(wire)
    setattr(proxy, direction, Faults(latency=0.3, jitter=0.02))
    began = time.monotonic()
    for number in range(50):  # all are under way at once
        wire.sendall(b"*2\r\n$4\r\nECHO\r\n$2\r\n%02d\r\n" % number)
        time.sleep(0.002)
    receive(wire, b"".join(b"$2\r\n%02d\r\n" % number for number in range(50)))
    assert 0.3 <= time.monotonic() - began < 0.9 * 50 * 0.3, "they waited for each other"
    proxy.heal()
    eventually(lambda: ping(wire) < 0.3)


async def test_what_is_on_the_way_is_limited_by_its_bytes() -> None:
    """By its packets, a latency would limit how many of them pass in a second."""
    some = _OnTheWay()
    for _ in range(10_000):
        some.put_nowait((0.0, b"x"))
    some.put_nowait((0.0, b"x" * 20_000_000))
    with pytest.raises(asyncio.QueueFull):
        some.put_nowait((0.0, b"x"))
    while not some.empty():
        some.get_nowait()
    assert not some.full()


def test_slices(proxy: ChaosProxy) -> None:
    with redis.Redis(port=proxy.port, protocol=2) as client:
        client.ping()
        proxy.requests = Faults(slices=3)
        proxy.replies = Faults(slices=2)
        client.set("k", "x" * 1000)
        assert client.get("k") == b"x" * 1000


def test_small_packets_arrive_as_such(proxy: ChaosProxy, connect: Callable[[], socket.socket]) -> None:
    """TCP joins those for which a late receiver has not thanked. So it may try more than once, each time anew."""

    def pieces() -> int:
        with connect() as wire:
            wire.sendall(b"*2\r\n$4\r\nECHO\r\n$500\r\n" + b"x" * 500 + b"\r\n")
            sizes: list[int] = []
            while sum(sizes) < 500 + len(b"$500\r\n\r\n"):
                sizes.append(len(wire.recv(1 << 16)))
            return len(sizes)

    assert max(pieces() for _ in range(20)) <= 3
    proxy.replies = Faults(slices=1)
    eventually(lambda: pieces() > 20)


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_a_black_hole_gives_back_what_it_swallowed(proxy: ChaosProxy, wire: socket.socket, direction: str) -> None:
    ping(wire)
    setattr(proxy, direction, Faults(black_hole=True))
    wire.sendall(PING)
    assert is_silent(wire)
    proxy.heal()
    receive(wire, PONG)


def test_a_black_hole_lets_the_other_direction_pass(proxy: ChaosProxy, valkey: Server, wire: socket.socket) -> None:
    ping(wire)
    proxy.replies = Faults(black_hole=True)
    wire.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
    with redis.Redis(port=valkey.port, protocol=2) as client:
        eventually(lambda: client.get("k") == b"v")
    assert is_silent(wire, 0.05)


def test_what_a_client_sent_before_it_left_arrives(proxy: ChaosProxy, valkey: Server, wire: socket.socket) -> None:
    """As from a network that is slow: the sender gave up long ago."""
    proxy.requests = Faults(black_hole=True)
    wire.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
    wire.close()
    eventually(lambda: proxy.counts.connections == 1 and proxy.counts.open == 0)
    with redis.Redis(port=valkey.port, protocol=2) as client:
        assert client.get("k") is None
        proxy.heal()
        eventually(lambda: client.get("k") == b"v")


@pytest.mark.parametrize("count", [0, 1, 3, len(PONG)])
def test_replies_torn_by_a_reset(proxy: ChaosProxy, wire: socket.socket, count: int) -> None:
    ping(wire)
    proxy.replies = Faults(reset_after=count)
    wire.sendall(PING)
    if count:
        receive(wire, PONG[:count])
    with pytest.raises(ConnectionResetError):
        wire.recv(1)
    assert proxy.counts.resets == 1


def test_sliced_replies_are_reset_once(proxy: ChaosProxy, wire: socket.socket) -> None:
    proxy.replies = Faults(slices=1, reset_after=3)
    wire.sendall(PING * 10)
    receive(wire, PONG[:3])
    with pytest.raises(ConnectionResetError):
        wire.recv(1)
    eventually(lambda: proxy.counts.open == 0)
    assert (proxy.counts.resets, proxy.counts.reply_bytes) == (1, 3)


def test_a_request_torn_by_a_reset_is_not_done(proxy: ChaosProxy, valkey: Server, wire: socket.socket) -> None:
    ping(wire)
    proxy.requests = Faults(reset_after=len(PING) + 10)
    ping(wire)
    wire.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
    with pytest.raises(ConnectionResetError):
        wire.recv(1)
    with redis.Redis(port=valkey.port, protocol=2) as client:
        eventually(lambda: len(client.client_list()) == 1)
        assert client.get("k") is None


# --- connections ------------------------------------------------------------------------------------------------------


def test_reset(proxy: ChaosProxy, connect: Callable[[], socket.socket]) -> None:
    wires = [connect(), connect()]
    for wire in wires:
        ping(wire)
    assert proxy.reset() == 2
    for wire in wires:
        with pytest.raises(ConnectionResetError):
            wire.recv(1)
    ping(connect())
    assert (proxy.counts.resets, proxy.counts.open) == (2, 1)


def test_half_open(proxy: ChaosProxy, valkey: Server, wire: socket.socket) -> None:
    ping(wire)
    assert proxy.half_open() == 1
    with redis.Redis(port=valkey.port, protocol=2) as client:
        eventually(lambda: len(client.client_list()) == 1)
    wire.sendall(PING * 10)
    assert is_silent(wire)
    assert proxy.counts.open == 1
    wire.close()
    eventually(lambda: proxy.counts.open == 0)


def test_refusing(proxy: ChaosProxy, connect: Callable[[], socket.socket]) -> None:
    wire = connect()
    ping(wire)
    for _ in range(2):
        proxy.refusing = proxy.refusing = True
        assert proxy.refusing
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                connect()
        ping(wire)
        proxy.heal()
        assert not proxy.refusing
        ping(connect())


def test_only_some_connections(proxy: ChaosProxy, connect: Callable[[], socket.socket]) -> None:
    """Chosen by what was sent first, however late; the others notice nothing."""
    plain, chosen = connect(), connect()
    for wire in (plain, chosen):
        ping(wire)
    proxy.only = lambda sent: b"marked" in sent
    proxy.requests = Faults(black_hole=True)
    ping(chosen)
    chosen.sendall(b"*2\r\n$4\r\nECHO\r\n$6\r\nmarked\r\n")
    assert is_silent(chosen)
    ping(plain)
    assert proxy.reset() == 1
    ping(plain)
    with pytest.raises(ConnectionResetError):
        chosen.recv(1)


def test_a_choice_that_fails_is_told_at_the_end(valkey: Server) -> None:
    def failing() -> None:
        with ChaosProxy(valkey.port) as proxy:
            ports.append(proxy.port)
            proxy.only = lambda _: bool(1 / 0)
            proxy.requests = Faults(black_hole=True)
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN) as wire:
                ping(wire)

    ports: list[int] = []
    with pytest.raises(ZeroDivisionError):
        failing()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))


# --- replies that are cut off -----------------------------------------------------------------------------------------


def test_a_cut_reply_is_applied_and_not_acknowledged(proxy: ChaosProxy, valkey: Server) -> None:
    with Memory(valkey.url) as direct, Memory(proxy.url, retries=0) as memory:
        memory.sessions.increment("s", "n", "count")  # from now on the server knows the script
        proxy.cut_replies(to=b"redismem:session:{s}", times=1)
        with pytest.raises(Unavailable, match="may have been applied"):
            memory.sessions.increment("s", "n", "count")
        assert direct.sessions.load("s", "n", "count") == 2
        assert memory.sessions.increment("s", "n", "count") == 3
        assert proxy.counts.cuts == 1


def test_only_what_is_asked_for_is_cut(proxy: ChaosProxy, wire: socket.socket) -> None:
    proxy.cut_replies(to=b"ECHO")
    ping(wire)
    ping(wire)
    wire.sendall(b"*2\r\n$4\r\nEC")
    time.sleep(0.01)
    wire.sendall(b"HO\r\n$1\r\nx\r\n")
    with pytest.raises(ConnectionResetError):
        wire.recv(1)


def test_a_part_of_the_replies_is_cut_until_told_otherwise(
    proxy: ChaosProxy, connect: Callable[[], socket.socket]
) -> None:
    proxy.cut_replies(0.5)
    kept = 0
    for _ in range(100):
        wire = connect()
        with suppress(ConnectionResetError):
            wire.sendall(PING)
            kept += wire.recv(16) == PONG
    assert proxy.counts.cuts == 100 - kept
    assert 20 < kept < 80
    proxy.cut_replies(0)
    ping(connect())


# --- injection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fate", "is_applied"), [(Fate.UNSENT, False), (Fate.UNANSWERED, True)])
def test_injected_faults_of_one_call(valkey: Server, fate: Fate, is_applied: bool) -> None:
    with Memory(valkey.url, retries=0) as memory:
        memory.sessions.save("s", "n", "k", "before")
        with inject(memory, [Fate.PASSES, fate]) as met:
            assert memory.sessions.load("s", "n", "k") == "before"
            said = "may have been applied" if is_applied else "nothing was sent"
            with pytest.raises(Unavailable, match=f"injected .*{said}"):
                memory.sessions.save("s", "n", "k", "after")
            assert memory.sessions.load("s", "n", "k") == ("after" if is_applied else "before")
        assert met[fate] == 1


async def test_injected_faults_are_retried_as_any_others(valkey: Server) -> None:
    async with AsyncMemory(valkey.url, retries=20) as memory:
        with inject(memory, random_fates(unsent=0.2, unanswered=0.2, seed=3)) as met:
            sums = await asyncio.gather(*(memory.sessions.increment("s", "n", "k") for _ in range(50)))
            async with memory.batch() as batch:
                handles = [batch.sessions.increment("s", "n", "k") for _ in range(10)]
        assert sorted([*sums, *(handle.result() for handle in handles)]) == list(range(1, 61))
        assert met[Fate.UNSENT] > 3
        assert met[Fate.UNANSWERED] > 3
        assert memory.stats().retries == met[Fate.UNSENT] + met[Fate.UNANSWERED]


def test_fates_end_with_their_block_and_the_innermost_come_first(valkey: Server) -> None:
    with Memory(valkey.url, retries=0) as memory:
        with inject(memory, random_fates(unanswered=1.0)) as outer:
            with inject(memory, [Fate.UNSENT]) as inner, pytest.raises(Unavailable, match="before"):
                memory.sessions.load("s", "n", "k")
            with pytest.raises(Unavailable, match="after"):
                memory.sessions.load("s", "n", "k")
        assert (inner, outer) == ({Fate.UNSENT: 1}, {Fate.UNANSWERED: 1})
        assert memory.sessions.load("s", "n", "k") is None


def test_the_same_seed_means_the_same_fates() -> None:
    def fates(seed: int) -> list[Fate]:
        dice = random_fates(unsent=0.3, unanswered=0.3, seed=seed)
        return [next(dice) for _ in range(100)]

    assert fates(1) == fates(1) != fates(2)
    assert set(fates(1)) == set(Fate)


def test_threads_share_the_fates(valkey: Server) -> None:
    with Memory(valkey.url, retries=50) as memory, inject(memory, random_fates(unsent=0.3, seed=5)) as met:

        def work() -> None:
            for _ in range(50):
                memory.sessions.increment("s", "n", "k")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.sessions.load("s", "n", "k") == 200
        assert met[Fate.UNSENT] > 20


def test_in_a_cluster_each_node_has_a_fate(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    async def exchange_all(requests: list[str], **_: Any) -> list[str]:
        sent.extend(requests)
        return [f"of {request}" for request in requests]

    with Memory("redis+cluster://127.0.0.1:1") as memory:
        link: Any = memory._link
        monkeypatch.setattr(link, "exchange_all", exchange_all)
        with inject(memory, [Fate.UNSENT, Fate.PASSES, Fate.UNANSWERED, Fate.UNSENT]) as met:
            unsent, passed, unanswered = run(link.exchange_all(["a", "b", "c"], fresh=False, blocks=0.0))
            assert sent == ["b", "c"]
            assert (unsent.unsent, passed, unanswered.unsent) == (True, "of b", False)
            assert met == {Fate.UNSENT: 1, Fate.PASSES: 1, Fate.UNANSWERED: 1}
            (unsent,) = run(link.exchange_all(["d"], fresh=False, blocks=0.0))
            assert unsent.unsent
        assert run(link.exchange_all(["e"])) == ["of e"]
