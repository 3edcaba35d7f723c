"""What fault tests measure: written down as they run, if `REDISMEM_FIGURES` names a file; `report` folds it."""

import json
import os
from pathlib import Path
from typing import Literal

Fold = Literal["sum", "max", "median"]

LONG = os.environ.get("REDISMEM_LONG") == "1"
"""Whether the long forms run: `make faults`."""


class Figures:
    """Takes the figures of one test."""

    def __init__(self, test: str) -> None:
        self._test = test
        self._file = os.environ.get("REDISMEM_FIGURES")

    def __call__(self, fault: str, what: str, value: float, unit: str = "", fold: Fold = "sum") -> None:
        """Under this fault this was measured. Values of one name, of all tests, are folded into one."""
        line = {"test": self._test, "fault": fault, "what": what, "value": value, "unit": unit, "fold": fold}
        if self._file:
            with Path(self._file).open("ab", buffering=0) as file:  # one write: several processes run tests
                file.write(json.dumps(line).encode() + b"\n")
