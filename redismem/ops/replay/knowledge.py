"""Whether the memories know exactly what the recordings teach: each episode, use, entity, fact and turn, once.

What concurrent runs of one user found out at the same time is merged here as the models say, one run after the other:
sums, unions, least and greatest are the same in any order. Of the latest, and of what only the first fills in, it must
be what one of the runs wrote last, or first; one run is sure of itself.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from pydantic import BaseModel

from redismem.memory import Memory
from redismem.ops.replay.lesson import Lesson, Use, episode, lessons, skills
from redismem.ops.replay.recording import Recording
from redismem.ops.replay.travel import Travel
from redismem.ops.replay.verdict import AT_ONCE, OneOf, Verdict
from redismem.stores.history import Turns
from redismem.stores.identity import identities
from redismem.stores.semantics import SemanticMemory
from redismem.stores.shape import shape

Taught = Mapping[str, Sequence[Lesson]]
"""The lessons of each run, by its session."""
_FADES: Final = 1e-3
"""How much of its confidence a fact may have lost since."""


def check_knowledge(verdict: Verdict, memory: Memory, recordings: Sequence[Recording]) -> None:
    """Compare the memories with the recordings. Raises `LinkError`."""
    taught = {recording.session_id: list(lessons(recording)) for recording in recordings}
    _check_episodes(verdict, memory, recordings)
    _check_skills(verdict, memory, recordings, taught)
    _check_facts(verdict, memory, taught)
    owners: defaultdict[str, dict[str, Sequence[Lesson]]] = defaultdict(dict)
    for recording in recordings:
        owners[recording.owner][recording.session_id] = taught[recording.session_id]
    for some in _portions(owners):
        _check_entities(verdict, memory, {owner: owners[owner] for owner in some})
        _check_turns(verdict, memory, {owner: owners[owner] for owner in some})


# --- episodes, skills, facts ------------------------------------------------------------------------------------------


def _check_episodes(verdict: Verdict, memory: Memory, recordings: Sequence[Recording]) -> None:
    wanted = {one.memory_id: _untimed(one) for one in map(episode, recordings)}
    found = {one.memory_id: _untimed(one) for page in memory.episodes.stream() for one in page}
    verdict.tell("episodes", len(wanted), verdict.compare("episodes", wanted, found))
    verdict.tell("successes", *(sum(one["success"] is True for one in some.values()) for some in (wanted, found)))


def _check_skills(verdict: Verdict, memory: Memory, recordings: Sequence[Recording], taught: Taught) -> None:
    uses = Counter(lesson.use for run in taught.values() for lesson in run if lesson.use is not None)
    names = {skill.skill_name for recording in recordings for skill in skills(recording)}
    wanted = {name: _uses(uses[Use(name, True)] + uses[Use(name, False)], uses[Use(name, True)]) for name in names}
    found = {one.skill_name: _uses(one.uses, one.successes) for page in memory.skills.stream() for one in page}
    verdict.tell("skills", len(wanted), verdict.compare("skills", wanted, found))
    for what in ("uses", "uses that went well"):
        verdict.tell(what, *(sum(one[what] for one in some.values()) for some in (wanted, found)))


def _uses(uses: int, successes: int) -> dict[str, int]:
    return {"uses": uses, "uses that went well": successes}


def _check_facts(verdict: Verdict, memory: Memory, taught: Taught) -> None:
    told: defaultdict[str, list[SemanticMemory]] = defaultdict(list)
    for fact in (fact for run in taught.values() for lesson in run for fact in lesson.facts):
        told[fact.memory_id].append(fact)
    surest = {id_: max(fact.confidence for fact in facts) for id_, facts in told.items()}
    wanted = {
        id_: OneOf(frozenset(_said(fact, surest[id_]) for fact in facts if fact.confidence == surest[id_]))
        for id_, facts in told.items()
    }
    found = {
        fact.memory_id: _said(fact, surest.get(fact.memory_id, 0.0))
        for page in memory.semantics.stream()
        for fact in page
    }
    verdict.tell("facts", len(wanted), verdict.compare("facts", wanted, found))


def _said(fact: SemanticMemory, surest: float) -> tuple[Any, ...]:
    """A fact, in the confidence of its surest telling if that is what it has."""
    confidence = surest if math.isclose(fact.confidence, surest, abs_tol=_FADES) else fact.confidence
    return fact.subject, fact.predicate, fact.object, confidence, fact.source, fact.user_id


def _untimed(document: BaseModel) -> dict[str, Any]:
    return document.model_dump(exclude={"created_at"})


# --- turns ------------------------------------------------------------------------------------------------------------


def _check_turns(verdict: Verdict, memory: Memory, owners: Mapping[str, Taught]) -> None:
    with memory.batch() as batch:
        names = {owner: batch.history.conversations(owner) for owner in owners}
        found = {
            (owner, session_id): batch.history.turns(owner, conversation=session_id)
            for owner, taught in owners.items()
            for session_id in taught
        }
    for owner, listed in names.items():
        for name in set(listed.result()) - owners[owner].keys():
            verdict.tear(f"history of {owner}[{name}]", "was never written")
    for (owner, session_id), handle in found.items():
        turns: Turns = handle.result()
        wanted = {number: _turn(lesson.turn) for number, lesson in enumerate(owners[owner][session_id], 1)}
        there = {turn.number: _turn(turn) for turn in turns}
        right = verdict.compare(f"history of {owner}/{session_id}", wanted, there, turns.unreadable)
        verdict.tell("turns", len(wanted), right)


def _turn(turn: BaseModel) -> dict[str, Any]:
    return turn.model_dump(include={"role", "content", "metadata"})


# --- entities ---------------------------------------------------------------------------------------------------------


def _check_entities(verdict: Verdict, memory: Memory, owners: Mapping[str, Taught]) -> None:
    with memory.batch() as batch:
        loaded = {owner: batch.entities.of(Travel).load(owner) for owner in owners}
    for owner, taught in owners.items():
        wanted = merged([lesson.travel for lesson in run] for run in taught.values())
        found = list(_entities(loaded[owner].result()))
        known = {place: entity.model_dump() for place, entity in found}
        for place, times in Counter(place for place, _ in found).items():
            verdict.tear(f"entities of {owner}[{place}]", "is there again", times - 1)
        for place in known.keys() - wanted.keys():
            verdict.tear(f"entities of {owner}[{place}]", "was never written")
        for place, attributes in wanted.items():
            right = 0
            if place in known:
                right = verdict.compare(f"entities of {owner}[{place}]", attributes, known[place])
            else:
                verdict.lose(f"entities of {owner}[{place}]")
            verdict.tell("entities", 1, int(right == len(attributes)))
            verdict.tell("attributes", len(attributes), right)


def merged(runs: Iterable[Iterable[Travel]]) -> dict[str, dict[str, Any]]:
    """What all runs of a user find out: of each entity every attribute."""
    told: defaultdict[str, list[list[BaseModel]]] = defaultdict(list)
    for run in runs:
        by_place: defaultdict[str, list[BaseModel]] = defaultdict(list)
        for place, entity in (found for travel in run for found in _entities(travel)):
            by_place[place].append(entity)
        for place, entities in by_place.items():
            told[place].append(entities)
    return {place: _attributes(mentions) for place, mentions in told.items()}


def _attributes(runs: Sequence[Sequence[BaseModel]]) -> dict[str, Any]:
    """The attributes of one entity, of which each run had these mentions."""
    model = type(runs[0][0])
    merged: dict[str, Any] = {}
    for name, attribute in shape(model).attributes.items():
        said = [[value for one in run if (value := getattr(one, name)) is not None] for run in runs]
        known = [values for values in said if values]
        merge = _MERGES[attribute.policy.name]
        merged[name] = merge(known) if known else model.model_fields[name].default
    return merged


def _flat(fold: Callable[[Iterable[Any]], Any]) -> Callable[[Sequence[Sequence[Any]]], Any]:
    return lambda runs: fold(value for run in runs for value in run)


_MERGES: Final[Mapping[str, Callable[[Sequence[Sequence[Any]]], Any]]] = {
    "sum": _flat(sum),
    "max": _flat(max),
    "min": _flat(min),
    "union": _flat(lambda sets: frozenset(chain.from_iterable(sets))),
    "latest": lambda runs: OneOf(frozenset(run[-1] for run in runs)),
    "fill-missing": lambda runs: OneOf(frozenset(run[0] for run in runs)),
}


def _entities(travel: Travel) -> Iterator[tuple[str, BaseModel]]:
    """Every entity, and where it is: its kind and what makes it itself."""
    for kind, entities in travel:
        for entity in entities:
            yield f"{kind} {max(identities(entity))}", entity


def _portions(owners: Iterable[str]) -> Iterator[list[str]]:
    left = list(owners)
    for start in range(0, len(left), AT_ONCE):
        yield left[start : start + AT_ONCE]
