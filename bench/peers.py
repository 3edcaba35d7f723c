"""The clients that redismem is measured against, each in its fastest reasonable configuration.

Where more than one may be the fastest, all of them run, and the one that is counts.
"""

# pyright: reportUnknownMemberType=false
# (parts of redis-py are not annotated)

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from warnings import catch_warnings

import redis
import redis.asyncio

HGet = Callable[[str, str], Awaitable[object]]

PROTOCOLS = (3, 2)
"""redis-py's default, and the older one, whose replies it has to reshape less."""


@contextmanager
def redis_py(url: str) -> Generator[dict[str, Any]]:
    """redis-py with hiredis, by name."""
    with ExitStack() as stack:
        yield {
            f"redis-py, RESP{protocol}": stack.enter_context(redis.Redis.from_url(url, protocol=protocol))
            for protocol in PROTOCOLS
        }


@contextmanager
def glide_sync(url: str) -> Generator[Any]:
    """valkey-glide's blocking client."""
    from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

    client = GlideClient.create(GlideClientConfiguration([NodeAddress(*_address(url))]))
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def redis_asyncio(url: str, tasks: int) -> AsyncGenerator[dict[str, HGet]]:
    """redis.asyncio's HGET on a pool with a connection for each task."""
    async with AsyncExitStack() as stack:
        clients: dict[str, HGet] = {}
        for protocol in PROTOCOLS:
            pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=tasks, protocol=protocol)
            client = await stack.enter_async_context(redis.asyncio.Redis.from_pool(pool))
            clients[f"redis.asyncio, RESP{protocol}"] = client.hget
        yield clients


@asynccontextmanager
async def glide(url: str) -> AsyncGenerator[dict[str, HGet]]:
    """valkey-glide's HGET on its multiplexed connection."""
    from glide import GlideClient, GlideClientConfiguration, NodeAddress, ProtocolVersion

    address = [NodeAddress(*_address(url))]
    protocols = {3: ProtocolVersion.RESP3, 2: ProtocolVersion.RESP2}
    clients = {
        f"valkey-glide, RESP{number}": await GlideClient.create(GlideClientConfiguration(address, protocol=protocol))
        for number, protocol in protocols.items()
    }
    try:
        yield {name: client.hget for name, client in clients.items()}
    finally:
        for client in clients.values():
            await client.close()


@contextmanager
def redis_py_cached(url: str) -> Generator[Any]:
    """redis-py's client-side cache. It takes Redis 7.4 and newer only; it is told that Valkey will do."""
    from redis.cache import CacheConfig
    from redis.connection import CacheProxyConnection

    taken = patch.multiple(CacheProxyConnection, DEFAULT_SERVER_NAME="valkey", MIN_ALLOWED_VERSION="0.0.0")
    with taken, redis.Redis.from_url(url, protocol=3, cache_config=CacheConfig()) as client:
        yield client


@asynccontextmanager
async def cashews(url: str) -> AsyncGenerator[Any]:
    """cashews with its client-side cache."""
    from cashews import Cache

    cache = Cache()
    cache.setup(url, client_side=True, protocol=2)  # with RESP3, redis-py's default, it hears of no change
    await cache.init()
    try:
        yield cache
    finally:
        with catch_warnings(action="ignore", category=DeprecationWarning):  # it calls an old name of redis-py's
            await cache.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 6379)
