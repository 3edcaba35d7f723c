"""Reading recordings: both kinds of file, and a clear word about every kind of nonsense."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from redismem.errors import ConfigError
from redismem.ops.replay.recording import Recording, called_tools, read

HELLO = {"role": "user", "content": "Grüße 🙂\u2028"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": "{}"}}],
}
ANSWER = {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "42"}


def line(**changes: Any) -> dict[str, Any]:
    return {"session_id": "s1", "user_id": "u1", "messages": [HELLO, CALL, ANSWER]} | changes


def tau(**changes: Any) -> dict[str, Any]:
    run = {"task_id": 7, "trial": 2, "reward": 0.0, "info": {"task": {"user_id": "u1"}}, "traj": [HELLO, CALL, ANSWER]}
    return run | changes


def written(path: Path, *documents: Any) -> Path:
    path.write_text("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents), "utf-8")
    return path


def test_json_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.jsonl", line(), line(session_id="s2", user_id=None, task_id="t", reward=1))
    assert read([path]) == [
        Recording("s1", "u1", [HELLO, CALL, ANSWER]),
        Recording("s2", None, [HELLO, CALL, ANSWER], "t", 1.0),
    ]


def test_a_user_may_be_left_out_and_lines_may_be_blank(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(f"\n  \r\n{json.dumps({'session_id': 's', 'messages': [HELLO]})}\r\n\n")
    (recording,) = read([path])
    assert recording.user_id is None
    assert recording.user_session_id is None
    assert recording.owner == "s"


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(line()), "utf-8-sig")
    assert [recording.session_id for recording in read([path])] == ["s1"]


@pytest.mark.parametrize("indent", [None, 2])
def test_tau_bench(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([tau(), tau(trial=3)], indent=indent), "utf-8")
    first, second = read([path])
    assert first == Recording("task-7-trial-2", "u1", [HELLO, CALL, ANSWER], "task-7", 0.0)
    assert second.session_id == "task-7-trial-3"
    assert second.user_session_id == "user-u1"


def test_several_files(tmp_path: Path) -> None:
    lines = written(tmp_path / "a.jsonl", line())
    array = written(tmp_path / "b.json", [tau()])
    assert [recording.session_id for recording in read([lines, array])] == ["s1", "task-7-trial-2"]


def test_tools_called() -> None:
    assert called_tools(CALL) == ["look"]
    assert called_tools({"role": "assistant", "tool_calls": None}) == []
    assert called_tools(HELLO) == []


def test_the_sample_is_worth_a_demo() -> None:
    with (files("redismem.ops.replay") / "sample.jsonl").open() as sample:
        recordings = read([Path(sample.name)])
    messages = [message for recording in recordings for message in recording.messages]
    assert len(recordings) == 12
    assert 140 < len(messages) < 180
    assert len({recording.user_id for recording in recordings}) >= 4
    assert any(called_tools(message) for message in messages)
    assert not json.dumps(messages, ensure_ascii=False).isascii()


@pytest.mark.parametrize(
    ("documents", "where", "complaint"),
    [
        ([line(), line(session_id="s2", messages=[])], "line 2", "messages: "),
        ([line(), 3], "line 2", "the run: "),
        ([line(session_id=None)], "line 1", "session_id: "),
        ([line(session_id="")], "line 1", "empty"),
        ([line(session_id="x" * 513)], "line 1", "512 bytes"),
        ([line(user_id="ü" * 200)], "line 1", "512 bytes"),
        ([line(user_id=7)], "line 1", "user_id: "),
        ([line(messages=[HELLO, {"content": "?"}])], "line 1", "messages.1.role: "),
        ([line(messages=[CALL | {"tool_calls": [{"id": "c"}]}])], "line 1", "messages.0.tool_calls.0.function: "),
        ([line(messages=[HELLO | {"role": "r" * 101}])], "line 1", "messages.0.role: "),
        ([line(messages=[HELLO | {"role": ""}])], "line 1", "messages.0.role: "),
        (
            [line(messages=[CALL | {"tool_calls": [{"id": "c", "function": {"name": "n" * 600}}]}])],
            "line 1",
            "512 bytes",
        ),
        ([line(reward="1")], "line 1", "reward: "),
        ([line(task_id=7)], "line 1", "task_id: "),
        ([[tau(reward=True)]], "line 1", "reward: "),
        ([line(), line()], "line 2", "'s1' was there before"),
        ([[tau(), tau(trial=3, traj=[])]], "line 1", "traj: "),
        ([[tau(info={})]], "line 1", "info.task: "),
        ([[tau(task_id=True)]], "line 1", "task_id: "),
        ([[line()]], "line 1", "task_id: "),
    ],
)
def test_runs_that_are_none(tmp_path: Path, documents: list[Any], where: str, complaint: str) -> None:
    path = written(tmp_path / "runs", *documents)
    with pytest.raises(ConfigError) as caught:
        read([path])
    assert str(caught.value).startswith(f"{path}, {where}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"session_id": "s"', "line 1"),
        ("\n\n{oops}", "line 3"),
        ("{} {}", "line 1"),
        ("[\n", "line 2"),
        ("[{},", "line 1"),
        ("[\n\n{\n oops}]", "line 4"),
        ('{"session_id": NaN}', "line 1"),
        ('{"session_id": "s", "messages": [{"role": "user"}], "reward": 1e999}', "line 1"),
        ('{"session_id": "s", "messages": [{"role": "\\ud800"}]}', "line 1"),
        ('{"session_id": "s", "messages": [{"role": "user", "n": %s}]}' % ("9" * 5_000), "line 1"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_text_that_is_no_recording(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "runs"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read([path])
    assert str(caught.value).startswith(f"{path}, {where}: ")


def test_the_line_of_a_run_in_an_array(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    good = json.dumps(tau(), indent=1)
    path.write_text(f"\n[\n{good},\n\n{json.dumps(tau(trial=3, traj=None))}]")
    with pytest.raises(ConfigError, match=rf", line {3 + good.count(chr(10)) + 2}: traj: "):
        read([path])


@pytest.mark.parametrize("tail", ["x", "[]", ",", "{}"])
def test_what_follows_the_array(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([tau()]) + tail)
    with pytest.raises(ConfigError, match="array of runs"):
        read([path])


def test_two_runs_without_a_comma(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(f"[{json.dumps(tau())}\n{json.dumps(tau(trial=3))}]")
    with pytest.raises(ConfigError, match=", line 2: the array of runs"):
        read([path])


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ ]\n"])
def test_no_runs_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no runs"):
        read([path])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere cannot be read: No such file"):
        read([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read([tmp_path])
    (tmp_path / "latin").write_bytes(b'{"session_id": "\xe9"}')
    with pytest.raises(ConfigError, match=r"latin is not UTF-8: .* at byte 16"):
        read([tmp_path / "latin"])
