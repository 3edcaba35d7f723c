"""``python -m tests.faults.report FIGURES``: the table of docs/reliability.md, made of what fault tests wrote down.

It replaces the table between the page's two markers, so that no figure there was made by hand.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- figures: made by `make faults`, not by hand -->\n"
END: Final = "<!-- end of figures -->\n"

FOLDS: Final[dict[str, Callable[[list[float]], float]]] = {
    "sum": sum,
    "max": max,
    "median": statistics.median,
}


def table(lines: Iterable[str]) -> str:
    """The figures as a table of Markdown, in the order of the tests, those of one fault together."""
    figures = sorted(map(json.loads, lines), key=lambda line: line["test"].partition("[")[0])
    order: dict[Any, int] = {}
    for line in figures:
        order.setdefault(line["fault"], len(order))
        order.setdefault((line["fault"], line["what"]), len(order))
    figures.sort(key=lambda line: (order[line["fault"]], order[line["fault"], line["what"]]))
    return "| fault | figure | measured |\n|---|---|---|\n" + "".join(rows(figures))


def rows(figures: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each figure; the fault is named once."""
    named = ""
    for (fault, what), group in groupby(figures, key=lambda line: (line["fault"], line["what"])):
        same = list(group)
        value = FOLDS[same[0]["fold"]]([line["value"] for line in same])
        yield f"| {'' if fault == named else fault} | {what} | {shown(value)} {same[0]['unit']}".rstrip() + " |\n"
        named = fault


def shown(value: float) -> str:
    """A number as people read it: whole from 100 on, else three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def replaced(page: str, new: str) -> str:
    """The page with another table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{new}{END}{after}"


def main(path: str) -> None:
    """Put the figures of this file on the page."""
    new = table(Path(path).read_text("utf-8").splitlines())
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), new), "utf-8")
    sys.stdout.write(new)


if __name__ == "__main__":
    main(sys.argv[1])
