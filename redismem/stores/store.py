"""What every store is made of."""

from dataclasses import dataclass, replace
from typing import Self

from redismem.codec import Codec
from redismem.config import Settings
from redismem.keys import Keys
from redismem.link.base import Link
from redismem.stores.recent import Recent


@dataclass(frozen=True, slots=True)
class Shared:
    """One memory's parts, shared by its stores."""

    settings: Settings
    link: Link
    keys: Keys
    codec: Codec
    recent: Recent

    @classmethod
    def of(cls, settings: Settings, link: Link) -> Self:
        """The parts that these settings describe, on this link."""
        codec = Codec(settings.compress_threshold, settings.compression, settings.max_value_bytes)
        return cls(settings, link, Keys(settings.prefix), codec, Recent())

    def on(self, link: Link) -> Self:
        """The same parts on another link."""
        return replace(self, link=link)


class Store:
    """A kind of memory: what its operations need."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._link = shared.link
        self._keys = shared.keys
        self._codec = shared.codec

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._link.endpoint.name}>"
