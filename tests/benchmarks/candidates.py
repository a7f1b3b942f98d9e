"""Algorithms that find and use an unknown quota, for comparison with the store's limiter.

Each follows its published description and constants, for one lane shared by its callers. Times are
seconds.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final


@dataclass
class _Paced:
    """Grants calls at a pace; the base of the candidates below."""

    pace: float
    capacity: float = 1.0
    tokens: float = 1.0
    filled_at: float = 0.0
    blocked_until: float = 0.0
    granted: int = 0

    def available(self, now: float, due: int) -> int:  # noqa: ARG002 - unused by these candidates
        self.fill(now)
        return 0 if now < self.blocked_until else int(self.tokens + 1e-9)

    def grant(self, now: float) -> tuple[int, float]:
        self.tokens -= 1
        self.granted += 1
        return self.granted, now

    def wait(self, now: float) -> float:
        self.fill(now)
        return max(0.0, (1 - self.tokens) / self.pace, self.blocked_until - now)

    def fill(self, now: float) -> None:
        room = max(self.capacity, 1.0)
        self.tokens = min(room, self.tokens + max(0.0, now - self.filled_at) * self.pace)
        self.filled_at = max(now, self.filled_at)


class GuessAndBlock(_Paced):
    """A guessed rate. After a 429 it makes no call for one second, then for two, up to thirty.

    This project's first limiter.
    """

    def __init__(self) -> None:
        super().__init__(pace=5.0, capacity=5.0, tokens=5.0)
        self._throttles = 0
        self._adjusted_at = 0.0

    def accepted(self, now: float, grant: tuple[int, float]) -> None:  # noqa: ARG002
        self._throttles = 0

    def refused(self, now: float, grant: tuple[int, float], retry_after: float) -> None:
        if grant[1] > self._adjusted_at or not self._throttles:
            pause = retry_after or min(2.0**self._throttles, 30.0)
            self.blocked_until, self._adjusted_at = now + pause, now
            self._throttles += 1
            self.fill(now)
            self.tokens = 0.0


class Aimd(_Paced):
    """Additive increase (1/s per second), multiplicative decrease (half) (Chiu and Jain, 1989)."""

    def __init__(self) -> None:
        super().__init__(pace=4.0)
        self._adjusted_at = 0.0

    def accepted(self, now: float, grant: tuple[int, float]) -> None:  # noqa: ARG002
        self.fill(now)
        self.pace += 1.0 / self.pace

    def refused(self, now: float, grant: tuple[int, float], retry_after: float) -> None:
        self.blocked_until = max(self.blocked_until, now + retry_after)
        if grant[1] > self._adjusted_at:
            self.fill(now)
            self.pace, self._adjusted_at = max(0.02, self.pace / 2), now


class Cubic(_Paced):
    """CUBIC on the rate (Ha, Rhee and Xu, 2008), as in botocore's adaptive retry mode.

    Constants 0.4 and 0.7, at most twice the recent rate, unlimited until the first 429.
    """

    SCALE: Final = 0.4
    BETA: Final = 0.7

    def __init__(self) -> None:
        super().__init__(pace=0.5)
        self._enabled = False
        self._last_max = 0.0
        self._throttled_at = 0.0
        self._sent_rate = 0.0
        self._sent = 0
        self._bucket = 0.0

    def available(self, now: float, due: int) -> int:
        if not self._enabled:
            return min(due, max(0, 10 - self._in_flight))
        return super().available(now, due)

    def wait(self, now: float) -> float:
        return super().wait(now) if self._enabled else 0.001

    def grant(self, now: float) -> tuple[int, float]:
        tokens = self.tokens
        granted = super().grant(now)
        if not self._enabled:
            self.tokens = tokens
        self._in_flight += 1
        return granted

    _in_flight = 0

    def accepted(self, now: float, grant: tuple[int, float]) -> None:  # noqa: ARG002
        self._measure(now)
        if self._enabled:
            window = (self._last_max * (1 - self.BETA) / self.SCALE) ** (1 / 3)
            elapsed = now - self._throttled_at
            self._set(self.SCALE * (elapsed - window) ** 3 + self._last_max, now)

    def refused(self, now: float, grant: tuple[int, float], retry_after: float) -> None:  # noqa: ARG002
        self._measure(now)
        self.blocked_until = max(self.blocked_until, now + retry_after)
        used = min(self._sent_rate, self.pace) if self._enabled else self._sent_rate
        self._last_max, self._throttled_at, self._enabled = used, now, True
        self._set(used * self.BETA, now)

    def _measure(self, now: float) -> None:
        self._in_flight -= 1
        self._sent += 1
        bucket = math.floor(now * 2) / 2
        if bucket > self._bucket:
            rate = self._sent / (bucket - self._bucket)
            self._sent_rate = rate * 0.8 + self._sent_rate * 0.2
            self._sent, self._bucket = 0, bucket

    def _set(self, pace: float, now: float) -> None:
        self.fill(now)
        self.pace = max(0.5, min(pace, 2 * self._sent_rate))
        self.capacity = max(1.0, self.pace)
        self.tokens = min(self.tokens, self.capacity)


class DeliveryRate(_Paced):
    """The greatest delivery rate of the last ten seconds, with periodic probes, as in BBR (2016).

    The gain is 1.25 and 0.75 for one round each, then 1 for six rounds; a round takes one second.
    """

    GAINS: Final = (1.25, 0.75, 1, 1, 1, 1, 1, 1)

    def __init__(self) -> None:
        super().__init__(pace=4.0)
        self._delivered: deque[float] = deque()
        self._rates: deque[tuple[float, float]] = deque()
        self._started = False
        self._round_at = 0.0
        self._round = 0

    def accepted(self, now: float, grant: tuple[int, float]) -> None:  # noqa: ARG002
        self._delivered.append(now)
        self._next_round(now)

    def refused(self, now: float, grant: tuple[int, float], retry_after: float) -> None:  # noqa: ARG002
        self.blocked_until = max(self.blocked_until, now + retry_after)
        self._started = True
        self._next_round(now)

    def _next_round(self, now: float) -> None:
        length = max(1.0, 4 / self.pace)
        if now - self._round_at < length:
            return
        while self._delivered and self._delivered[0] < now - length:
            self._delivered.popleft()
        self._rates.append((now, len(self._delivered) / length))
        while self._rates[0][0] < now - 10 * length:
            self._rates.popleft()
        best = max(rate for _, rate in self._rates)
        gain = self.GAINS[self._round % len(self.GAINS)] if self._started else 2.0
        self.fill(now)
        self.pace = max(0.02, best * gain)
        self._round, self._round_at = self._round + 1, now
