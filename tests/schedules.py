"""Schedules of polls in simulated time. Jobs run side by side, and a poll takes no time.

`Learned` knows only what its polls have shown. The store's own Lua code updates its histogram.
"""

import heapq
import math
import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any, Final

import lupa.lua51 as lua

from worker.domain.policy import Policy, spread
from worker.domain.polling import BINS, BINS_PER_OCTAVE, ENOUGH, Durations, next_poll_delay
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
        bins: Any = runtime.table_from(
            {"count": BINS, "per_octave": BINS_PER_OCTAVE, "enough": ENOUGH}
        )
        runtime.globals().BINS = bins
        self._lua: Any = runtime.execute(with_library("-- needs: durations\nreturn durations"))
        self.text = ""
        self.durations = Durations()
        self._survivors: Any = None

    def delay(self, age: float, polls: int, jitter: float) -> float:
        """Return what the worker would decide."""
        return next_poll_delay(self.durations, age, POLICY, max(0, polls - 1), jitter)

    def ended(self, after: float, until: float) -> None:
        """Add the job to the histogram."""
        self.text = self._lua.with_job(self.text, after, until)
        self.durations = Durations.from_text(self.text)
        self._survivors = self._lua.survivors_in(self.text)

    def chance(self, after: float, until: float) -> float:
        """Return the chance that a job ends between two ages; 1 while that is not known."""
        if self._survivors is None:
            return 1.0
        return float(self._lua.chance_of_end(self._survivors, after, until))


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


LOOKED_AT: Final = 8
PATIENCE: Final = 2
"""As in worker/store/scripts/library/polls.lua."""


class _ShortLimit:
    """Jobs under way, of which a limit permits fewer polls than the learned schedule asks for."""

    def __init__(
        self, seconds: Sequence[float], starts: float, polls: float, *, likeliest_first: bool
    ) -> None:
        self._seconds, self._starts, self._polls = seconds, starts, polls
        self._likeliest_first = likeliest_first
        self._rng = random.Random(SEED)
        self._schedule = Learned()
        self._queue: list[tuple[float, int, float]] = []
        """When a poll falls due, the job's number, and its age at the last poll; in order."""
        self.outcome = Outcome([0] * len(seconds), [0.0] * len(seconds))

    def run(self) -> None:
        """Make one poll after the other, as fast as permitted, until all jobs were found."""
        begun, at = 0, 0.0
        while begun < len(self._seconds) or self._queue:
            at += 1 / self._polls
            while begun < len(self._seconds) and begun / self._starts <= at:
                self._schedule_poll(begun, 0.0)
                begun += 1
            due = bisect_right(self._queue, (at, math.inf))
            if due:
                self._poll(at, *self._queue.pop(self._choose(due, at))[1:])

    def _choose(self, due: int, at: float) -> int:
        waits = due / self._polls
        if not self._likeliest_first or at - self._queue[0][0] > PATIENCE * waits:
            return 0
        step = max(1.0, due / LOOKED_AT)
        sample = [int(self._rng.random() * step + n * step) for n in range(min(due, LOOKED_AT))]
        return max(sample, key=lambda place: self._chance(at, *self._queue[place][1:]))

    def _chance(self, at: float, number: int, last_age: float) -> float:
        return self._schedule.chance(last_age, at - number / self._starts)

    def _poll(self, at: float, number: int, last_age: float) -> None:
        age = at - number / self._starts
        self.outcome.polls[number] += 1
        if age < self._seconds[number]:
            self._schedule_poll(number, age)
        else:
            self.outcome.lags[number] = age - self._seconds[number]
            self._schedule.ended(last_age, age)

    def _schedule_poll(self, number: int, age: float) -> None:
        delay = self._schedule.delay(age, self.outcome.polls[number], self._rng.random())
        insort(self._queue, (number / self._starts + age + delay, number, age))


def simulate_short(
    seconds: Sequence[float], starts: float, polls: float, *, likeliest_first: bool
) -> Outcome:
    """Poll jobs while a limit permits fewer polls than the learned schedule asks for.

    `starts` and `polls` are numbers per second. Due polls are made in the order in which they fell
    due, or those first whose jobs are likeliest to have ended.
    """
    limit = _ShortLimit(seconds, starts, polls, likeliest_first=likeliest_first)
    limit.run()
    return limit.outcome


def with_as_many_polls(polls: float, seconds: Sequence[float]) -> Outcome:
    """Return the result of the fixed interval that makes as many polls for each job."""
    low, high = 0.1, 1000.0
    for _ in range(30):
        interval = (low + high) / 2
        outcome = simulate(FixedInterval(interval), seconds)
        low, high = (interval, high) if outcome.polls_per_job > polls else (low, interval)
    return outcome
