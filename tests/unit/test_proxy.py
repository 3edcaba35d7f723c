"""The counting proxy counts what a client waits for, however TCP cuts it."""

import socket
import time
from collections.abc import Iterator

import pytest
import redis

from tests.proxy import SILENCE, CountingProxy
from tests.servers import Server

PING = b"*1\r\n$4\r\nPING\r\n"


@pytest.fixture
def proxy(valkey: Server) -> Iterator[CountingProxy]:
    with CountingProxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def wire(proxy: CountingProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield wire


def receive(wire: socket.socket, expected: bytes) -> None:
    data = b""
    while len(data) < len(expected):
        data += wire.recv(1 << 20)
    assert data == expected


def test_each_wait_is_one(proxy: CountingProxy, wire: socket.socket) -> None:
    assert proxy.round_trips == 0
    for number in range(1, 6):
        wire.sendall(PING)
        receive(wire, b"+PONG\r\n")
        assert proxy.round_trips == number


def test_a_pipeline_is_one(proxy: CountingProxy, wire: socket.socket) -> None:
    wire.sendall(PING * 1000)
    receive(wire, b"+PONG\r\n" * 1000)
    assert proxy.round_trips == 1


def test_a_command_in_pieces_is_one(proxy: CountingProxy, wire: socket.socket) -> None:
    wire.sendall(PING)
    for byte in PING:
        wire.sendall(bytes([byte]))
        time.sleep(SILENCE / 10)
    for piece in (PING[:5], PING[5:]):
        wire.sendall(piece)
        time.sleep(SILENCE * 3)
    receive(wire, b"+PONG\r\n" * 3)
    assert proxy.round_trips == 1


def test_a_pipeline_larger_than_any_buffer_is_one(proxy: CountingProxy, valkey: Server) -> None:
    value = b"x" * 1_000_000
    with redis.Redis(port=proxy.port, protocol=2) as client:
        client.ping()
        before = proxy.round_trips
        pipeline = client.pipeline(transaction=False)
        for number in range(20):
            pipeline.set(str(number), value)
            pipeline.get(str(number))
        assert pipeline.execute() == [True, value] * 20
        assert proxy.round_trips == before + 1


def test_connections_add_up(proxy: CountingProxy) -> None:
    clients = [redis.Redis(port=proxy.port, protocol=2) for _ in range(3)]
    for client in clients:
        client.ping()
    before = proxy.round_trips
    for client in clients:
        client.ping()
        client.ping()
        client.close()
    assert proxy.round_trips == before + 6


def test_it_ends_with_its_block(valkey: Server) -> None:
    with CountingProxy(valkey.port) as proxy:
        wire = socket.create_connection(("127.0.0.1", proxy.port))
        wire.sendall(PING)
        receive(wire, b"+PONG\r\n")
    with wire:
        assert wire.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
