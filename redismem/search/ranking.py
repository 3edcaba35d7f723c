"""How well documents answer: words, conversation, vectors, and what lifts one of two that answer alike.

`relevance` comes first: 0 to 1, a weighted mean of what text and vector say. Lifts multiply it, so they order what is
relevant and never make anything relevant. docs/search.md explains each weight.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from redismem.search.moments import Interval
from redismem.search.texts import Rows

Scores: TypeAlias = NDArray[np.float64]
Words: TypeAlias = Sequence[tuple[Rows, float]]
"""Of each word of a question: the rows that hold it, and how rare it is."""

_NEAR: Final = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much. All are at least 0; a part with 0 is left out.

    Parts of the relevance, whose mean it is: `turn` (words of the document and its neighbours), `session` (words of its
    whole conversation), `vector` (cosine, with a share from neighbours), `fusion` (reciprocal ranks in both lists).

    `before` and `after` say how much a word counts that is not in a document, but in the one before it, the second one
    before it, and those after it. `saturation` is BM25's k1, how little a further occurrence adds, and `length` its b,
    how much long texts are held back; `session_saturation` and `session_length` are the same for conversations.
    `vector_context` is the share of the neighbours' vectors; `rank_constant` the k of reciprocal-rank fusion.

    Lifts: a document that is all that the lift asks for gets 1 + weight times the relevance: `speaker` (the question
    names who said it), `time` (it was said when the question says, or within a week of that), `answer` (it has a time
    for "when", a number for "how many"), `recency` (halved every `half_life` seconds), `importance`.
    """

    turn: float = 1.0
    session: float = 0.3
    vector: float = 1.0
    fusion: float = 0.5
    before: tuple[float, float] = (0.5, 0.25)
    after: tuple[float, float] = (0.4, 0.2)
    saturation: float = 0.6
    length: float = 0.4
    session_saturation: float = 0.6
    session_length: float = 0.6
    vector_context: float = 0.3
    rank_constant: float = 60.0
    speaker: float = 0.5
    time: float = 0.4
    answer: float = 0.25
    recency: float = 0.05
    half_life: float = 30 * 86400.0
    importance: float = 0.1

    @property
    def reach(self) -> Scores:
        """Weights of a window, from the second document before to the second one after: a line for each."""
        return np.array((*reversed(self.before), 1.0, *self.after))[:, np.newaxis]


def rarity(count: int, holding: float) -> float:
    """BM25's weight of a word that is in `holding` of `count` texts."""
    return math.log1p((max(count - holding, 0) + 0.5) / (holding + 0.5))


def turns(words: Words, windows: Rows, length: NDArray[Any], mean: float, by: Weights) -> Scores:
    """BM25 of documents with their neighbours, relative to the highest there is."""
    weights = by.reach / (1 - by.length + by.length * length.take(windows) / (mean or 1.0))
    is_there, found = np.zeros(len(length), np.bool_), np.zeros(windows.shape[1])
    for rows, weight in words:
        is_there[rows] = True
        amount = np.einsum("ij,ij->j", is_there.take(windows), weights)
        is_there[rows] = False
        found += weight * amount / (amount + by.saturation)
    return found / (sum(weight for _, weight in words) or 1.0)


def sessions(words: Words, session: NDArray[Any], lengths: Scores, of: NDArray[Any], by: Weights) -> Scores:
    """BM25 of the conversations that documents are `of`, each as one text, relative to the highest there is."""
    found, total = np.zeros(len(of)), 0.0
    there = int(np.count_nonzero(lengths[1:]))
    norms = by.session_saturation * (
        1 - by.session_length + by.session_length * lengths[of] / (lengths[1:].sum() / max(there, 1) or 1.0)
    )
    for rows, _ in words:
        counts = np.bincount(session[rows], minlength=len(lengths))
        counts[0] = 0
        weight = rarity(there, int(np.count_nonzero(counts)))
        amount = counts.take(of)
        found += weight * amount / (amount + norms)
        total += weight
    return found / (total or 1.0)


def in_context(cosines: Scores, windows: Rows, by: Weights) -> Scores:
    """Each one's cosine, and to a share the highest among its neighbours', by their distance."""
    around, middle = by.reach, len(windows) // 2
    around[middle] = 0
    near = cosines.take(windows).astype(np.float64)
    own, highest = near[middle], (near * around).max(axis=0)
    return np.asarray(np.minimum(own * (1 - by.vector_context) + highest * by.vector_context, 1), np.float64)


def fusion(lists: Sequence[Scores], by: Weights) -> Scores:
    """Reciprocal-rank fusion, 1 for what is first in every list, times the best score, so that it says how good."""
    fused = np.zeros(len(lists[0]))
    for scores in lists:
        ranks = np.searchsorted(np.sort(-scores), -scores)  # equals share the best one
        fused += np.where(scores > 0, (by.rank_constant + 1) / (by.rank_constant + 1 + ranks), 0)
    return np.asarray(fused / len(lists) * np.maximum.reduce(lists))


def in_time(at: Scores, intervals: Iterable[Interval]) -> Scores:
    """1 within one of the intervals; at either side of it less, down to 0 a week away."""
    found = np.zeros(len(at))
    for start, end in intervals:
        away = np.maximum(np.maximum(start - at, at - end), 0)
        found = np.maximum(found, np.maximum(1 - away / _NEAR, 0) ** 2)
    return found


def recency(at: Scores, now: float, by: Weights) -> Scores:
    """Halved every `half_life` seconds before `now`."""
    return np.asarray(np.exp2(np.minimum(at - now, 0) / by.half_life))


def together(parts: Mapping[str, Scores], lifts: Mapping[str, Scores], by: Weights, count: int) -> Scores:
    """The score: the weighted mean of the parts, 1 without any, times the lifts; 0 to 1."""
    weights = {name: getattr(by, name) for name in (*parts, *lifts)}
    whole = sum(weights[name] for name in parts) or 1.0
    score = np.zeros(count) if parts else np.ones(count)
    for name, part in parts.items():
        score += part * (weights[name] / whole)
    for name, lift in lifts.items():
        score *= (1 + weights[name] * lift) / (1 + weights[name])
    return score.clip(0, 1)
