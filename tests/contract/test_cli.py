"""The command line: what it shows, what it says when something is wrong, and its exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis

from redismem import Memory, SessionInfo, __version__
from redismem.ops import api
from redismem.ops.cli import main
from tests.servers import Server

SAMPLE = str(resources.files("redismem.ops.replay") / "sample.jsonl")
DEMO = [sys.executable, "-m", "redismem.ops.cli", "demo"]


@dataclass
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.err == ""
        return json.loads(self.out)


@pytest.fixture
def redismem(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Runs a command in this process, through the entry point."""
    handler = signal.getsignal(signal.SIGTERM)
    for name in [name for name in os.environ if name.startswith("REDISMEM_")]:
        monkeypatch.delenv(name)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["redismem", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def memory(valkey: Server) -> Iterator[Memory]:
    with Memory(valkey.url) as memory:
        yield memory


# --- the command itself ---------------------------------------------------------------------------------------------


def test_version_and_menu(redismem: Callable[..., Done]) -> None:
    assert redismem("--version") == Done(0, f"redismem {__version__}\n", "")
    menu = redismem("--help")
    assert menu.status == 0
    for command in ("replay", "demo", "sessions", "show", "locks", "migrate", "doctor", "server"):
        assert f" {command} " in menu.out


@pytest.mark.parametrize("extra", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(extra: str) -> None:
    program = f"import sys; sys.modules[{extra!r}] = None; from redismem.ops.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "redismem: the command line needs typer and rich: pip install 'redismem[cli]'\n"


def test_workers_need_no_extra_and_load_none() -> None:
    modules = "sys, redismem.ops.cli, redismem.ops.replay.worker"
    program = f"import {modules}; sys.exit('typer' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sessions", "--url", "redis://me:s3cr3t@127.0.0.1:1/0"], "redismem: redis://127.0.0.1:1/0: "),
        (["show", "s", "--url", "rediss://:s3cr3t@127.0.0.1:1/0"], "redismem: rediss://127.0.0.1:1/0: "),
        (["replay", SAMPLE, "--url", "redis://:s3cr3t@127.0.0.1:1"], "redismem: redis://127.0.0.1:1: "),
        (["doctor", "--url", "ftp://:s3cr3t@host"], "redismem: unknown URL scheme 'ftp'"),
        (["replay", SAMPLE, "--url", "memory://"], "redismem: memory:// lives inside one process"),
        (["replay", "/nowhere/runs.jsonl"], "redismem: /nowhere/runs.jsonl cannot be read"),
        (["server", "stop", "embedded://"], "redismem: embedded://: name a directory"),
        (["server", "stop", "embedded://relative/dir"], "redismem: embedded://relative/dir: name a directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    redismem: Callable[..., Done], words: list[str], complaint: str
) -> None:
    done = redismem(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(complaint)
    assert done.err.count("\n") == 1
    assert "s3cr3t" not in done.err


@pytest.mark.parametrize("words", [["replay"], ["replay", SAMPLE, "--workers", "0"], ["nonsense"], ["show"]])
def test_wrong_usage(redismem: Callable[..., Done], words: list[str]) -> None:
    assert redismem(*words).status == 2


def test_a_malformed_recording_names_file_and_line(redismem: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(Path(SAMPLE).read_text() + '{"session_id": "s"}\n')
    done = redismem("replay", path)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"redismem: {path}, line 13: messages: Field required\n"


# --- sessions -------------------------------------------------------------------------------------------------------


def test_sessions_as_a_table_and_as_json(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    began = datetime.now(UTC)
    memory.sessions.save("chat-1", "flags", "open", True, user_id="ines")
    memory.sessions.save("chat-2", "x[/bold]", "key", 1, ttl=90)
    table = redismem("sessions", "--url", valkey.url)
    assert (table.status, table.err) == (0, "")
    rows = {line.split()[0]: line for line in table.out.splitlines() if line}
    assert rows.keys() == {"session", "chat-1", "chat-2"}
    assert rows["chat-1"].split()[1] == "ines"
    assert rows["chat-1"].split()[-2:] == ["-", "flags"]
    assert "1 min" in rows["chat-2"]
    assert rows["chat-2"].split()[-1] == "x[/bold]"

    by_id = {info["session_id"]: info for info in redismem("sessions", "--url", valkey.url, "--json").document}
    assert (by_id["chat-1"]["user_id"], by_id["chat-1"]["namespaces"]) == ("ines", ["flags"])
    assert by_id["chat-1"]["ttl"] is None
    assert 80 < by_id["chat-2"]["ttl"] < 95
    assert abs((datetime.fromisoformat(by_id["chat-1"]["created_at"]) - began).total_seconds()) < 60


def test_sessions_of_the_environment(
    redismem: Callable[..., Done], valkey: Server, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.sessions.save("chat-1", "flags", "open", True)
    monkeypatch.setenv("REDISMEM_URL", valkey.url)
    assert len(redismem("sessions", "--json").document) == 1
    monkeypatch.setenv("REDISMEM_PREFIX", "other")
    assert redismem("sessions", "--json").document == []
    assert "no sessions here" in redismem("sessions").err


def test_as_many_sessions_as_were_asked_for(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    with memory.batch() as batch:
        for number in range(7):
            batch.sessions.save(f"chat-{number}", "flags", "open", True)
    assert len(redismem("sessions", "--url", valkey.url, "--limit", 5, "--json").document) == 5
    limited = redismem("sessions", "--url", valkey.url, "--limit", 5)
    assert limited.err == "there are more than 5: raise --limit\n"
    assert redismem("sessions", "--url", valkey.url, "--limit", 7).err == ""


def test_a_poisoned_session_hides_no_other(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    for name in ("chat-1", "chat-2"):
        memory.sessions.save(name, "flags", "open", True)
    with redis.Redis(port=valkey.port) as client:
        client.hset("redismem:session:{chat-1}:meta", "created_at", "yesterday")
    done = redismem("sessions", "--url", valkey.url, "--json")
    assert done.status == 0
    assert [info["session_id"] for info in json.loads(done.out)] == ["chat-2"]
    assert done.err.startswith("redismem:session:{chat-1}:meta: ")


def test_many_sessions_take_few_round_trips(valkey: Server, memory: Memory) -> None:
    with memory.batch() as batch:
        for number in range(1_000):
            batch.sessions.save(f"chat-{number}", "flags", "open", True)
    before = memory.stats().round_trips
    assert {info.session_id for info in api.sessions(memory) if isinstance(info, SessionInfo)} == {
        f"chat-{number}" for number in range(1_000)
    }
    assert memory.stats().round_trips - before < 60  # 2,000 keys to scan, and two for each hundred sessions


# --- show -----------------------------------------------------------------------------------------------------------


def test_integers_longer_than_python_prints(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    memory.sessions.save("s", "n", "long", 10**5_000)
    most_digits = sys.get_int_max_str_digits()
    assert redismem("show", "s", "--url", valkey.url).status == 0
    done = redismem("show", "s", "--url", valkey.url, "--json")
    assert (done.status, done.err) == (0, "")
    assert "1" + "0" * 5_000 in done.out
    assert sys.get_int_max_str_digits() == most_digits


def test_all_that_a_session_holds(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    memory.sessions.save(
        "chat 1", "flags", "open", {"since": datetime(2026, 3, 9, tzinfo=UTC)}, ttl=3_600, user_id="inês"
    )
    memory.sessions.save("chat 1", "messages", "0", b"\x1b[2J")
    memory.sessions.save("chat 1", "messages", "1", "long " * 1_000)
    with redis.Redis(port=valkey.port) as client:
        client.hset("redismem:session:{chat%201}:ns:messages", "poisoned", b"\xc1")

    shown = redismem("show", "chat 1", "--url", valkey.url)
    assert (shown.status, shown.err) == (0, "")
    for part in ("session chat 1", "user inês", "flags", "1 h", r"b'\x1b[2J'", "poisoned", "messages[poisoned]: "):
        assert part in shown.out
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) < 300

    document = redismem("show", "chat 1", "--url", valkey.url, "--json").document
    assert document["user_id"] == "inês"
    messages, flags = document["namespaces"]["messages"], document["namespaces"]["flags"]
    assert flags["open"]["value"] == {"since": "2026-03-09T00:00:00+00:00"}
    assert 3_500 < flags["open"]["ttl"] <= 3_600
    assert messages["1"] == {"ttl": None, "value": "long " * 1_000}
    assert "messages[poisoned]" in messages["poisoned"]["error"]


def test_a_session_that_is_not_there(redismem: Callable[..., Done], valkey: Server) -> None:
    assert redismem("show", "nobody", "--url", valkey.url) == Done(1, "", "there is no session 'nobody'\n")
    assert redismem("show", "", "--url", valkey.url).status == 2


def test_a_session_takes_four_round_trips(memory: Memory) -> None:
    for namespace in ("a", "b", "c"):
        memory.sessions.save_many("chat-1", namespace, {str(number): number for number in range(50)})
    api.show(memory, "chat-1")  # the server now knows the script
    before = memory.stats().round_trips
    content = api.show(memory, "chat-1")
    assert content is not None
    assert [len(entries) for entries in content.namespaces.values()] == [50, 50, 50]
    assert memory.stats().round_trips - before == 4


# --- locks ----------------------------------------------------------------------------------------------------------


def test_locks_as_a_table_and_as_json(redismem: Callable[..., Done], valkey: Server, memory: Memory) -> None:
    done = redismem("locks", "--url", valkey.url)
    assert (done.status, done.err.partition(";")[0]) == (0, "no lock is held here")
    with memory.lock("ann", lease=90) as lock, memory.lock("x[/bold]", "crm", shared=True) as reader:
        rows = {line.split()[0]: line.split() for line in redismem("locks", "--url", valkey.url).out.splitlines()}
        assert rows["ann"][1:3] == ["default", "writer"]
        assert rows["ann"][4] == f"{lock.token}"
        assert rows["ann"][-1] == "0"
        assert rows["x[/bold]"][1:3] == ["crm", "reader"]
        held = {one["user_id"]: one for one in redismem("locks", "--url", valkey.url, "--json").document}
        assert held["x[/bold]"]["token"] == reader.token
        assert 0 < held["ann"]["left"] <= 90
        limited = redismem("locks", "--url", valkey.url, "--limit", 1)
        assert limited.err == "there are more than 1: raise --limit\n"


# --- migrate --------------------------------------------------------------------------------------------------------

MODELS = """
from typing import Any
from pydantic import BaseModel
from redismem import migration

class Person(BaseModel, frozen=True):
    name: str

class Named(BaseModel, frozen=True):
    first: str

    class Inner(BaseModel, frozen=True):
        first: str

@migration(Named, from_=1)
def split(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"first": attributes.pop("name").partition(" ")[0], **attributes}

nothing = 1
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current directory."""
    (tmp_path / "models_of_test_cli").mkdir()
    (tmp_path / "models_of_test_cli" / "people.py").write_text(MODELS)
    (tmp_path / "broken_of_test_cli.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "models_of_test_cli.people"
    sys.modules.pop("models_of_test_cli.people")


def test_migrating_records(redismem: Callable[..., Done], valkey: Server, memory: Memory, module: str) -> None:
    model, url = f"{module}:Named", ("--url", valkey.url)
    old = memory.records("person", api.model(f"{module}:Person"))
    for user in range(30):
        old.merge_many(f"u{user}", {"a": {"name": "Ann Lee"}, "b": {"name": "Bob Roe"}})
    expected = {"current": 0, "migrated": 0, "outdated": 60, "unreadable": 0}
    assert redismem("migrate", model, "--name", "person", *url, "--dry-run", "--json").document == expected
    done = redismem("migrate", model, "--name", "person", *url, "--batch-size", 7)
    assert (done.status, done.err) == (0, "")
    rows = dict(line.split() for line in done.out.splitlines() if line)
    assert rows == {"current": "0", "migrated": "60", "outdated": "0", "unreadable": "0"}
    assert memory.records("person", api.model(model)).get("u1", "b").model_dump() == {"first": "Bob"}

    with redis.Redis(port=valkey.port) as client:
        client.hset("redismem:user:{u1}:record:person:a", "first", b"\xc1")
    done = redismem("migrate", model, "--name", "person", *url, "--json")
    assert done.status == 1
    assert json.loads(done.out) == {"current": 59, "migrated": 0, "outdated": 0, "unreadable": 1}
    assert done.err.startswith("redismem:user:{u1}:record:person:a[first]: ")
    done = redismem("migrate", f"{module}:Named.Inner", "--name", "nobody", *url)
    assert (done.status, done.err.partition(": ")[0]) == (0, f"{module}:Named.Inner has no migrations")


@pytest.mark.parametrize(
    ("model", "words", "complaint"),
    [
        ("{}:Named", [], "Named is no UserContext: say --name"),
        ("{}:Nobody", ["--name", "x"], "cannot be imported: AttributeError"),
        ("{}:nothing", ["--name", "x"], "is no class, and so no model"),
        ("{}:Any", ["--name", "x"], "give a pydantic model"),
        ("{}:Named", ["--name", ""], "name is empty"),
        ("{}", ["--name", "x"], "name a model as package.module:Model"),
        ("no_such_module:Named", ["--name", "x"], "cannot be imported: ModuleNotFoundError"),
        ("broken_of_test_cli:Named", ["--name", "x"], "cannot be imported: ZeroDivisionError"),
    ],
)
def test_what_is_no_model(
    redismem: Callable[..., Done], valkey: Server, module: str, model: str, words: list[str], complaint: str
) -> None:
    api.model(f"{module}:Named")
    done = redismem("migrate", model.format(module), *words, "--url", valkey.url)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("redismem: ")
    assert complaint in done.err
    assert done.err.count("\n") == 1


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_a_server_that_is_well_enough(redismem: Callable[..., Done], valkey: Server) -> None:
    done = redismem("doctor", "--url", valkey.url)
    assert (done.status, done.err) == (0, "")
    for part in ("valkey 9.", "HSETEX, HPEXPIRE", "hsetex", "no AOF", "noeviction", "no limit", "ms for a round trip"):
        assert part in done.out
    findings = {finding["name"]: finding for finding in redismem("doctor", "--url", valkey.url, "--json").document}
    assert findings["server"]["status"] == "ok"
    assert findings["persistence"]["status"] == "warn"
    assert all(finding["advice"] for finding in findings.values())


@pytest.mark.parametrize("server", ["valkey9-nohsetex", "redis70", "redis62"], indirect=True)
def test_the_tier_of_older_servers(redismem: Callable[..., Done], server: Server) -> None:
    findings = {finding["name"]: finding for finding in redismem("doctor", "--url", server.url, "--json").document}
    assert findings["expiry"]["found"] == ("hpexpire" if server.name == "valkey9-nohsetex" else "deadlines")


@pytest.mark.parametrize(
    ("arguments", "ill"),
    [
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "eviction"),
        (("--maxmemory", "1mb"), "memory"),
        (("--replicaof", "127.0.0.1 1"), "server"),
    ],
)
def test_a_server_that_is_not_fit(
    redismem: Callable[..., Done], new_server: Callable[..., Server], arguments: tuple[str, ...], ill: str
) -> None:
    done = redismem("doctor", "--url", new_server("valkey9", *arguments).url, "--json")
    assert done.status == 1
    assert [finding["name"] for finding in done.document if finding["status"] == "fail"] == [ill]


def test_a_server_that_does_not_answer(redismem: Callable[..., Done]) -> None:
    done = redismem("doctor", "--url", "redis://me:s3cr3t@127.0.0.1:1/0")
    assert done.status == 1
    assert "redis://127.0.0.1:1/0" in done.out
    assert "s3cr3t" not in done.out + done.err


# --- embedded servers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "embedded://{}"])
def test_an_embedded_server_is_ended(redismem: Callable[..., Done], tmp_path: Path, form: str) -> None:
    url, place = f"embedded://{tmp_path}/memory", form.format(f"{tmp_path}/memory")
    with Memory(url) as memory:
        memory.sessions.save("chat-1", "flags", "open", True)
    assert redismem("server", "stop", place) == Done(0, "stopped\n", "")
    assert redismem("server", "stop", place) == Done(0, "no server runs there\n", "")
    assert [info["session_id"] for info in redismem("sessions", "--url", url, "--json").document] == ["chat-1"]
    assert redismem("server", "stop", place).out == "stopped\n"


# --- replay and demo ------------------------------------------------------------------------------------------------


def test_the_report_of_a_replay(redismem: Callable[..., Done], valkey: Server) -> None:
    done = redismem("replay", SAMPLE, "--workers", 2, "--url", valkey.url)
    assert (done.status, done.err) == (0, "")
    rows = dict(line.rsplit(maxsplit=1) for line in done.out.replace(" ms", "_ms").splitlines() if line)
    assert (rows["messages"], rows["sessions"], rows["expired as due"]) == ("166", "12", "166")
    assert (rows["lost"], rows["torn"], rows["workers"], rows["killed"]) == ("0", "0", "2", "0")
    assert rows.keys() >= {"operations", "operations/s", "round trips", "p50", "p99"}


def test_keys_that_stay_can_be_looked_at(
    redismem: Callable[..., Done], valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = redismem("replay", SAMPLE, "--workers", 1, "--url", valkey.url, "--keep", "--json")
    assert json.loads(done.out)["lost"] == 0
    assert valkey.url in done.err
    monkeypatch.setenv("REDISMEM_PREFIX", done.err.strip().partition("REDISMEM_PREFIX=")[2])
    assert len(redismem("sessions", "--url", valkey.url, "--json").document) == 17


def test_the_demo_tells_its_story() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for part in (
        "ended with SIGKILL",
        "redismem:session:{trip-lisbon}:meta  hash",
        "redismem:session:{trip-lisbon}:ns:flags  hash",
        "redismem:session:{user-ines}:ns:shared  hash",
        "23 h 59 min",
        "{'trip-lisbon': 13, 'trip-lisbon-hotel': 14, 'trip-lisbon-refund': 11}",
        "Next: ",
    ):
        assert part in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    for row in (["lost", "0"], ["torn", "0"], ["expired", "as", "due", "166"], ["workers", "3"], ["killed", "1"]):
        assert row in rows


def test_the_demo_on_a_terminal() -> None:
    screen, terminal = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(DEMO, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(screen, 65_536):
                shown += piece
    os.close(screen)
    assert process.returncode == 0
    assert b"166/166" in shown  # the bar
    assert b"\x1b[2K" in shown
    assert "lost" in shown.decode()
