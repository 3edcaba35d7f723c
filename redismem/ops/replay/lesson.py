"""What a run teaches, message by message, and whole: what agents tell the memories, and what these must then know.

Every message is a turn of the user's history. What a tool answers counts as a use of the skill of its name, which went
well unless the answer begins with "Error"; it tells of entities (`redismem.ops.replay.travel`), and facts follow from
these. The run itself is an episode.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redismem.ops.replay.recording import Message, Recording, called_tools
from redismem.ops.replay.travel import Travel, facts, found
from redismem.stores.episodes import EpisodicMemory
from redismem.stores.history import NewTurn
from redismem.stores.semantics import SemanticMemory
from redismem.stores.skills import SkillMemory


class Use(NamedTuple):
    """A tool was used."""

    tool: str
    success: bool


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one message teaches."""

    turn: NewTurn
    use: Use | None
    travel: Travel
    facts: list[SemanticMemory]
    """Those that the run did not know as surely before."""


def lessons(recording: Recording) -> Iterator[Lesson]:
    """What each message teaches, in order."""
    calls: dict[str, Mapping[str, Any]] = {}
    surest: dict[tuple[str, str, str], float] = {}
    for message in recording.messages:
        calls |= {call["id"]: call["function"] for call in message.get("tool_calls") or ()}
        answered = calls.get(message.get("tool_call_id") or "")
        travel = Travel() if answered is None else found(message.get("content"), answered.get("arguments"))
        told = {"source": recording.session_id, "user_id": recording.owner}
        learned = [fact.model_copy(update=told) for fact in facts(travel) if _is_news(fact, surest)]
        use = None if answered is None else Use(answered["name"], not _text(message).startswith("Error"))
        yield Lesson(_turn(message), use, travel, learned)


def skills(recording: Recording) -> list[SkillMemory]:
    """The tools of a run."""
    names = sorted({tool for message in recording.messages for tool in called_tools(message)})
    return [SkillMemory(skill_name=name, description=name.replace("_", " ")) for name in names]


def episode(recording: Recording) -> EpisodicMemory:
    """A run, once it is over."""
    said = (f"{message['role']}: {_text(message)}" for message in recording.messages if _text(message))
    return EpisodicMemory(
        memory_id=recording.session_id,
        content="\n".join(said),
        task_id=recording.task_id,
        session_id=recording.session_id,
        user_id=recording.user_id,
        tags=frozenset(skill.skill_name for skill in skills(recording)),
        success=None if recording.reward is None else recording.reward == 1,
        score=recording.reward or 0.0,
    )


def _is_news(fact: SemanticMemory, surest: dict[tuple[str, str, str], float]) -> bool:
    """Whether the run did not know a fact, or not as surely; from now on it does."""
    known = fact.subject, fact.predicate, fact.object
    is_news = surest.get(known, -1.0) < fact.confidence
    if is_news:
        surest[known] = fact.confidence
    return is_news


def _text(message: Message) -> str:
    content: object = message.get("content")
    return content if isinstance(content, str) else ""


def _turn(message: Message) -> NewTurn:
    """All of a message: what is not said in words goes with it."""
    text = _text(message)
    rest = {name: value for name, value in message.items() if name != "role" and not (text and name == "content")}
    return NewTurn(role=message["role"], content=text, metadata=rest)
