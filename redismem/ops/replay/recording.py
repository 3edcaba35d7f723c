"""Recorded agent runs: reading them from files, and refusing what is none.

Two kinds of file, told apart by their content:

- JSON lines of ``{"session_id", "user_id", "task_id", "reward", "messages"}``; all but the session and the messages may
  be missing or null;
- a tau-bench file: one JSON array of ``{"task_id", "trial", "reward", "info": {"task": {"user_id"}}, "traj"}``.

A ``reward`` of 1 says that the run did what it was to do.

Messages are those of OpenAI's chat API: each has a ``role``, and may have ``tool_calls`` or a ``tool_call_id``.
Whatever is malformed, or could not be stored, is a `ConfigError` that names the file and the line.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, Field, ValidationError

from redismem.codec import Codec
from redismem.errors import ConfigError, EncodeError, InvalidKey
from redismem.keys import encode_segment, field

Message = Mapping[str, Any]

_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of one agent: what was said in a session, in order."""

    session_id: str
    user_id: str | None
    messages: Sequence[Message]
    task_id: str | None = None
    reward: float | None = None

    @property
    def owner(self) -> str:
        """Whose memories tell of the run: the user's, or those of nobody but itself."""
        return self.session_id if self.user_id is None else self.user_id

    @property
    def user_session_id(self) -> str | None:
        """The session that holds what all runs of the user share."""
        return None if self.user_id is None else f"user-{self.user_id}"


def read(paths: Iterable[Path]) -> list[Recording]:
    """Every run of the files, in order. Raises `ConfigError`."""
    recordings: dict[str, Recording] = {}
    for path in paths:
        for line, recording in _recordings(path):
            if recording.session_id in recordings:
                raise _malformed(path, line, f"session {recording.session_id!r} was there before")
            recordings[recording.session_id] = recording
    if not recordings:
        raise ConfigError("the files hold no runs: nothing to replay")
    return list(recordings.values())


def called_tools(message: Message) -> list[str]:
    """The names of the tools that a message calls."""
    return [call["function"]["name"] for call in message.get("tool_calls") or ()]


Reward = Annotated[float | None, Field(allow_inf_nan=False)]


class _Function(BaseModel):
    name: str


class _Call(BaseModel):
    id: str
    function: _Function


class _Message(BaseModel):
    role: Annotated[str, Field(min_length=1, max_length=100)]
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Line(BaseModel):
    session_id: str
    user_id: str | None = None
    task_id: str | None = None
    reward: Reward = None
    messages: Annotated[list[_Message], Field(min_length=1)]


class _Task(BaseModel):
    user_id: str


class _Info(BaseModel):
    task: _Task


class _TauBenchRun(BaseModel):
    task_id: int
    trial: int
    reward: Reward = None
    info: _Info
    traj: Annotated[list[_Message], Field(min_length=1)]


def _recordings(path: Path) -> Iterator[tuple[int, Recording]]:
    """The runs of one file, each with the line where it begins."""
    text = _text(path)
    is_tau_bench = text.lstrip().startswith("[")
    for line, run in _array(path, text) if is_tau_bench else _lines(path, text):
        try:
            recording = _from_tau_bench(run) if is_tau_bench else _from_line(run)
            _refuse_unstorable(recording)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the run"
            raise _malformed(path, line, f"{where}: {problem['msg']}") from None
        except (InvalidKey, EncodeError) as error:
            raise _malformed(path, line, str(error)) from None
        yield line, recording


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The document on each line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            document, end = _document(path, line, line.index(line.strip()), number)
            if line[end:].strip():
                raise _malformed(path, number, "more than one document on a line")
            yield number, document


def _array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array, one by one, because an item must know its line."""
    at = _past_blank(text, 0)
    line = 1 + text.count("\n", 0, at)
    start = _past_blank(text, at + 1)
    while text[start : start + 1] != "]" or text[at] == ",":
        line += text.count("\n", at, start)
        document, end = _document(path, text, start, line)
        yield line, document
        at = _past_blank(text, end)
        line += text.count("\n", start, at)
        if text[at : at + 1] != ",":
            start = at
            break
        start = _past_blank(text, at + 1)
    if text[start : start + 1] != "]" or text[start + 1 :].strip():
        raise _malformed(path, line, "the array of runs goes on without ',', or does not end with ']'")


def _document(path: Path, text: str, start: int, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _malformed(path, line + text.count("\n", start, error.pos), error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _malformed(path, line, str(error)) from None


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_not_json)
_CODEC = Codec()


def _past_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _from_line(run: Any) -> Recording:
    checked = _Line.model_validate(run, strict=True)
    return Recording(checked.session_id, checked.user_id, run["messages"], checked.task_id, checked.reward)


def _from_tau_bench(run: Any) -> Recording:
    checked = _TauBenchRun.model_validate(run, strict=True)
    task_id = f"task-{checked.task_id}"
    session_id = f"{task_id}-trial-{checked.trial}"
    return Recording(session_id, checked.info.task.user_id, run["traj"], task_id, checked.reward)


def _refuse_unstorable(recording: Recording) -> None:
    """Better now, with a line number, than in a worker. Raises `InvalidKey` and `EncodeError`."""
    encode_segment(recording.session_id, "session_id")
    if recording.user_session_id is not None:
        encode_segment(recording.user_session_id, "user_id")
    for message in recording.messages:
        _CODEC.encode(message)
        for name in (f"role:{message['role']}", *(f"tool:{tool}" for tool in called_tools(message))):
            field(name)


def _malformed(path: Path, line: int, problem: str) -> ConfigError:
    return ConfigError(f"{path}, line {line}: {problem}")
