"""Quotas: token buckets for each account and region, whose rates may change over time.

The caller passes in the time `elapsed`, in seconds since the simulation began. It never decreases.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from worker.sandbox.api import OperationClass, limit_exceeded
from worker.sandbox.clock import Instant
from worker.sandbox.scenario import Bucket, BucketName, Quota, RateChange, RetryAfter

RATE_MESSAGE = "Rate exceeded"


class TokenBucket:
    """A token bucket, full at the start. An admitted call takes one token."""

    def __init__(self, bucket: Bucket, changes: Iterable[RateChange] = ()) -> None:
        self._rate = bucket.rate
        self._burst = float(bucket.burst)
        self._tokens = self._burst
        self._filled_at = 0.0
        self._changes = sorted(changes, key=lambda change: change.at_seconds)

    def take(self, elapsed: float) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""
        while self._changes and self._changes[0].at_seconds <= elapsed:
            change = self._changes.pop(0)
            self._fill(change.at_seconds)
            self._rate = change.rate
        self._fill(elapsed)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate

    def _fill(self, elapsed: float) -> None:
        gained = (elapsed - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = elapsed


@dataclass(frozen=True, slots=True)
class Limiter:
    """The quota of one account in one region."""

    quota: Quota
    buckets: dict[OperationClass, TokenBucket]

    @classmethod
    def of(cls, quota: Quota) -> "Limiter":
        """Return the limiter of a quota. A shared bucket limits both classes of calls together."""
        if quota.shared:
            shared = _bucket(quota, BucketName.SHARED, quota.shared)
            return cls(quota, dict.fromkeys(OperationClass, shared))
        buckets = {}
        if quota.starts:
            buckets[OperationClass.STARTS] = _bucket(quota, BucketName.STARTS, quota.starts)
        if quota.reads:
            buckets[OperationClass.READS] = _bucket(quota, BucketName.READS, quota.reads)
        return cls(quota, buckets)

    def admit(self, operation_class: OperationClass, now: Instant) -> None:
        """Take a token for a call.

        Raises:
            ApiError: the answer 429, if there is no token.

        """
        bucket = self.buckets.get(operation_class)
        wait_seconds = bucket.take(now.elapsed) if bucket else 0.0
        if wait_seconds:
            headers = _retry_after(self.quota.retry_after, wait_seconds, now)
            raise limit_exceeded(self.quota.limit_type, RATE_MESSAGE, headers)

    def check_running(self, running: int) -> None:
        """Refuse to start a job while `max_running` jobs are unfinished.

        Raises:
            ApiError: the answer 429, without Retry-After: it is unknown when a job will end.

        """
        if self.quota.max_running is None or running < self.quota.max_running:
            return
        limit_type = self.quota.running_limit_type
        message = "Too many jobs are in progress" if limit_type else RATE_MESSAGE
        raise limit_exceeded(limit_type or self.quota.limit_type, message, {})


def _bucket(quota: Quota, name: BucketName, bucket: Bucket) -> TokenBucket:
    return TokenBucket(bucket, [c for c in quota.changes if c.bucket in {None, name}])


def _retry_after(style: RetryAfter, wait_seconds: float, now: Instant) -> dict[str, str]:
    if style is RetryAfter.NONE:
        return {}
    # Round up: otherwise the caller would come back too early.
    value = str(math.ceil(wait_seconds))
    if style is RetryAfter.FRACTION:
        value = f"{math.ceil(wait_seconds * 1000) / 1000:.3f}"
    elif style is RetryAfter.DATE:
        moment = datetime.fromtimestamp(math.ceil(now.wall + wait_seconds), tz=UTC)
        value = format_datetime(moment, usegmt=True)
    return {"Retry-After": value}
