"""Whether a shared memory holds exactly what the recordings say: every value compared, every leftover found."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched

...
