"""docs/design.md says what imports what, and docs/README.md lists every page: both are true."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT

PACKAGE = ROOT / "redismem"


def layers() -> dict[str, int]:
    """Module -> its line in the table, from the top."""
    page = (ROOT / "docs" / "design.md").read_text("utf-8")
    table = re.search(r"^\| module \|.*\n\|---.*\n((?:\|.*\n)*)", page, re.MULTILINE)
    assert table
    rows = [row.split("|")[1] for row in table[1].splitlines()]
    return {name: depth for depth, names in enumerate(rows) for name in re.findall(r"`([\w.]+)`", names)}


def layer_of(module: str, known: dict[str, int]) -> int:
    """Of a module's name without ``redismem.``: the most exact one in the table counts."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(known[name] for name in names if name in known)


def imports(source: Path) -> Iterator[str]:
    """What a module imports of redismem, without that which only type checkers read."""
    tree = ast.parse(source.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="redismem", names=names):
                yield from (name.name for name in names if not name.name.startswith("__"))
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("redismem."):
                inside = PACKAGE.joinpath(*module.split(".")[1:]).is_dir()
                for name in names:
                    yield (
                        f"{module}.{name.name}".removeprefix("redismem.")
                        if inside
                        else module.removeprefix("redismem.")
                    )
            case _:
                pass


def test_each_layer_imports_those_above_it() -> None:
    known = layers()
    for source in PACKAGE.rglob("*.py"):
        module = ".".join(source.relative_to(PACKAGE).with_suffix("").parts)
        if source.name == "__init__.py":
            continue
        for imported in imports(source):
            above = layer_of(imported, known) <= layer_of(module, known)
            assert above, f"{module} imports {imported}, which docs/design.md has below it"


def test_only_link_imports_redis_py() -> None:
    importing = {
        source.parent
        for source in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(?:import|from) redis\b", source.read_text("utf-8"), re.MULTILINE)
    }
    assert importing == {PACKAGE / "link"}


def test_the_map_lists_every_page() -> None:
    page = ROOT / "docs" / "README.md"
    listed = set(re.findall(r"\]\(([\w/.-]+\.md)\)", page.read_text("utf-8")))
    assert listed == {str(path.relative_to(page.parent)) for path in page.parent.rglob("*.md")} - {"README.md"}
