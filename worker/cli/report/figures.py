"""The numbers of the report: percentiles, bins and axes. Nothing here reads the store."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MOST_BINS: Final = 60
MOST_TICKS: Final = 8

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
TIME_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 28)),
)
"""The widths, in seconds, of bins and of the steps of a time axis."""

BOUNDS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(n * _MINUTE for n in (1, 2, 5, 10, 20, 30)),
    *(n * _HOUR for n in (1, 2, 5, 12)),
    *(n * _DAY for n in (1, 2, 7)),
)
"""The upper bounds, in seconds, of the bins of durations; a last bin has none."""

_UNITS: Final = (
    (0.001, "ms", 1),
    (1, "s", 2 * _MINUTE),
    (_MINUTE, "min", 2 * _HOUR),
    (_HOUR, "h", 2 * _DAY),
    (_DAY, "d", math.inf),
)
"""Each unit of a duration: its length in seconds, its name, and from where the next one is used."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations in seconds: how many, and selected percentiles; at least one duration."""

    count: int
    median: float
    p90: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class DurationBin:
    """How many durations are at most `upper` seconds and longer than the bin before."""

    upper: float
    count: int


def distribution(values: Iterable[float]) -> Distribution | None:
    """Return the distribution of durations; None if there are none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Distribution(
        count=len(ordered),
        median=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        longest=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest of the ascending values that at least `percent` % do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def duration_bins(values: Iterable[float]) -> list[DurationBin]:
    """Count durations by `BOUNDS`, from the first to the last bin that is not empty."""
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    used = [position for position, count in enumerate(counts) if count]
    if not used:
        return []
    uppers = (*BOUNDS, math.inf)
    return [DurationBin(uppers[at], counts[at]) for at in range(used[0], used[-1] + 1)]


def time_step(seconds: float, most: int) -> int:
    """Return the shortest step of `TIME_STEPS` that divides a span into at most `most` parts.

    Beyond the longest one, the step is a multiple of it.
    """
    needed = seconds / most
    longest = TIME_STEPS[-1]
    return next(
        (step for step in TIME_STEPS if step >= needed), math.ceil(needed / longest) * longest
    )


def time_bins(times_ms: Iterable[int], first_ms: int, step_seconds: int, number: int) -> list[int]:
    """Count times in `number` bins from `first_ms`; times outside are in the nearest bin."""
    counts = [0] * number
    for time_ms in times_ms:
        position = (time_ms - first_ms) // (1000 * step_seconds)
        counts[min(max(position, 0), number - 1)] += 1
    return counts


def mean_rate(ordered_ms: Sequence[int]) -> float | None:
    """Return the events per second between the first and the last of ascending times.

    None if there are fewer than two, or no time passed.
    """
    if len(ordered_ms) < 2 or ordered_ms[-1] == ordered_ms[0]:
        return None
    return 1000 * (len(ordered_ms) - 1) / (ordered_ms[-1] - ordered_ms[0])


def axis(maximum: float, least_step: float = 0.0) -> list[float]:
    """Return the ticks of an axis from 0 to at least `maximum`, in steps of 1, 2 or 5 · 10ⁿ."""
    if maximum <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(maximum / 5))
    fitting = (size * factor for factor in (1, 2, 5, 10) if size * factor >= maximum / 5)
    step = max(least_step, next(fitting))
    return [round(step * n, 9) for n in range(math.ceil(maximum / step - 1e-9) + 1)]


def rounded(value: float) -> str:
    """Return a number with three digits, and without an exponent."""
    return f"{_three_digits(value):,.10g}"


def duration(seconds: float) -> str:
    """Return a duration with three digits, in ms, s, min, h or d."""
    length, unit = next(
        (length, unit)
        for length, unit, limit in _UNITS
        if _three_digits(seconds / length) * length < limit
    )
    return f"{rounded(seconds / length)} {unit}"


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
