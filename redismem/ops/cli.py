"""The entry point of the ``redismem`` command. What it needs beyond the library is imported when it is run."""

import signal
import sys
from types import FrameType
from typing import NoReturn

from redismem.errors import RedisMemError


def main() -> None:
    """Run the command line; errors of redismem end in one line on standard error and exit status 2."""
    try:
        from redismem.ops.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        _fail("the command line needs typer and rich: pip install 'redismem[cli]'")
    signal.signal(signal.SIGTERM, _leave)
    most_digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # stored integers may be longer than Python prints by default
    try:
        app(prog_name="redismem")
    except RedisMemError as error:
        _fail(str(error))
    finally:
        sys.set_int_max_str_digits(most_digits)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends as Ctrl-C does: `with` blocks clean up."""
    sys.exit(128 + number)


def _fail(message: str) -> NoReturn:
    print(f"redismem: {message}", file=sys.stderr)  # noqa: T201  (the output of a command)
    sys.exit(2)


if __name__ == "__main__":
    main()
