"""The proxy and the injector do what they are told, and nothing else."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import redis

from redismem import AsyncMemory, Memory
from redismem.chaos import ChaosProxy, Fate, Faults, inject, random_fates
from redismem.errors import Unavailable
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
    with wire:
        assert wire.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert "chaos-proxy" not in {thread.name for thread in threading.enumerate()}


# --- faults of a direction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_latency_is_added_and_order_is_kept(proxy: ChaosProxy, wire: socket.socket, direction: str) -> None:
    ping(wire)
    setattr(proxy, direction, Faults(latency=0.1, jitter=0.02))
    began = time.monotonic()
    for number in range(20):  # all are under way at once
        wire.sendall(b"*2\r\n$4\r\nECHO\r\n$2\r\n%02d\r\n" % number)
        time.sleep(0.002)
    receive(wire, b"".join(b"$2\r\n%02d\r\n" % number for number in range(20)))
    assert 0.1 <= time.monotonic() - began < 1.9, "they did not wait for each other"
    proxy.heal()
    assert ping(wire) < 0.1


def test_slices(proxy: ChaosProxy) -> None:
    with redis.Redis(port=proxy.port, protocol=2) as client:
        client.ping()
        proxy.requests = Faults(slices=3)
        proxy.replies = Faults(slices=2)
        client.set("k", "x" * 1000)
        assert client.get("k") == b"x" * 1000


def test_small_packets_arrive_as_such(proxy: ChaosProxy, wire: socket.socket) -> None:
    proxy.replies = Faults(slices=1)
    wire.sendall(b"*2\r\n$4\r\nECHO\r\n$500\r\n" + b"x" * 500 + b"\r\n")
    sizes: list[int] = []
    while sum(sizes) < 500 + len(b"$500\r\n\r\n"):
        sizes.append(len(wire.recv(1 << 16)))
    assert len(sizes) > 20


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
