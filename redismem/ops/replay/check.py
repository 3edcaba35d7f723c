"""Whether a memory holds exactly what the recordings say, which this process alone reads from first to last."""

from collections.abc import Sequence

from redismem.memory import Memory
from redismem.ops.replay.knowledge import check_knowledge
from redismem.ops.replay.recording import Recording
from redismem.ops.replay.sessions import check_sessions
from redismem.ops.replay.verdict import Verdict


def check(memory: Memory, recordings: Sequence[Recording]) -> Verdict:
    """Compare sessions and memories with the recordings. Raises `LinkError`."""
    verdict = Verdict()
    check_sessions(verdict, memory, recordings)
    check_knowledge(verdict, memory, recordings)
    return verdict
