"""For tests: what networks and servers do to a program, on demand.

`ChaosProxy` stands between a program and a server and does to their bytes what a bad network would; `inject` has a
memory's own calls fail. docs/chaos.md shows both. Nothing else of redismem uses them.
"""

from redismem.chaos.faults import Faults
from redismem.chaos.injection import Fate, inject, random_fates
from redismem.chaos.proxy import ChaosProxy, Counts

__all__ = ["ChaosProxy", "Counts", "Fate", "Faults", "inject", "random_fates"]
