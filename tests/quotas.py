"""Quotas and limiters in simulated time: deterministic, and a thousand times faster than real time.

The remote API is a token bucket behind a network that takes time. The caller has a backlog, a
limiter, and conductors that wake slightly late. `LearningLimiter` runs the same Lua code as the
scripts in the store.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import lupa.lua51 as lua

from worker.store.scripts import with_library

WAKE_SECONDS: Final = 0.002
"""How late a conductor wakes at most."""

CLAIMED_AT_ONCE: Final = 100


class Limiter(Protocol):
    """Grants calls and learns from their answers. Times are seconds of one clock."""

    def available(self, now: float, due: int) -> int:
        """Return how many of the `due` calls may be made now."""
        ...

    def grant(self, now: float) -> Any:
        """Grant one call; return what `accepted` or `refused` needs to know of it."""
        ...

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may be granted."""
        ...

    def accepted(self, now: float, grant: Any) -> None:
        """Learn that a call was not throttled."""
        ...

    def refused(self, now: float, grant: Any, retry_after: float) -> None:
        """Learn of a 429; `retry_after` is 0 if the answer has none."""
        ...


class LearningLimiter:
    """The store's limiter, in the server's version of Lua; `known` are configured limits."""

    def __init__(self, **known: float) -> None:
        runtime = lua.LuaRuntime()
        self._lua: Any = runtime.execute(
            with_library(
                "-- needs: limiters, learning\n"
                "return { open = limiters.open_limiter, refill = limiters.refill,"
                " available = limiters.available, grant = limiters.grant_call,"
                " ready_at = limiters.ready_at, pace_of = limiters.pace_of,"
                " accept = learning.accept, refuse = learning.refuse }"
            )
        )
        self._table_from: Any = runtime.table_from
        self._known = known.get("rate", 0), known.get("burst", 0)
        self.restore({}, 0.0)

    @property
    def rate(self) -> float:
        """The estimated rate of the remote API, in calls per second."""
        return float(self.state.rate)

    @property
    def burst(self) -> float:
        """The estimated burst of the remote API; 0 while it is unknown."""
        return float(self.state.burst)

    def restore(self, fields: dict[str, str], now: float) -> None:
        """Continue with a limiter from the store's fields."""
        self.state: Any = self._lua.open(self._table_from(fields), *self._known, now * 1000)

    def stored(self) -> dict[str, str]:
        """Return the limiter as the store's fields."""
        return {name: repr(value) for name, value in self.state.items()}

    def available(self, now: float, due: int) -> int:
        """Return how many calls are granted now."""
        self._lua.refill(self.state, now * 1000)
        granted = int(self._lua.available(self.state))
        self.state.limited = int(due > granted)
        return granted

    def grant(self, now: float) -> Any:  # noqa: ARG002 - as of the last refill
        """Grant a call."""
        return self._lua.grant(self.state)

    def wait(self, now: float) -> float:
        """Return the seconds until the next grants, while any number of calls is due."""
        self._lua.refill(self.state, now * 1000)
        return max(0.0, float(self._lua.ready_at(self.state, math.inf)) / 1000 - now)

    def accepted(self, now: float, grant: Any) -> None:
        """Learn from an answer."""
        self._lua.refill(self.state, now * 1000)
        self._lua.accept(self.state, grant.number, now * 1000)

    def refused(self, now: float, grant: Any, retry_after: float) -> None:
        """Learn from a 429."""
        self._lua.refuse(self.state, grant, retry_after * 1000, now * 1000)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is simulated.

    `rates` are pairs (seconds, calls per second from then on); `demand` are pairs (seconds, number
    of calls that become due). Each direction takes `transit_seconds`, plus an exponentially
    distributed time with the mean `jitter_seconds`.
    """

    rates: Sequence[tuple[float, float]]
    burst: float
    demand: Sequence[tuple[float, int]]
    transit_seconds: float = 0.004
    jitter_seconds: float = 0.004
    sends_retry_after: bool = False
    seed: int = 1

    def capacity(self, begin: float, end: float) -> float:
        """Return how many calls the quota allows between two times."""
        total = self.burst
        ends = (*(at for at, _ in self.rates[1:]), float("inf"))
        for (since, rate), until in zip(self.rates, ends, strict=True):
            total += rate * max(0.0, min(end, until) - max(begin, since))
        return total


@dataclass
class Outcome:
    """The result: the times of accepted calls and of 429s."""

    setting: Setting
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    @property
    def used(self) -> float:
        """The share of the quota that was used from the first to the last accepted call."""
        begin, end = self.accepted[0], self.accepted[-1]
        return len(self.accepted) / self.setting.capacity(begin, end)

    @property
    def share_refused(self) -> float:
        """The share of 429s among all answers."""
        return len(self.refused) / (len(self.refused) + len(self.accepted))


class _Bucket:
    """The token bucket of the remote API."""

    def __init__(self, setting: Setting) -> None:
        self._changes = list(setting.rates)
        self._rate = self._changes.pop(0)[1]
        self._burst = self._tokens = float(setting.burst)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        while self._changes and self._changes[0][0] <= now:
            at, rate = self._changes.pop(0)
            self._fill(at)
            self._rate = rate
        self._fill(now)
        if self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class _Simulation:
    """The caller's backlog and the calls in transit, as events in order of time."""

    def __init__(self, limiter: Limiter, setting: Setting) -> None:
        self._limiter = limiter
        self._setting = setting
        self._bucket = _Bucket(setting)
        self._random = random.Random(setting.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order: Iterator[int] = itertools.count()
        self._due = 0
        self._wakes_at = float("inf")
        self.outcome = Outcome(setting)

    def run(self, until: float) -> Outcome:
        for at, calls in self._setting.demand:
            self._at(at, self._fall_due, calls)
        while self._events and self._events[0][0] <= until:
            now, _, handle, args = heapq.heappop(self._events)
            handle(now, *args)
        return self.outcome

    def _at(self, when: float, handle: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), handle, args))

    def _wake(self, when: float) -> None:
        if when < self._wakes_at:
            self._wakes_at = when
            self._at(when, self._claim)

    def _fall_due(self, now: float, calls: int) -> None:
        self._due += calls
        self._wake(now)

    def _claim(self, now: float) -> None:
        if now < self._wakes_at:
            return  # another event woke it earlier
        self._wakes_at = float("inf")
        if not self._due:
            return
        granted = min(self._due, self._limiter.available(now, self._due), CLAIMED_AT_ONCE)
        for _ in range(granted):
            self._due -= 1
            self._at(now + self._transit_time(), self._arrive, self._limiter.grant(now))
        self._wake_when_granted(now)

    def _wake_when_granted(self, now: float) -> None:
        if self._due:
            wait = max(self._limiter.wait(now), 0.0005)
            self._wake(now + wait + self._random.random() * WAKE_SECONDS)

    def _arrive(self, now: float, grant: Any) -> None:
        wait = self._bucket.take(now)
        (self.outcome.refused if wait else self.outcome.accepted).append(now)
        self._at(now + self._transit_time(), self._answer, grant, wait)

    def _answer(self, now: float, grant: Any, wait: float) -> None:
        if not wait:
            self._limiter.accepted(now, grant)
        else:
            self._due += 1
            self._limiter.refused(now, grant, wait if self._setting.sends_retry_after else 0.0)
        self._wake_when_granted(now)

    def _transit_time(self) -> float:
        jitter = self._setting.jitter_seconds
        return self._setting.transit_seconds + (
            self._random.expovariate(1 / jitter) if jitter else 0.0
        )


def simulate(limiter: Limiter, setting: Setting, until: float = float("inf")) -> Outcome:
    """Let a limiter use a quota until all due calls were accepted, or until `until`."""
    return _Simulation(limiter, setting).run(until)
