"""What can happen to the bytes of one direction."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the bytes of one direction. Times are seconds."""

    latency: float = 0.0
    """So much later everything arrives. Order is kept, and throughput too."""
    jitter: float = 0.0
    """Up to so much later still, anew for each packet. Order is kept."""
    slices: int | None = None
    """No packet carries more bytes."""
    black_hole: bool = False
    """Nothing arrives, and nobody is told. What was sent arrives when the hole is closed, as after a partition."""
    reset_after: int | None = None
    """A connection is reset when so many more bytes of it have passed."""


@dataclass(slots=True)
class Cutting:
    """Which replies are dropped, and their connections with them."""

    part: float
    """Of so many packets of replies in one."""
    to: bytes
    """What requests contain whose replies are meant."""
    times: int | None
    """How often yet; None for ever."""
