"""What operators see of values, times and hostile names."""

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from redismem.errors import DecodeError
from redismem.ops import screen
from redismem.ops.api import Entry, SessionContent
from redismem.stores.sessions import SessionInfo

THEN = datetime(2026, 3, 9, 7, 58, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.2704, "270 ms"),
        (1.0, "1 s"),
        (59.6, "1 min"),
        (3_605, "1 h 5 s"),
        (86_399, "23 h 59 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert screen.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": [1, None]}, "{'a': [1, None]}"),
        ("zażółć", "'zażółć'"),
        ("a\x1b[31mb\n", r"'a\x1b[31mb\n'"),
        (b"\x00", r"b'\x00'"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, ...]"),
    ],
)
def test_values_are_short_and_harmless(value: Any, shown: str) -> None:
    assert screen.brief(value) == shown


@pytest.mark.parametrize(
    "value", ["x" * 10_000, b"x" * 10_000, np.zeros((50, 50)), {str(n): "y" * 99 for n in range(99)}]
)
def test_large_values_take_a_line(value: Any) -> None:
    shown = screen.brief(value)
    assert len(shown) < 600
    assert "\n" not in shown


def test_names_cannot_drive_the_terminal() -> None:
    assert screen.safe("zażółć/漢字") == "zażółć/漢字"
    assert screen.safe("\x1b]0;evil\x07\r\n") == r"\x1b]0;evil\x07\r\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: (2, {3})}, {"1": [2, [3]]}),
        (math.nan, "nan"),
        (b"\xffok", "\\xffok"),
        (THEN, "2026-03-09T07:58:11+00:00"),
        (date(2026, 3, 9), "2026-03-09"),
        (np.array([[1, 2]], "<i4"), [[1, 2]]),
        (Decimal("1.10"), "1.10"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (frozenset({True}), [True]),
    ],
)
def test_every_stored_type_as_json(value: Any, said: Any) -> None:
    assert screen.plain(value) == said
    json.dumps(screen.plain(value), allow_nan=False)


def test_a_session_for_people_and_for_programs() -> None:
    info = SessionInfo("s\x1b", None, THEN, THEN, 60.0, ("[bold]flags",), 1)
    entries = [Entry("open", [True], 1.5), Entry("poisoned", None, None, DecodeError("no value", "k[poisoned]"))]
    content = SessionContent(info, {"[bold]flags": entries})
    out = StringIO()
    screen.print_session(screen.console(out), content)
    shown = out.getvalue()
    assert "\x1b" not in shown
    for part in ("session s\\x1b", "ttl 1 min", "[bold]flags", "[True]", "2 s", "k[poisoned]: no value"):
        assert part in shown
    document = screen.plain(screen.session_document(content))
    assert document["namespaces"] == {
        "[bold]flags": {
            "open": {"ttl": 1.5, "value": [True]},
            "poisoned": {"ttl": None, "error": "k[poisoned]: no value"},
        }
    }
