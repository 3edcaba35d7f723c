"""What is searched, what is asked, and what is found: values that nobody changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One thing that can be found. Two with the same `id` are two states of one document.

    `at` is when it was said or done, in seconds since 1970; within a `session` it gives the order of the conversation
    (at one instant, `order` does; then shorter ids come first, then ids in alphabetical order). `importance` is 0 to 1.
    `score` and `success` are how it ended, for filters and for those who show it. `vector` is an embedding, of any
    length but zero.
    """

    id: str
    text: str
    at: float = 0.0
    session: str | None = None
    speaker: str | None = None
    user: str | None = None
    task_id: str | None = None
    tags: frozenset[str] = frozenset()
    importance: float = 0.0
    score: float = 0.0
    success: bool | None = None
    vector: Vector | None = None
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What is wanted: by `text`, by `vector`, by both, or by the filters alone (then by importance and age).

    A document has to pass all filters: `tags` are tags that it must have all of, `any_tags` those of which it must have
    one; `since` <= at < `until`; `min_reward` <= its own `score`; `success_only` wants those known to have succeeded.
    `min_score` (0 to 1) is for the hit's score. `now` is what "yesterday" is relative to, and from when ages count: in
    seconds since 1970, or None for the newest document.
    """

    text: str = ""
    vector: Vector | Sequence[float] | None = None
    session: str | None = None
    task_id: str | None = None
    user: str | None = None
    speaker: str | None = None
    tags: frozenset[str] = frozenset()
    any_tags: frozenset[str] = frozenset()
    success_only: bool = False
    min_reward: float | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 10
    min_score: float = 0.0
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found. `parts` are what its `score` was made of, each 0 to 1: see docs/search.md."""

    id: str
    score: float
    parts: Mapping[str, float]
