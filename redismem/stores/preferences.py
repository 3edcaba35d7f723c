"""Preferences: what a user wants agents to heed, as named values that every worker may set.

Contract
    ``memory.preferences.set("42", "tone", "brief")``; workers that set different preferences at once never disturb each
    other, and of one preference the latest value stays. ``apply("42", prompt)`` says them to a model: the lines before
    the prompt are the same for the same preferences, and never longer than wished.

Round trips and errors are those of `redismem.stores.values`.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from redismem.durability import Durability
from redismem.op import Asyncio, Blocking, op
from redismem.stores.store import BatchedStore
from redismem.stores.values import NamedValues
from redismem.ttl import FOREVER_MS

_HEADING: Final = "User preferences:"


class PreferenceOperations(NamedValues):
    """Every operation on preferences, written once.

    `PreferenceStore` and `AsyncPreferenceStore` are what callers use; `PreferenceBatch` is the same inside a batch.
    """

    def _place(self, user_id: str) -> str:
        return self._keys.preferences(user_id)

    @op
    async def set(self, user_id: str, key: str, value: Any, *, durable: Durability | None = None) -> None:
        """Set one preference."""
        await self._put(user_id, {key: value}, FOREVER_MS, durable)

    @op
    async def set_many(self, user_id: str, mapping: Mapping[str, Any], *, durable: Durability | None = None) -> None:
        """Set several preferences, all or none."""
        await self._put(user_id, mapping, FOREVER_MS, durable)

    @op
    async def apply(self, user_id: str, prompt: str, *, max_chars: int = 2000, fresh: bool = False) -> str:
        """The prompt, with the user's preferences in front: a line ``- <name>: <value>`` for each, by name.

        At most `max_chars` characters are added: a line that does not fit any more is left out as a whole, and the
        prompt stays as it is where there is none. Each preference is one line, whatever it holds. Those that cannot be
        read are left out; `get_all` reports them.
        """
        lines, room = [_HEADING], max_chars - len(f"{_HEADING}\n\n")
        for key, value in (await self._all(user_id, fresh)).items():
            line = f"- {_said(key)}: {_said(value)}"
            if len(line) < room:
                lines.append(line)
                room -= len(f"\n{line}")
        return "\n".join([*lines, "", prompt]) if len(lines) > 1 else prompt


class PreferenceStore(PreferenceOperations, Blocking):
    """Preferences for threads: every operation of `PreferenceOperations` as a plain call."""


class AsyncPreferenceStore(PreferenceOperations, Asyncio):
    """Preferences for tasks: every operation of `PreferenceOperations`, to be awaited."""


class PreferenceBatch(PreferenceOperations, BatchedStore):
    """Preferences inside a batch: every operation of `PreferenceOperations`, giving a `Handle`."""


def _said(value: Any) -> str:
    """A value as people say it, on one line; always the same for equal values."""
    whole: Any = value  # which no case narrows
    match value:
        case bool():
            text = "yes" if value else "no"
        case Mapping():
            text = ", ".join(f"{_said(key)}: {_said(item)}" for key, item in whole.items())
        case set() | frozenset():
            text = ", ".join(sorted(map(_said, cast(set[Any], whole))))
        case list() | tuple():
            text = ", ".join(map(_said, whole))
        case _:
            text = str(whole)
    return " ".join(text.split())
