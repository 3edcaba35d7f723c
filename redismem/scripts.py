"""Loads ``lua/``, expands includes, calls by SHA, survives ``SCRIPT FLUSH``.

A script is a file; a line ``--@include NAME`` stands for ``lib/NAME.lua``, once. ``--@include fields`` stands for the
file of the server's expiry tier, and ``--@verb NAME`` for a whole script, with its own copy of all that it includes:
the body of a function in another one. Sources are constants of the package: nothing a caller says becomes part of one.

A call is one ``EVALSHA``. When the server has forgotten the script, the call loads it again (``SCRIPT LOAD``, which
the server never evicts) and runs it with ``EVAL`` in the same round trip, so another ``SCRIPT FLUSH`` in between
cannot hurt.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from redismem.durability import Receipt
from redismem.link.base import Argument, Command, Link, Reply, only
from redismem.link.faults import NoScript
from redismem.link.features import ExpiryTier

_INCLUDE = re.compile(r"^--@(include|verb) (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One verb: its name, its expanded source and the SHA-1 that names it on the server."""

    name: str
    source: str
    sha: str

    def command(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
        """The command that calls the script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    async def __call__(
        self,
        link: Link,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        retry: bool = True,
        durable: Receipt | None = None,
        ahead: Sequence[Command] = (),
    ) -> Reply:
        """Run the script: one round trip, two when the server had forgotten it. Raises `LinkError`.

        Commands that are to be sent `ahead` go in the same round trip; what they reply is nobody's business.
        """
        command = self.command(keys, arguments)
        if durable is not None:  # with its source: a forgotten script would have the server wait twice
            command = ("EVAL", self.source, *command[2:])
        try:
            if not ahead:
                return await link.execute(*command, retry=retry, durable=durable)
            return only((await link.pipeline((*ahead, command), retry=retry, durable=durable))[-1:])[0]
        except NoScript:
            again = ("SCRIPT", "LOAD", self.source), ("EVAL", self.source, *command[2:])
            return only(await link.pipeline(again, retry=retry))[1]


@functools.cache
def script(name: str, tier: ExpiryTier) -> Script:
    """The script ``lua/<name>.lua`` for servers of this expiry tier."""
    source = _expanded(name, tier, set())
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    _sources[sha] = source
    return Script(name, source, sha)


_sources: dict[Argument, str] = {}


def surely(commands: Iterable[Command]) -> Iterator[Command]:
    """The commands of a pipeline, where a forgotten script must not let later commands overtake its call.

    The first call of each script brings its source along.
    """
    known: set[Argument] = set()
    for command in commands:
        if command[0] == "EVALSHA" and command[1] not in known:
            known.add(command[1])
            yield ("EVAL", _sources[command[1]], *command[2:])
        else:
            yield command


def _expanded(name: str, tier: ExpiryTier, seen: set[str]) -> str:
    def include(match: re.Match[str]) -> str:
        if match[1] == "verb":
            return _expanded(match[2], tier, set())
        part = f"fields_{tier}" if match[2] == "fields" else match[2]
        if part in seen:
            return ""
        seen.add(part)
        return _expanded(f"lib/{part}", tier, seen)

    return _INCLUDE.sub(include, (files("redismem") / "lua" / f"{name}.lua").read_text("utf-8"))
