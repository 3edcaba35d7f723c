"""Replays whose workers, parent or server come to harm: nothing lost, nobody left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Self

import psutil
import pytest
import redis

from redismem.errors import RedisMemError, Timeout
from redismem.ops.replay import site as site_module
from redismem.ops.replay.job import Plan, Replay, Watcher
from redismem.ops.replay.recording import Recording, read
from redismem.ops.replay.site import Site
from redismem.ops.replay.verdict import Verdict
from tests.servers import REAL, Server

WITHIN = 20.0
KNOWN = {
    "episodes": 12,
    "successes": 11,
    "skills": 30,
    "uses": 41,
    "uses that went well": 40,
    "facts": 19,
    "entities": 7,
    "attributes": 58,
    "turns": 166,
}
"""What the memories know after the sample."""


@pytest.fixture(scope="module")
def sample() -> list[Recording]:
    with resources.as_file(resources.files("redismem.ops.replay") / "sample.jsonl") as path:
        return read([path])


class Diary(Watcher):
    """Keeps what happened, and does something of the test's once so many messages are done."""

    def __init__(self, after: int = 0, action: Callable[[], None] | None = None) -> None:
        self.events: list[str] = []
        self.after = after
        self.action = action

    def advanced(self, done: int, total: int) -> None:
        if self.action is not None and done >= self.after > 0:
            action, self.action = self.action, None
            action()

    def happened(self, event: str) -> None:
        self.events.append(event)


def workers() -> list[psutil.Process]:
    """The living workers of a replay in this process."""
    return [child for child in psutil.Process().children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "multiprocessing.spawn" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_killed_workers_lose_nothing(valkey: Server, sample: list[Recording], seed: int) -> None:
    diary = Diary()
    plan = Plan(workers=3, agents=3, kill=4, seed=seed, think=0.01)
    with Site(valkey.url) as site, Replay(site, sample, plan) as replay:
        replay.play(diary)
        verdict = replay.check()
    outcome = replay.outcome(verdict)
    assert (verdict, outcome.killed, outcome.workers) == (Verdict(expired=166), 4, 3)
    assert {name: tally.found for name, tally in outcome.memories.items()} == KNOWN
    assert [event.split()[2:5] for event in diary.events] == [["ended", "with", "SIGKILL"]] * 4
    assert workers() == []


@pytest.mark.parametrize("server", REAL, indirect=True)
def test_the_same_on_every_server(server: Server, sample: list[Recording]) -> None:
    with Site(server.url) as site, Replay(site, sample, Plan(workers=2, kill=2, think=0.005)) as replay:
        replay.play(Watcher())
        assert replay.check() == Verdict(expired=166)


class LateWire:
    """Forwards to a server, with a lag. What is under way when its sender dies arrives very late, but arrives."""

    LAG = 0.02
    LATE = 0.7

    def __init__(self, server: Server) -> None:
        self.port = 0
        self.late = 0
        self._target = server.port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(WITHIN)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        wait_until(lambda: not asyncio.all_tasks(self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, requests = await asyncio.open_connection("127.0.0.1", self._target)
        answering = asyncio.create_task(self._answer(server, answers))
        under_way: deque[bytes] = deque()
        timers: list[asyncio.TimerHandle] = []
        with suppress(ConnectionError):
            while data := await client.read(65_536):
                under_way.append(data)
                timers.append(self._loop.call_later(self.LAG, lambda: requests.write(under_way.popleft())))
        for timer in timers:
            timer.cancel()
        if under_way:
            self.late += 1
            await asyncio.sleep(self.LATE)
            requests.writelines(under_way)
        requests.close()
        await answering

    @staticmethod
    async def _answer(server: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await server.read(65_536):
                answers.write(data)
        answers.close()


def test_runs_do_not_go_on_before_the_last_words_of_a_dead_worker(valkey: Server, sample: list[Recording]) -> None:
    with LateWire(valkey) as wire, Site(f"redis://127.0.0.1:{wire.port}/0") as site:
        while not wire.late:  # a worker may be killed while it has nothing under way
            with Replay(site, sample, Plan(workers=2, kill=3)) as replay:
                replay.play(Watcher())
                assert replay.check() == Verdict(expired=166)


def test_a_worker_that_anybody_kills_is_replaced(valkey: Server, sample: list[Recording]) -> None:
    diary = Diary(after=20, action=lambda: workers()[0].kill())
    with Site(valkey.url) as site, Replay(site, sample, Plan(workers=2, think=0.01)) as replay:
        replay.play(diary)
        verdict = replay.check()
    assert verdict == Verdict(expired=166)
    assert replay.outcome(verdict).killed == 0
    (event,) = diary.events
    assert "ended with SIGKILL" in event


def test_workers_that_keep_failing_are_given_up(new_server: Callable[..., Server], sample: list[Recording]) -> None:
    full = new_server("valkey9", "--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    diary = Diary()
    with (
        Site(full.url) as site,
        pytest.raises(RedisMemError, match="gave up after 4 workers had failed"),
        Replay(site, sample, Plan(workers=2)) as replay,
    ):
        replay.play(diary)
    assert workers() == []
    assert any("Traceback" in event and "redismem.errors.OutOfMemory" in event for event in diary.events)


def test_a_server_that_goes_away_ends_the_replay(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    with Running(long(tmp_path), server) as replay:
        server.kill()
        out, err = replay.communicate(timeout=WITHIN)
    assert replay.returncode == 2
    assert out == b""
    assert err.decode().splitlines()[-1].startswith(f"redismem: redis://127.0.0.1:{server.port}/0: ")


# --- connections ----------------------------------------------------------------------------------------------------


def test_the_end_of_a_connection_is_waited_for(valkey: Server) -> None:
    with Site(valkey.url) as site:
        client = redis.Redis.from_url(site.url("worker-7"))
        assert client.ping()
        ended = threading.Event()
        waiting = threading.Thread(target=lambda: (site.wait_until_gone("worker-7"), ended.set()))
        waiting.start()
        assert not ended.wait(0.1)
        site.wait_until_gone("worker-77")  # nobody's, and no part of another's name
        site.wait_until_gone("worker")
        client.close()
        assert ended.wait(WITHIN)
        waiting.join()


def test_a_connection_that_does_not_end_is_an_error(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_PATIENCE", 0.05)
    with Site(valkey.url) as site, redis.Redis.from_url(site.url("worker-7")) as client:
        assert client.ping()
        with pytest.raises(Timeout, match="worker-7"):
            site.wait_until_gone("worker-7")


def test_the_name_replaces_another_one_and_keeps_the_rest() -> None:
    site = object.__new__(Site)
    site._url = "redis://:p%23ss@h:1/2?client_name=x&socket_keepalive=1"
    assert site.url("w") == "redis://:p%23ss@h:1/2?socket_keepalive=1&client_name=w"


# --- the parent -----------------------------------------------------------------------------------------------------


def long(directory: Path) -> Path:
    """A recording that takes a while."""
    path, messages = directory / "long.jsonl", [{"role": "user", "content": "…"}] * 200
    runs = ({"session_id": f"s{number}", "user_id": f"u{number % 7}", "messages": messages} for number in range(64))
    path.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return path


class Running(subprocess.Popen[bytes]):
    """A replay with three workers in a process group of its own, in full swing."""

    def __init__(self, path: Path, server: Server) -> None:
        words: Sequence[str] = ("-m", "redismem.ops.cli", "replay", str(path), "--workers", "3", "--url", server.url)
        pipe = subprocess.PIPE
        super().__init__([sys.executable, *words, "--json"], stdout=pipe, stderr=pipe, start_new_session=True)
        with redis.Redis(port=server.port) as client:
            wait_until(lambda: client.dbsize() > 20)
            wait_until(lambda: sum("-worker-" in one["name"] for one in client.client_list()) == 3)
        self.children = psutil.Process(self.pid).children(recursive=True)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes started now hear SIGINT, even where the tests themselves run as a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def replay(valkey: Server, tmp_path: Path, interruptible: None) -> Iterator[Running]:
    with Running(long(tmp_path), valkey) as replay:
        yield replay
        replay.kill()


def all_gone(processes: Sequence[psutil.Process]) -> None:
    wait_until(lambda: not any(process.is_running() for process in processes))


def ctrl_c(replay: Running) -> None:
    os.killpg(replay.pid, signal.SIGINT)  # as a terminal does: the workers get it too


@pytest.mark.parametrize(("end", "status"), [(ctrl_c, 130), (Running.terminate, 143)])
def test_a_replay_that_is_ended_leaves_neither_workers_nor_keys(
    replay: Running, valkey: Server, end: Callable[[Running], None], status: int
) -> None:
    assert sum(map(is_worker, replay.children)) == 3
    end(replay)
    out, err = replay.communicate(timeout=WITHIN)
    assert (replay.returncode, out, err) == (status, b"", b"")
    all_gone(replay.children)
    with redis.Redis(port=valkey.port) as client:
        wait_until(lambda: client.dbsize() == 0)


def test_workers_do_not_outlive_their_parent(replay: Running) -> None:
    replay.kill()
    all_gone(replay.children)
