"""The table of docs/reliability.md: folded, in order, between its markers."""

import json

import pytest

from tests.faults.report import BEGIN, END, PAGE, replaced, shown, table


def line(test: str, fault: str, what: str, value: float, unit: str = "", fold: str = "sum") -> str:
    return json.dumps({"test": test, "fault": fault, "what": what, "value": value, "unit": unit, "fold": fold})


def test_figures_are_folded_and_those_of_one_fault_stand_together() -> None:
    lines = [
        line("test_b.py::two", "kills", "waits", 3.0, "s", "max"),
        line("test_a.py::one[x]", "kills", "calls", 4_000),
        line("test_a.py::one[y]", "kills", "calls", 6_000),
        line("test_a.py::two", "cuts", "lost", 0),
        line("test_b.py::two", "kills", "waits", 2.0, "s", "max"),
    ]
    assert table(lines).splitlines()[2:] == [
        "| kills | calls | 10,000 |",
        "|  | waits | 3 s |",
        "| cuts | lost | 0 |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.2251, "0.225"), (7.0, "7"), (99.94, "99.9"), (1234.5, "1,234")]
)
def test_numbers_as_people_read_them(value: float, text: str) -> None:
    assert shown(value) == text


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replaced(f"a\n{BEGIN}old\n{END}b\n", "new\n") == f"a\n{BEGIN}new\n{END}b\n"
    page = PAGE.read_text("utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
