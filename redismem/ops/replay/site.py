"""Where a replay takes place: one server, as the parent process sees it and as its workers reach it."""

import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl, quote, urlencode

from redismem.config import Settings
from redismem.errors import ConfigError, Timeout
from redismem.keys import escape_glob
from redismem.link.cluster import blocking_link
from redismem.memory import endpoint, patience
from redismem.op import run

_PATIENCE: Final = 10.0
_PAUSE: Final = 0.002


class Site:
    """A server that several processes can reach; an embedded one is started for them, and ended with `close`.

    `url` as for `Memory`. Raises `ConfigError`, also for a server that lives inside one process alone.
    """

    def __init__(self, url: str | None = None) -> None:
        settings = Settings.of(url)
        place = endpoint(settings)
        if settings.url.startswith("memory:"):
            raise ConfigError(
                "memory:// lives inside one process, and workers are several: use embedded:// or a server"
            )
        self.name = place.name
        self.prefix = settings.prefix
        self._link = blocking_link(place, patience(settings))
        self._url = f"unix://{quote(place.server.socket_path)}" if place.server else settings.url

    def __enter__(self) -> Self:
        """Starts an embedded server, so that workers find it. Raises `LinkError` if the server does not answer."""
        run(self._link.execute("PING"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the parent's connection, and let go of an embedded server."""
        run(self._link.aclose())

    def url(self, client_name: str) -> str:
        """What another process connects to, so that the server knows its connections by this name."""
        base, _, query = self._url.partition("?")
        options = [pair for pair in parse_qsl(query) if pair[0] != "client_name"]
        return f"{base}?{urlencode([*options, ('client_name', client_name)])}"

    def wait_until_gone(self, client_name: str) -> None:
        """Return when the server has no connection of this name, and so has applied the last of what came from it.

        Raises `Timeout` after ten seconds.
        """
        deadline = time.monotonic() + _PATIENCE
        name = f" name={client_name} ".encode()
        while any(name in run(shard.execute("CLIENT", "LIST")) for shard in run(self._link.shards())):
            if time.monotonic() > deadline:
                raise Timeout(f"{self.name}: the connections of the dead worker {client_name} do not end")
            time.sleep(_PAUSE)

    def forget(self, prefix: str) -> None:
        """Delete every key that begins with this prefix. Raises `LinkError`."""
        run(self._forget(f"{escape_glob(prefix)}:*"))

    async def _forget(self, pattern: str) -> None:
        for shard in await self._link.shards():
            cursor = b""
            while cursor != b"0":
                cursor, names = await shard.execute("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", 1000)
                await shard.pipeline([("UNLINK", name) for name in names])

    def type_of(self, key: str) -> str:
        """What the server says that a key is, such as ``hash``."""
        name: bytes = run(self._link.execute("TYPE", key))
        return name.decode()
