"""Everything that the pages show runs, and comes out as they say; `tests.docs.pages` says how."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CI, emptied
from tests.docs.pages import ROOT, blocks, matches, play
from tests.servers import Missing, Server

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "deploy" / "README.md"]
PLAYED = sorted({(page, block.server) for page in PAGES for block in blocks(page)})


def named(part: object) -> str:
    return str(part.relative_to(ROOT)) if isinstance(part, Path) else str(part)


@pytest.mark.parametrize(("page", "name"), PLAYED, ids=named)
def test_what_a_page_shows_is_what_happens(
    page: Path, name: str, shared_server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = emptied(shared_server(name))
    monkeypatch.setenv("REDISMEM_URL", server.url)
    try:
        play(page, server)
    except Missing as missing:  # redis-cli
        if CI:
            raise
        pytest.skip(str(missing))


def test_what_a_page_shows_is_looked_at(tmp_path: Path, valkey: Server) -> None:
    """The other test can fail."""
    page = tmp_path / "page.md"
    for block in (
        "```python\n1 + 1  # -> 3\n```\n",
        "```python\ndef f():\n    return 1\n\nf()  # raises ValueError: x\n```\n",
        "```python\nx = 1  # -> 1\n```\n",
        "```python\nint('x')  # raises ValueError: y\n```\n",
        "```console\n$ redis-cli SET a 1\nKO\n```\n",
        '```console\n$ redis-cli SET a 1\nOK\n\n```\n```console\n$ redis-cli GET a\n"1"\nmore\n```\n',
        "```console\n$ redismem shew x\n```\n",
        "```console\n$ make tee\n```\n",
    ):
        page.write_text(block, "utf-8")
        with pytest.raises((AssertionError, ValueError)):
            play(page, valkey)


@pytest.mark.parametrize(
    ("said", "came", "same"),
    [
        ("1) <about 500>", "1) 480", True),
        ("1) <about 500>", "1) 440", False),
        ("1) <about 500>", "1) 501", False),
        ("about <about 5> s", "about 4.98 s", True),
        ("<now>", "1", False),
        ("a ... c", "a  b c", True),
        ("a ... c", "a b", False),
        ("a.c", "abc", False),
        ("", "x", False),
    ],
)
def test_placeholders(said: str, came: str, same: bool) -> None:
    assert matches(said, came) is same


def test_placeholders_of_time() -> None:
    now = time.time() * 1000
    assert matches("<now>", f"{now - 30_000:.0f}")
    assert not matches("<now>", f"{now + 30_000:.0f}")
    assert matches('"<now + 60000>"', f'"{now + 30_000:.0f}"')
    assert not matches("<now + 60000>", f"{now - 1_000:.0f}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{path}#{anchor}"
