"""One agent replays one recorded run through shared memory, so that it can be killed at any moment.

What a run leaves behind, in sessions of redismem:

=======================  ==============  =========================================================================
session                  namespace       keys
=======================  ==============  =========================================================================
the run's                ``messages``    ``000000``, ``000001`` ... : each message as recorded
the run's                ``counters``    ``role:<role>``, ``tool:<name>``: how often each occurred, by `increment`
the run's                ``flags``       ``status``, ``awaiting_tool`` (the ids of open calls), both with a TTL,
                                         and ``position``, the number of messages done
the run's                ``presence``    one key for each message, which expires soon
``user-<user_id>``       ``shared``      ``progress``, one dict of all the user's runs, by `update`;
                                         ``messages:<session_id>``, by `increment`
=======================  ==============  =========================================================================

and in the memories, what each message teaches (`redismem.ops.replay.lesson`): a turn in the user's history, in a
conversation named after the run; a use of a skill; the user's entities, which all of the user's runs find out about at
the same time; facts. In the end the run itself becomes an episode.

Why the counts are exact
    An agent does all that a message asks for, then moves ``position`` from i to i + 1 with `compare_and_set`. So when
    it dies, everything before message i is done, nothing after it is begun, and of message i itself each part is done
    or not. Its successor does message i again. The merge into ``progress`` (the larger number wins) may be done twice.
    All else is one batch, step i + 1 of the job that the run is: what was applied of it is not applied again.

    This holds if nobody writes for the run any more when the successor begins to read. A dead process' last bytes may
    still wait in the server's socket, so the run is not handed on before the server has closed the dead process'
    connections, which it does after the last of those bytes. If an agent's own connection breaks, its process ends
    rather than guess what was applied, and the same rule holds. Were there two agents on one run after all, one of
    them would find ``position`` moved, and fail.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from redismem.batch import AsyncBatch
from redismem.errors import Conflict
from redismem.memory import AsyncMemory
from redismem.op import Handle
from redismem.ops.replay.lesson import Lesson, episode, lessons, skills
from redismem.ops.replay.meter import Meter
from redismem.ops.replay.recording import Message, Recording, called_tools
from redismem.ops.replay.travel import Travel
from redismem.stores.sessions import MISSING

PRESENCE_TTL: Final = 0.3
FLAGS_TTL: Final = 86_400.0


class Place(NamedTuple):
    """Where one value of the shared memory is."""

    session_id: str
    namespace: str
    key: str


def message_key(index: int) -> str:
    """The key under which a message is stored."""
    return f"{index:06d}"


def counts(recording: Recording, message: Message) -> Counter[Place]:
    """The counters that a message raises, and by how much."""
    names = [f"role:{message['role']}", *(f"tool:{name}" for name in called_tools(message))]
    places = [Place(recording.session_id, "counters", name) for name in names]
    if recording.user_session_id is not None:
        places.append(Place(recording.user_session_id, "shared", f"messages:{recording.session_id}"))
    return Counter(places)


def open_calls(before: list[str], message: Message) -> list[str]:
    """The ids of the tool calls that still wait for their answer after a message."""
    made = [call["id"] for call in message.get("tool_calls") or ()]
    return [call for call in [*before, *made] if call != message.get("tool_call_id")]


class Agent:
    """Replays one recording, from where a predecessor stopped. `think` is how long it ponders each message, in s."""

    def __init__(self, memory: AsyncMemory, recording: Recording, meter: Meter, think: float = 0.0) -> None:
        self._memory = memory
        self._sessions = memory.sessions
        self._recording = recording
        self._lessons = list(lessons(recording))
        self._id = recording.session_id
        self._time = meter.time
        self._meter = meter
        self._think = think
        self._open_calls: list[str] = []

    async def replay(self) -> None:
        """Do all messages that are not done yet. Raises `LinkError`, or `Conflict`; a successor may then go on."""
        position: int = await self._time(self._sessions.load(self._id, "flags", "position", 0))
        for message in self._recording.messages[:position]:
            self._open_calls = open_calls(self._open_calls, message)
        for index in range(position, len(self._recording.messages)):
            await asyncio.sleep(self._think)
            await self._do(index)
            self._meter.messages += 1
        await self._together(self._close)

    async def _do(self, index: int) -> None:
        """All that one message asks for."""
        if index == 0:
            await self._together(self._open)
        began = time.monotonic()
        results = await self._together(lambda batch: self._take_in(batch, index), step=index + 1)
        self._meter.torn += sum(result is False for result in results)
        left = await self._time(self._sessions.ttl(self._id, "presence", message_key(index)))
        self._meter.lost += left is None and time.monotonic() - began < PRESENCE_TTL
        if self._recording.user_session_id is not None:
            await self._share_progress(self._recording.user_session_id, index + 1)
        await self._commit(index)

    async def _together(self, calls: Callable[[AsyncBatch], Iterable[Handle[Any]]], step: int = 0) -> list[Any]:
        """The results of many calls, made as one batch; with `step`, as this step of the run."""
        with self._meter.timing():
            async with self._memory.batch(self._id if step else None, step) as batch:
                handles = list(calls(batch))
        self._meter.operations += len(handles) - 1
        return [handle.result() for handle in handles]

    def _open(self, batch: AsyncBatch) -> Iterator[Handle[Any]]:
        yield batch.sessions.save(self._id, "flags", "status", "open", FLAGS_TTL, user_id=self._recording.user_id)
        for skill in skills(self._recording):
            yield batch.skills.add(skill)

    def _take_in(self, batch: AsyncBatch, index: int) -> Iterator[Handle[Any]]:
        """What a message says is stored and counted, and which calls are open now; nothing of it may be refused."""
        message, sessions = self._recording.messages[index], batch.sessions
        yield sessions.save(self._id, "messages", message_key(index), message)
        yield sessions.save(self._id, "presence", message_key(index), index, PRESENCE_TTL)
        for place, by in counts(self._recording, message).items():
            yield sessions.increment(*place, by)
        yield from self._learn(batch, self._lessons[index])
        before, after = self._open_calls if index else MISSING, open_calls(self._open_calls, message)
        if after != before:
            yield sessions.compare_and_set(self._id, "flags", "awaiting_tool", before, after, FLAGS_TTL)
        self._open_calls = after

    def _learn(self, batch: AsyncBatch, lesson: Lesson) -> Iterator[Handle[Any]]:
        owner = self._recording.owner
        yield batch.history.extend(owner, [lesson.turn], conversation=self._id)
        if lesson.use is not None:
            yield batch.skills.use(lesson.use.tool, success=lesson.use.success)
        if not lesson.travel.is_empty:
            yield batch.entities.of(Travel).merge(owner, lesson.travel)
        if lesson.facts:
            yield batch.semantics.add_many(lesson.facts)

    def _close(self, batch: AsyncBatch) -> Iterator[Handle[Any]]:
        yield batch.sessions.save(self._id, "flags", "status", "done", FLAGS_TTL)
        yield batch.episodes.add(episode(self._recording))

    async def _share_progress(self, user_session_id: str, done: int) -> None:
        def merged(progress: dict[str, int]) -> dict[str, int]:
            return {**progress, self._id: max(done, progress.get(self._id, 0))}

        owner = self._recording.user_id
        await self._time(self._sessions.update(user_session_id, "shared", "progress", merged, {}, user_id=owner))

    async def _commit(self, index: int) -> None:
        before = index or MISSING
        if not await self._time(self._sessions.compare_and_set(self._id, "flags", "position", before, index + 1)):
            raise Conflict(f"session {self._id!r}: another agent has done message {index} at the same time")
