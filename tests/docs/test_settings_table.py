"""The settings in docs/operating.md are those of the code: each with its default and its docstring."""

import ast
import inspect
import re

from redismem import Settings
from tests.docs.pages import ROOT


def documented() -> list[str]:
    """The rows that the table must have."""
    (definition,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(definition, ast.ClassDef)
    meanings: dict[str, str] = {}
    for field, docstring in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
            assert isinstance(field.target, ast.Name)
            meanings[field.target.id] = inspect.cleandoc(ast.literal_eval(docstring.value))
    return [
        f"| `{name}` | `{field.default!r}` | {' '.join(meanings[name].split())} |"
        for name, field in Settings.model_fields.items()
    ]


def test_the_table_of_settings_is_right() -> None:
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    table = re.search(r"^\| setting \|.*\n\|---.*\n((?:\|.*\n)*)", page, re.MULTILINE)
    assert table
    rows = documented()
    assert table[1].splitlines() == rows, "the table should be:\n" + "\n".join(rows)
