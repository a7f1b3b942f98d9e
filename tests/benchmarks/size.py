"""How much each part of the benchmark does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Figures = dict[str, float]
"""What a part has measured, by names that the rows use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. Times are in seconds."""

    imports: int
    rows: int
    polled: int
    seconds: float
    trickled: int
    lag_imports: int
    lag_interval: float
    in_flight: int
    waiting: tuple[int, int]
    lanes: int
    claims: int
    points: int
    """The most points of a plot."""


FULL: Final = Size(
    imports=600,
    rows=20_000,
    polled=3000,
    seconds=5.0,
    trickled=150,
    lag_imports=10_000,
    lag_interval=20.0,
    in_flight=100_000,
    waiting=(1000, 1_000_000),
    lanes=5000,
    claims=60,
    points=4,
)
TINY: Final = Size(
    imports=8,
    rows=20,
    polled=40,
    seconds=0.5,
    trickled=5,
    lag_imports=20,
    lag_interval=1.5,
    in_flight=60,
    waiting=(60, 600),
    lanes=30,
    claims=3,
    points=1,
)

Part = Callable[[Size], Figures]
