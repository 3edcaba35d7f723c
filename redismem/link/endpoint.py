"""Where the server is: a URL becomes a factory of redis-py connections, and a name that holds no secret.

============================  ==================================================================================
``redis://`` ``rediss://``    TCP, with TLS for the second; options of redis-py may follow as a query
``redis+cluster://``          ``redis+cluster://host:port,host:port``: a cluster, of which these nodes are asked first
``redis+sentinel://``         ``redis+sentinel://host:port,host:port/service/db``: the primary that these sentinels name
``unix:///path``              a unix socket
``embedded://``               a private Valkey server, ended with this process
``embedded:///directory``     one Valkey server for all processes that name the directory; its data are kept
``memory://``                 fakeredis, inside this process
============================  ==================================================================================

With ``rediss+cluster://`` and ``rediss+sentinel://`` every connection is encrypted. Without TLS, hosts other than this
machine are refused unless they are allowed.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio.connection
import redis.connection

from redismem.errors import ConfigError, Unavailable
from redismem.link import sentinel
from redismem.link.embedded import EmbeddedServer

Address = tuple[str, int]

_RESP2: dict[str, Any] = {"protocol": 2}  # redis-py 8 defaults to RESP3, in which replies have other shapes
_CLIENT_NAME = "redismem"
_OURS = frozenset(
    {"socket_timeout", "socket_connect_timeout", "timeout", "max_connections", "decode_responses", "protocol"}
)
"""Options of redis-py that redismem sets itself, or that belong to a pool, which it has not."""
_SENTINEL_PORT: Final = 26379
_SERVER_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Makes connections to one server, or to those of a cluster. `server` is the embedded one, if there is any."""

    name: str
    blocking: Callable[..., redis.connection.AbstractConnection]
    asyncio: Callable[..., redis.asyncio.connection.AbstractConnection]
    options: dict[str, Any] = field(repr=False)
    server: EmbeddedServer | None = None
    fails_over: bool = False
    """Whether another server may take over."""
    seeds: tuple[Address, ...] = ()
    """Of a cluster: the nodes to ask first."""
    only_local: bool = False
    """Whether servers elsewhere must not be talked to: without TLS, passwords and data could be read on the way."""

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

    def node(self, host: str, port: int) -> Self:
        """The endpoint of one node of this cluster. Raises `Unavailable` if it must not be talked to."""
        name = f"{self.name} node {host}:{port}"
        if self.only_local and not is_local(host):
            raise Unavailable(f"{name}: {_INSECURE}")
        options = self.options | {"host": host, "port": port}
        return replace(self, name=name, options=options, fails_over=False, seeds=())

    def close(self) -> None:
        """Let go of the embedded server, if there is one."""
        if self.server is not None:
            self.server.close()


def endpoint_of(url: str, *, linger: float, allow_insecure: bool = False) -> Endpoint:
    """The endpoint that a URL names. Raises `ConfigError`; the message never holds the password."""
    scheme, mark, _ = url.partition("://")
    scheme = scheme if mark else ""
    if scheme.startswith("rediss") and not allow_insecure and _asks_for_any_certificate(url):
        raise ConfigError(
            f"{_without_secrets(url)}: with ssl_cert_reqs=none anybody may stand in for the server; give its authority "
            "(ssl_ca_certs), or set allow_insecure=True where the network itself is safe"
        )
    if scheme in ("redis", "rediss", "unix"):
        return _remote(url, allow_insecure)
    if scheme in ("redis+cluster", "rediss+cluster"):
        return _cluster(url, allow_insecure)
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel(url, allow_insecure)
    if scheme == "embedded":
        return _embedded(url, linger)
    if scheme == "memory":
        return _memory()
    named = f"unknown URL scheme {scheme!r}" if scheme.isalpha() else "a URL without a scheme"  # it may be a password
    raise ConfigError(
        f"{named}: use redis://, rediss://, redis+cluster://, redis+sentinel://, unix://, embedded:// or memory://"
    )


def is_local(host: str) -> bool:
    """Whether the host is this machine, so that nobody else sees what goes there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_INSECURE: Final = (
    "without TLS, passwords and data can be read on the way; use TLS (rediss://, rediss+cluster://, "
    "rediss+sentinel://), or set allow_insecure=True where the network itself is safe"
)


def _asks_for_any_certificate(url: str) -> bool:
    return "none" in (value.lower() for key, value in parse_qsl(urlsplit(url).query) if key == "ssl_cert_reqs")


def _remote(url: str, allow_insecure: bool) -> Endpoint:
    options, blocking_class, asyncio_class = _parsed(url)
    name = _without_secrets(url)
    if url.startswith("redis://") and not allow_insecure and not is_local(options.get("host", "localhost")):
        raise ConfigError(f"{name}: {_INSECURE}")
    return Endpoint(name, blocking_class, asyncio_class, options)


def _cluster(url: str, allow_insecure: bool) -> Endpoint:
    scheme, users, hosts, tail = _split(url)
    seeds = tuple(_address(host, _SERVER_PORT) for host in hosts)
    name = f"{scheme}://{','.join(hosts)}"
    options, blocking_class, asyncio_class = _parsed(f"{scheme.removesuffix('+cluster')}://{users}localhost{tail}")
    if options.pop("db", 0):
        raise ConfigError(f"{name}: a cluster has no database but 0")
    only_local = _only_local(name, seeds, allow_insecure)
    return Endpoint(name, blocking_class, asyncio_class, options, fails_over=True, seeds=seeds, only_local=only_local)


def _sentinel(url: str, allow_insecure: bool) -> Endpoint:
    scheme, users, hosts, tail = _split(url)
    addresses = tuple(_address(host, _SENTINEL_PORT) for host in hosts)
    path, _, query = tail.partition("?")
    service, _, database = path.removeprefix("/").partition("/")
    name = f"{scheme}://{','.join(hosts)}{path}"
    if not service:
        raise ConfigError(f"{name}: name the service after the sentinels: redis+sentinel://host:26379/service/0")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    credentials = {key: asked.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    plain = scheme.removesuffix("+sentinel")
    options, blocking_class, asyncio_class = _parsed(f"{plain}://{users}localhost/{database}?{urlencode(asked)}")
    only_local = _only_local(name, addresses, allow_insecure)
    own = {key: value for key, value in options.items() if key not in ("db", "host", "port", "username", "password")}
    watch = sentinel.Sentinels(unquote(service), addresses, own | credentials, is_local if only_local else None)
    return Endpoint(
        name,
        sentinel.BLOCKING[blocking_class],
        sentinel.ASYNCIO[asyncio_class],
        options | {"sentinels": watch},
        fails_over=True,
    )


def _only_local(name: str, addresses: tuple[Address, ...], allow_insecure: bool) -> bool:
    """Whether nothing but this machine may be talked to. Raises `ConfigError` if one of the addresses is elsewhere."""
    if allow_insecure or name.startswith("rediss"):
        return False
    if not all(is_local(host) for host, _ in addresses):
        raise ConfigError(f"{name}: {_INSECURE}")
    return True


def _split(url: str) -> tuple[str, str, list[str], str]:
    """A URL of several hosts: scheme, credentials with their ``@``, hosts, and what follows."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    users, at, hosts = authority.rpartition("@")
    tail = rest[len(authority) :]
    if "@" in tail.partition("?")[0]:  # then what comes before may be half a password
        raise ConfigError(_MALFORMED)
    return scheme, users + at, hosts.split(","), tail


def _address(host: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{host}")
        if parts.hostname:
            return parts.hostname, parts.port or default_port
    except ValueError:
        pass
    raise ConfigError(_MALFORMED)


_MALFORMED: Final = (
    "malformed server URL: look at host, port, database and query; percent-encode what is special in a password"
)
Classes = tuple[
    dict[str, Any], type[redis.connection.AbstractConnection], type[redis.asyncio.connection.AbstractConnection]
]


def _parsed(url: str) -> Classes:
    """The options of a URL of one server, and the classes that take them. Raises `ConfigError`."""
    try:
        options: dict[str, Any] = dict(redis.connection.parse_url(url))
        asyncio_class = redis.asyncio.connection.parse_url(url).get("connection_class", redis.asyncio.Connection)
        name = _without_secrets(url)
    except ValueError:  # whose text may hold a part of the password
        raise ConfigError(_MALFORMED) from None
    blocking_class = options.pop("connection_class", redis.connection.Connection)
    if taken := sorted(options.keys() & _OURS):
        raise ConfigError(f"{name}: {', '.join(taken)} cannot be set by the URL; see redismem.Settings")
    options.setdefault("client_name", _CLIENT_NAME)
    try:
        blocking_class(**options)
    except (TypeError, redis.RedisError) as error:
        raise ConfigError(f"{name}: an option of the URL is unknown: {error}") from None
    return options | _RESP2, blocking_class, asyncio_class


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
