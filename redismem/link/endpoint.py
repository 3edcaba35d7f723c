"""Where the server is: a URL becomes a factory of redis-py connections, and a name that holds no secret.

============================  ==================================================================================
``redis://`` ``rediss://``    TCP, with TLS for the second; options of redis-py may follow as a query
``unix:///path``              a unix socket
``embedded://``               a private Valkey server, ended with this process
``embedded:///directory``     one Valkey server for all processes that name the directory; its data are kept
``memory://``                 fakeredis, inside this process
============================  ==================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio.connection
import redis.connection

from redismem.errors import ConfigError
from redismem.link.embedded import EmbeddedServer

_RESP2: dict[str, Any] = {"protocol": 2}  # redis-py 8 defaults to RESP3, in which replies have other shapes
_CLIENT_NAME = "redismem"
_OURS = frozenset(
    {"socket_timeout", "socket_connect_timeout", "timeout", "max_connections", "decode_responses", "protocol"}
)
"""Options of redis-py that redismem sets itself, or that belong to a pool, which it has not."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Makes connections to one server. `server` is the embedded one, if this endpoint owns or shares any."""

    name: str
    blocking: Callable[..., redis.connection.AbstractConnection]
    asyncio: Callable[..., redis.asyncio.connection.AbstractConnection]
    options: dict[str, Any] = field(repr=False)
    server: EmbeddedServer | None = None

    def prepare(self) -> None:
        """See that there is a server to connect to. Raises `Unavailable`."""
        if self.server is not None:
            self.server.ensure()

    def blocking_connection(self, timeout: float, connect_timeout: float) -> redis.connection.AbstractConnection:
        """A new connection, not yet connected. Times are seconds."""
        return self.blocking(socket_timeout=timeout, socket_connect_timeout=connect_timeout, **self.options)

    def asyncio_connection(self, connect_timeout: float) -> redis.asyncio.connection.AbstractConnection:
        """A new connection, not yet connected; its reader watches the time that replies take."""
        return self.asyncio(socket_timeout=None, socket_connect_timeout=connect_timeout, **self.options)

    def close(self) -> None:
        """Let go of the embedded server, if there is one."""
        if self.server is not None:
            self.server.close()


def endpoint_of(url: str, *, linger: float) -> Endpoint:
    """The endpoint that a URL names. Raises `ConfigError`; the message never holds the password."""
    scheme, mark, _ = url.partition("://")
    scheme = scheme if mark else ""
    if scheme in ("redis", "rediss", "unix"):
        return _remote(url)
    if scheme == "embedded":
        return _embedded(url, linger)
    if scheme == "memory":
        return _memory()
    named = f"unknown URL scheme {scheme!r}" if scheme.isalpha() else "a URL without a scheme"  # it may be a password
    raise ConfigError(f"{named}: use redis://, rediss://, unix://, embedded:// or memory://")


def _remote(url: str) -> Endpoint:
    try:
        options: dict[str, Any] = dict(redis.connection.parse_url(url))
        asyncio_class = redis.asyncio.connection.parse_url(url).get("connection_class", redis.asyncio.Connection)
        name = _without_secrets(url)
    except ValueError:  # whose text may hold a part of the password
        raise ConfigError(
            "malformed server URL: look at port, database and query; percent-encode what is special in a password"
        ) from None
    blocking_class = options.pop("connection_class", redis.connection.Connection)
    if taken := sorted(options.keys() & _OURS):
        raise ConfigError(f"{name}: {', '.join(taken)} cannot be set by the URL; see redismem.Settings")
    options.setdefault("client_name", _CLIENT_NAME)
    try:
        blocking_class(**options)
    except (TypeError, redis.RedisError) as error:
        raise ConfigError(f"{name}: an option of the URL is unknown: {error}") from None
    return Endpoint(name, blocking_class, asyncio_class, options | _RESP2)


def _without_secrets(url: str) -> str:
    """Scheme, host, port and path: neither credentials nor the query, which may hold some."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _embedded(url: str, linger: float) -> Endpoint:
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigError("embedded:// takes a directory after three slashes, embedded:///directory, and nothing else")
    server = EmbeddedServer(Path(unquote(parts.path)) if parts.path else None, linger=linger)
    options = {"path": server.socket_path, "client_name": _CLIENT_NAME} | _RESP2
    unix, asyncio_unix = redis.connection.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection
    return Endpoint(url, unix, asyncio_unix, options, server)


def _memory() -> Endpoint:
    try:
        import fakeredis
    except ImportError:
        raise ConfigError("memory:// needs fakeredis: pip install 'redismem[memory]'") from None
    kind: Literal["redis"] = "redis"
    options = {"server": fakeredis.FakeServer(server_type=kind, version=(7,))} | _RESP2
    return Endpoint("memory://", fakeredis.FakeRedisConnection, fakeredis.FakeAsyncRedisConnection, options)
