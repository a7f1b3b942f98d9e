"""When a job is polled next, given how long the jobs of its lane and operation take; pure.

Polls are dense at the ages at which jobs end, and sparse at other ages: their density is a power of
the hazard rate, which is the chance per second that a job of this age ends now. They are as many as
in the plain schedule (`Policy.poll_delay`). docs/decisions/0019 gives the reasons and the source.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from worker.domain.policy import POLL_GROWTH, Policy, spread

BINS: Final = 64
BINS_PER_OCTAVE: Final = 4
"""The first bin ends at 1 s, and each other one at 2^(1/4) times its beginning; the last one, from
15 hours, has no end."""

EDGES: Final = (0.0, *(2 ** (number / BINS_PER_OCTAVE) for number in range(BINS - 1)))
"""Where each bin begins, in seconds."""

ENOUGH: Final = 10.0
"""How many jobs must have ended before polls follow their durations."""

EXPONENT: Final = 2 / 3
"""The power of the hazard rate. For many polls, 1/2 has the least mean lag (Keller, 1974); for ten
or fewer, 2/3 has the same mean and a smaller median."""

_SCALES: Final = (1e-3, 1e3)
_HALVINGS: Final = 16
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Durations:
    """How long jobs take: a histogram over the bins, in which earlier jobs count less and less.

    A poll shows only that a job ended since the poll before, so each job's weight of 1 is spread
    over that time (worker/store/scripts/library/durations.lua).
    """

    weights: tuple[float, ...] = (0.0,) * BINS

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the stored weights; a damaged text counts as one without any job."""
        try:
            weights = tuple(map(float, text.split()))
        except ValueError:
            return cls()
        is_sound = len(weights) == BINS and all(0 <= weight < math.inf for weight in weights)
        return cls(weights) if is_sound else cls()

    @property
    def total(self) -> float:
        """How many jobs the weights stand for."""
        return sum(self.weights)

    @property
    def are_enough(self) -> bool:
        """Whether polls may follow these durations."""
        return self.total >= ENOUGH

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share of the jobs ended; not for no jobs."""
        left = share * self.total
        for begin, end, weight in self.bins():
            if weight and left <= weight:
                return begin + left / weight * (end - begin)
            left -= weight
        return EDGES[-1]

    def bins(self) -> Iterator[tuple[float, float, float]]:
        """Yield the begin and end of each bin, in seconds, with its weight."""
        ends = (*EDGES[1:], 2 * EDGES[-1])
        return zip(EDGES, ends, self.weights, strict=True)


UNKNOWN_DURATIONS: Final = Durations()


def next_poll_delay(
    durations: Durations, age_seconds: float, policy: Policy, polls: int, jitter: float
) -> float:
    """Return the seconds until the next poll of a job that is under way at this age.

    It is the plain schedule's delay after `polls` of them while too little is known, and for a job
    that is older than all jobs have become. `jitter` is in [0, 1).
    """
    plain = policy.poll_delay(polls, jitter)
    if not durations.are_enough or age_seconds < 0:
        return plain
    left, at = 1.0, age_seconds
    for end, density in _densities(durations, policy.poll_min_seconds, policy.poll_max_seconds):
        due = density * max(0.0, end - at)
        if due >= left:
            delay = at + left / density - age_seconds
            return policy.within_poll_bounds(delay * spread(jitter))
        left, at = left - due, max(at, end)
    return policy.within_poll_bounds(at - age_seconds + left * plain)


@dataclass(frozen=True, slots=True)
class _Bin:
    """A bin that some jobs reach.

    `alive` is the share of jobs that reach its beginning, and `ended` the share that ends in it.
    """

    begin: float
    end: float
    alive: float
    ended: float

    @property
    def seconds(self) -> float:
        """The time that an average job spends in the bin."""
        return (self.alive - self.ended / 2) * (self.end - self.begin)

    @property
    def hazard_rate(self) -> float:
        """The square of the mean root of the rate, which is finite where the rate itself is not."""
        roots = math.sqrt(self.alive) + math.sqrt(max(0.0, self.alive - self.ended))
        return 4 * self.ended / (self.end - self.begin) / roots**2

    def seconds_before(self, age: float) -> float:
        """Return the time that an average job has spent in the bin at this age."""
        passed = max(0.0, min(age, self.end) - self.begin)
        return (self.alive - self.ended / 2 * passed / (self.end - self.begin)) * passed

    def alive_at(self, age: float) -> float:
        """Return the share of jobs that are older than this age, which is in the bin."""
        return self.alive - self.ended * (age - self.begin) / (self.end - self.begin)


@lru_cache(maxsize=256)
def _densities(
    durations: Durations, shortest: float, longest: float
) -> tuple[tuple[float, float], ...]:
    """Return pairs: an age, and how many polls per second are made up to it from the age before.

    With the bounds for the time between two polls, `shortest` and `longest` seconds, they are as
    many as in the plain schedule.
    """
    bins = tuple(_reached(durations))
    shapes = tuple(each.hazard_rate**EXPONENT for each in bins)
    # The sum over polls that begin at age 0 exceeds its integral by a half.
    wanted = _plain_polls(bins, shortest, longest) - 0.5
    low, high = _SCALES
    for _ in range(_HALVINGS):
        scale = math.sqrt(low * high)
        polls = sum(
            min(max(scale * shape, 1 / longest), 1 / shortest) * each.seconds
            for shape, each in zip(shapes, bins, strict=True)
        )
        low, high = (low, scale) if polls > wanted else (scale, high)
    return tuple((each.end, low * shape) for shape, each in zip(shapes, bins, strict=True))


def _reached(durations: Durations) -> Iterator[_Bin]:
    total = left = durations.total
    for begin, end, weight in durations.bins():
        if left <= _ROUNDING * total:
            return
        yield _Bin(begin, end, left / total, min(weight, left) / total)
        left -= weight


def _plain_polls(bins: Sequence[_Bin], shortest: float, longest: float) -> float:
    """Return how many polls the plain schedule makes of an average job."""
    polls, age, delay = 1.0, shortest, shortest  # the first two delays are the shortest
    while delay < longest:
        polls += next((each.alive_at(age) for each in bins if age < each.end), 0.0)
        age, delay = age + delay, min(delay * POLL_GROWTH, longest)
    left = sum(each.seconds - each.seconds_before(age) for each in bins)
    return polls + left / longest
