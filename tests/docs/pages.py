r"""Markdown pages as tests: their code blocks run in order, and what a page says comes out is what must come out.

``python``
    The blocks of a page are one program. ``# -> text`` behind an expression says what its repr is; ``# raises text``
    behind a statement says how it fails, as ``Error: message``.
``console``
    ``$ redis-cli ...`` and ``$ redismem ...`` run where the page shows their output; where it shows none, the command
    is only looked up, and so is a target of ``$ make``.

A page's server is where it says ``localhost:6379``, and `REDISMEM_URL`. A second word after the language, as in
``python redis70``, names the kind of server; such blocks are a program of their own.

In what comes out, ``...`` stands for anything, ``<now>`` for the time in milliseconds, up to a minute ago,
``<now + 500>`` for one that is so much later, and ``<about 500>`` for a number that is at most a tenth less. Spaces
count as one, for columns are as wide as what they hold.
"""

import ast
import io
import re
import shlex
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from redismem.ops.commands import app
from tests.servers import Server, redis_cli

ROOT = Path(__file__).parents[2]
ADDRESS = "localhost:6379"
DEFAULT = "valkey9"

_FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAID = re.compile(r"# (->|raises) (.+)")
_PLACEHOLDER = re.compile(r"\.\.\.|<(?:now|now \+|about)(?: \d+)?>")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the kind of server it is for, its text, and where that begins."""

    language: str
    server: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks of any language."""
    source = page.read_text("utf-8")
    return [
        Block(found[1], found[2] or DEFAULT, found[3], source.count("\n", 0, found.start(3)) + 1)
        for found in _FENCE.finditer(source)
    ]


def play(page: Path, server: Server) -> None:
    """Run all blocks of the page that are for this server, in one program."""
    names: dict[str, Any] = {"__name__": page.stem, "_shows": _shows, "_raises": _raises}
    for block in blocks(page):
        if block.server == server.name and block.language == "python":
            _play_python(page, block, server, names)
        elif block.server == server.name and block.language == "console":
            _play_console(page, block, server)


def matches(said: str, came: str) -> bool:
    """Whether a line that a page shows stands for the line that came out."""
    said, came = " ".join(said.split()), " ".join(came.split())
    placeholders = _PLACEHOLDER.findall(said)
    pattern = "(.*)".join(map(re.escape, _PLACEHOLDER.split(said)))
    found = re.fullmatch(pattern, came)
    return found is not None and all(map(_stands_for, placeholders, found.groups()))


def _stands_for(placeholder: str, text: str) -> bool:
    if placeholder == "...":
        return True
    number = float("".join(filter(str.isdigit, placeholder)) or 0)
    most = number + time.time() * 1000 if "now" in placeholder else number
    least = most - 60_000 if "now" in placeholder else most * 0.9
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None and least <= float(text) <= most


# --- python ---------------------------------------------------------------------------------------------------------


def _play_python(page: Path, block: Block, server: Server, names: dict[str, Any]) -> None:
    source = block.text.replace(ADDRESS, f"127.0.0.1:{server.port}")
    said = dict(_said(source))
    checks = _Checks(said)
    tree = ast.fix_missing_locations(checks.visit(ast.parse(source)))
    assert not said, f"{page.name}: nothing comes out at {[block.line + line - 1 for line in said]}"
    ast.increment_lineno(tree, block.line - 1)
    exec(compile(tree, str(page), "exec"), names)  # noqa: S102  (the project's own pages)


def _said(source: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Of each line: what the comment at its end says comes out."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (found := _SAID.fullmatch(token.string)):
            yield token.start[0], (found[1], found[2])


class _Checks(ast.NodeTransformer):
    """Puts a check around each statement that has something said of it, and takes it from `said`."""

    def __init__(self, said: dict[int, tuple[str, str]]) -> None:
        self._said = said

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if not isinstance(node, ast.stmt) or hasattr(node, "body") or node.end_lineno not in self._said:
            return node
        how, text = self._said.pop(node.end_lineno)
        check = ast.Name(f"_{'shows' if how == '->' else how}", ast.Load())
        if how == "raises":
            item = ast.withitem(ast.Call(check, [ast.Constant(text)], []))
            return ast.copy_location(ast.With([item], [node]), node)
        assert isinstance(node, ast.Expr), f"line {node.lineno} has no value"
        return ast.copy_location(ast.Expr(ast.Call(check, [node.value, ast.Constant(text)], [])), node)


def _shows(value: object, text: str) -> None:
    assert matches(text, repr(value)), f"it is {value!r}, not {text}"


@contextmanager
def _raises(text: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
        assert matches(text, came), f"it raises {came}, not {text}"
    else:
        raise AssertionError(f"it does not raise {text}")


# --- console --------------------------------------------------------------------------------------------------------


def _play_console(page: Path, block: Block, server: Server) -> None:
    for command, said in commands(block.text.replace(ADDRESS, f"127.0.0.1:{server.port}")):
        words = shlex.split(command)
        if not said:
            _look_up(words)
            continue
        came = _output(words, server)
        same = len(said) == len(came) and all(map(matches, said, came))
        assert same, f"{page.name}:\n$ {command}\n" + "\n".join(came)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command, and the lines that the page shows below it."""
    for part in re.split(r"^\$ ", text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        command, *said = part.rstrip().split("\n")
        yield command, said


def _output(words: list[str], server: Server) -> list[str]:
    match words:
        case ["redis-cli", *rest]:
            text = redis_cli(server, "--no-raw", *rest)  # as it prints on a terminal
        case ["redismem", *rest]:
            command = [sys.executable, "-m", "redismem.ops.cli", *rest]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            text = done.stdout + done.stderr
        case _:
            raise AssertionError(f"nothing here can check what {words[0]} prints")
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _look_up(words: list[str]) -> None:
    match words:
        case ["redismem", *rest]:
            looked_up = CliRunner().invoke(app, [*rest, "--help"])  # which fails for unknown commands and options
            assert looked_up.exit_code == 0, f"redismem {shlex.join(rest)}: {looked_up.output}"
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text("utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no {target}"
        case _:
            pass
