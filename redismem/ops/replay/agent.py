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

Why the counts are exact
    An agent does all that a message asks for, then moves ``position`` from i to i + 1 with `compare_and_set`. So when
    it dies, everything before message i is done, nothing after it is begun, and of message i itself each part is done
    or not. Its successor does message i again. Saves and the merge into ``progress`` (the larger number wins) may be
    done twice. A counter may not, but only the run's own agent ever writes it, so its value tells: it is what the
    messages before i add up to, or it has message i in it already and is left alone.

    This holds if nobody writes for the run any more when the successor begins to read. A dead process' last bytes may
    still wait in the server's socket, so the run is not handed on before the server has closed the dead process'
    connections, which it does after the last of those bytes. If an agent's own connection breaks, its process ends
    rather than guess what was applied, and the same rule holds. Were there two agents on one run after all, one of
    them would find ``position`` moved, and fail.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from redismem.errors import Conflict
from redismem.memory import AsyncMemory
from redismem.ops.replay.meter import Meter
from redismem.ops.replay.recording import Message, Recording, called_tools
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
        self._id = recording.session_id
        self._time = meter.time
        self._meter = meter
        self._think = think
        self._counted: Counter[Place] = Counter()
        self._open_calls: list[str] = []

    async def replay(self) -> None:
        """Do all messages that are not done yet. Raises `LinkError`, or `Conflict`; a successor may then go on."""
        position: int = await self._time(self._sessions.load(self._id, "flags", "position", 0))
        for message in self._recording.messages[:position]:
            self._counted += counts(self._recording, message)
            self._open_calls = open_calls(self._open_calls, message)
        for index in range(position, len(self._recording.messages)):
            await asyncio.sleep(self._think)
            await self._do(index, begun=index == position)
            self._meter.messages += 1
        await self._time(self._sessions.save(self._id, "flags", "status", "done", FLAGS_TTL))

    async def _do(self, index: int, *, begun: bool) -> None:
        """All that one message asks for; `begun` if a predecessor may have done parts of it."""
        message = self._recording.messages[index]
        if index == 0:
            await self._open()
        await self._time(self._sessions.save(self._id, "messages", message_key(index), message))
        await self._count(index, begun=begun)
        await self._flag_open_calls(message, begun=begun)
        if self._recording.user_session_id is not None:
            await self._share_progress(self._recording.user_session_id, index + 1)
        await self._commit(index)

    async def _open(self) -> None:
        flags: dict[str, Any] = {"status": "open", "awaiting_tool": []}
        owner = self._recording.user_id
        await self._time(self._sessions.save_many(self._id, "flags", flags, FLAGS_TTL, user_id=owner))

    async def _count(self, index: int, *, begun: bool) -> None:
        """Raise the counters that need it, and show for a moment that the agent is at this message: one batch."""
        due = counts(self._recording, self._recording.messages[index])
        after = self._counted + due
        if begun:
            held = await self._held(due)
            due = Counter({place: by for place, by in due.items() if held[place] != after[place]})
        began = time.monotonic()
        with self._meter.timing(len(due) + 1):
            async with self._memory.batch() as batch:
                calls = [batch.sessions.increment(*place, by) for place, by in due.items()]
                shown = batch.sessions.save(self._id, "presence", message_key(index), index, PRESENCE_TTL)
        for call in calls:
            call.result()
        shown.result()
        self._counted = after
        left = await self._time(self._sessions.ttl(self._id, "presence", message_key(index)))
        if left is None and time.monotonic() - began < PRESENCE_TTL:
            self._meter.lost += 1

    async def _held(self, places: Iterable[Place]) -> dict[Place, int]:
        """The counters as a predecessor left them."""
        async with self._memory.batch() as batch:
            held = {place: batch.sessions.load(*place, 0) for place in places}
        return {place: handle.result() for place, handle in held.items()}

    async def _flag_open_calls(self, message: Message, *, begun: bool) -> None:
        before, after = self._open_calls, open_calls(self._open_calls, message)
        if after != before:
            swap = self._sessions.compare_and_set(self._id, "flags", "awaiting_tool", before, after, FLAGS_TTL)
            self._meter.torn += not (await self._time(swap) or begun)
        self._open_calls = after

    async def _share_progress(self, user_session_id: str, done: int) -> None:
        def merged(progress: dict[str, int]) -> dict[str, int]:
            return {**progress, self._id: max(done, progress.get(self._id, 0))}

        owner = self._recording.user_id
        await self._time(self._sessions.update(user_session_id, "shared", "progress", merged, {}, user_id=owner))

    async def _commit(self, index: int) -> None:
        before = index or MISSING
        if not await self._time(self._sessions.compare_and_set(self._id, "flags", "position", before, index + 1)):
            raise Conflict(f"session {self._id!r}: another agent has done message {index} at the same time")
