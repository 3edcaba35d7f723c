"""The benchmarks run and report what they measured. How fast anything is belongs into bench/RESULTS.md, not here."""

from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import pytest
import redis

from bench import report, run
from bench.measure import WARM_UP_LAPS, Side, Spread, race
from bench.report import Bound, Result
from bench.setting import Bench
from tests.servers import Server

NEEDS = {"sync-glide": "glide_sync", "async-glide": "glide", "l1-peers": "cashews", "recall-model": "wordllama"}


@pytest.mark.parametrize("name", run.CASES)
def test_every_case_yields_rows(name: str, valkey: Server) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    with redis.Redis.from_url(valkey.url) as bare:
        results = run.measured(name, Bench(valkey.url, bare, quick=True))
    assert results
    for result in results:
        assert 0 < result.ratio.low <= result.ratio.median <= result.ratio.high
        assert all((result.measure, result.ours, result.theirs))


def scripted(name: str, costs: list[float]) -> Side:
    """A side whose rounds cost this, after the warm-up."""
    supply = chain(repeat(99.0, WARM_UP_LAPS), costs)
    return Side(name, lambda: next(supply))


def test_a_race_compares_with_the_fastest_peer_lap_by_lap() -> None:
    ours = scripted("ours", [2.0, 3.0, 40.0])
    peers = [scripted("slow", [9.0, 9.0, 1.0]), scripted("fast", [1.0, 2.0, 20.0])]
    result = race(ours, peers, laps=3)
    assert (result.peer, result.ours, result.theirs) == ("fast", 3.0, 2.0)
    assert result.cost_ratio == Spread(1.75, 2.0, 2.0)
    assert result.speed_ratio.median == 0.5


@pytest.mark.parametrize(
    ("bound", "inside", "outside"), [(Bound(0.9, at_least=True), 0.9, 0.89), (Bound(1.5, at_least=False), 1.5, 1.51)]
)
def test_a_result_is_missed_beyond_its_bound(bound: Bound, inside: float, outside: float) -> None:
    assert not Result("m", "1", "1", Spread.of([inside]), bound).missed
    assert Result("m", "1", "1", Spread.of([outside]), bound).missed
    assert not Result("m", "1", "1", Spread.of([outside])).missed


def test_the_page_says_what_was_measured_where(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    kept = Result("fast", "1 /s", "2 /s", Spread(0.4, 0.5, 0.6), Bound(0.9, at_least=True), note="why")
    info = {"valkey_version": "9.1.0", "mem_allocator": "jemalloc-5.3.0"}
    report.write(page, [kept, Result("aside", "1", "1", Spread.of([1.0]))], info, 3.0)
    text = page.read_text()
    assert "0 of 1 requirements are met" in text
    assert "| fast    | 1 /s     | 2 /s    | 0.5   | 0.4 to 0.6 | at least 0.9 | missed  |" in text
    assert "- fast: why" in text
    assert "Valkey 9.1.0" in text


@pytest.mark.usefixtures("valkey")  # skipped where there is none
@pytest.mark.parametrize("missed", [True, False])
def test_the_exit_status_says_whether_a_requirement_is_missed(
    missed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def case(_: Bench) -> list[Result]:
        return [Result("one of all", "1", "1", Spread.of([0.8 if missed else 1.0]), Bound(0.9, at_least=True))]

    cases: dict[str, Callable[[Bench], list[Result]]] = {"only": case}
    monkeypatch.setattr(run, "CASES", cases)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "RESULTS.md")
    assert run.main(["--no-write"]) == run.main(["--quick"]) == run.main(["--only", "only"]) == int(missed)
    assert not run.RESULTS.exists()
    assert run.main([]) == int(missed)
    assert "one of all" in run.RESULTS.read_text()
    assert "one of all" in capsys.readouterr().out
