"""What can happen to the bytes of one direction."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the bytes of one direction. Times are seconds. Raises `ValueError` for what cannot be."""

    latency: float = 0.0
    """So much later everything arrives. Order is kept, and throughput too."""
    jitter: float = 0.0
    """Up to so much later still, anew for each packet. Order is kept."""
    slices: int | None = None
    """No packet carries more bytes. Who reads late may get several at once: TCP joins what waits."""
    black_hole: bool = False
    """Nothing arrives, and nobody is told. What was sent arrives when the hole is closed, as after a partition."""
    reset_after: int | None = None
    """A connection is reset when so many more bytes of it have passed."""

    def __post_init__(self) -> None:
        least = {"latency": 0, "jitter": 0, "slices": 1, "reset_after": 0}
        for name, value in ((name, getattr(self, name)) for name in least):
            if value is not None and not value >= least[name]:
                raise ValueError(f"{name} is {value!r}: it must be at least {least[name]}")


@dataclass(slots=True)
class Cutting:
    """Which replies are dropped, and their connections with them."""

    part: float
    """Of so many packets of replies in one."""
    to: bytes
    """What requests contain whose replies are meant."""
    times: int | None
    """How often yet; None for ever."""
