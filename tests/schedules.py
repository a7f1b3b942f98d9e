"""Schedules of polls in simulated time. Jobs run side by side, and a poll takes no time.

`Learned` knows only what its polls have shown. The store's own Lua code updates its histogram.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any, Final

import lupa.lua51 as lua

from worker.domain.policy import Policy, spread
from worker.domain.polling import BINS, BINS_PER_OCTAVE, Durations, next_poll_delay
from worker.store.scripts import with_library

SEED: Final = 1
STARTS_PER_SECOND: Final = 0.5
POLICY: Final = Policy(
    max_attempts=1,
    poll_min_seconds=2,
    poll_max_seconds=30,
    stuck_seconds=math.inf,
    deadline_seconds=math.inf,
    success_statuses=frozenset(),
    failure_statuses=frozenset(),
    settle_seconds=0,
    missing_grace_seconds=0,
)


class Schedule:
    """Says when a job is polled next; the plain schedule unless a subclass says otherwise."""

    def delay(self, age: float, polls: int, jitter: float) -> float:  # noqa: ARG002
        """Return the seconds until the next poll of a job of this age, after so many polls."""
        return POLICY.poll_delay(max(0, polls - 1), jitter)

    def ended(self, after: float, until: float) -> None:
        """Learn that a job was over at the age `until`, and was not at the age `after`."""


@dataclass
class FixedInterval(Schedule):
    """The same interval between all polls."""

    seconds: float

    def delay(self, age: float, polls: int, jitter: float) -> float:  # noqa: ARG002
        """Return the interval, which varies as in the other schedules."""
        return self.seconds * spread(jitter)


class Learned(Schedule):
    """The schedule of the workers, with the histogram as the store keeps it."""

    def __init__(self) -> None:
        runtime = lua.LuaRuntime()
        bins: Any = runtime.table_from({"count": BINS, "per_octave": BINS_PER_OCTAVE})
        runtime.globals().BINS = bins
        text = "-- needs: durations\nreturn durations.with_job"
        self._with_job: Callable[[str, float, float], str] = runtime.execute(with_library(text))
        self.text = ""
        self.durations = Durations()

    def delay(self, age: float, polls: int, jitter: float) -> float:
        """Return what the worker would decide."""
        return next_poll_delay(self.durations, age, POLICY, max(0, polls - 1), jitter)

    def ended(self, after: float, until: float) -> None:
        """Add the job to the histogram."""
        self.text = self._with_job(self.text, after, until)
        self.durations = Durations.from_text(self.text)


@dataclass
class Outcome:
    """The result: the number of polls and the lag in seconds of each job."""

    polls: list[int] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    @property
    def polls_per_job(self) -> float:
        """The mean number of polls."""
        return mean(self.polls)

    @property
    def percentiles(self) -> Sequence[float]:
        """The percentiles 1 to 99 of the lag."""
        return quantiles(self.lags, n=100)


def simulate(schedule: Schedule, seconds: Sequence[float]) -> Outcome:
    """Poll jobs that take so many seconds, and start one after the other."""
    rng = random.Random(SEED)
    outcome = Outcome([0] * len(seconds), [0.0] * len(seconds))
    # when a job is started or polled, its number, and its age at the last poll; None for its start
    events: list[tuple[float, int, float | None]] = [
        (number / STARTS_PER_SECOND, number, None) for number in range(len(seconds))
    ]
    while events:
        at, number, last_age = heapq.heappop(events)
        age = at - number / STARTS_PER_SECOND
        if last_age is not None:
            outcome.polls[number] += 1
            if age >= seconds[number]:
                outcome.lags[number] = age - seconds[number]
                schedule.ended(last_age, age)
                continue
        delay = schedule.delay(age, outcome.polls[number], rng.random())
        heapq.heappush(events, (at + delay, number, age))
    return outcome


def with_as_many_polls(polls: float, seconds: Sequence[float]) -> Outcome:
    """Return the result of the fixed interval that makes as many polls for each job."""
    low, high = 0.1, 1000.0
    for _ in range(30):
        interval = (low + high) / 2
        outcome = simulate(FixedInterval(interval), seconds)
        low, high = (interval, high) if outcome.polls_per_job > polls else (low, interval)
    return outcome
