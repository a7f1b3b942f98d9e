"""Token buckets; the tests pass the time."""

import pytest

from worker.sandbox.api import ApiError, OperationClass
from worker.sandbox.clock import Instant
from worker.sandbox.quota import Limiter, TokenBucket
from worker.sandbox.scenario import Bucket, Quota, RateChange


def test_a_bucket_grants_its_burst_then_its_rate() -> None:
    bucket = TokenBucket(Bucket(rate=2, burst=3))
    assert [bucket.take(0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(0) == pytest.approx(0.5)
    assert bucket.take(0.25) == pytest.approx(0.25)
    assert bucket.take(0.5) == 0
    assert bucket.take(0.5) == pytest.approx(0.5)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(Bucket(rate=100, burst=2))
    assert [bucket.take(60) == 0 for _ in range(3)] == [True, True, False]


def test_over_a_long_time_a_bucket_grants_rate_times_time_plus_burst() -> None:
    bucket = TokenBucket(Bucket(rate=8, burst=5))
    granted = sum(bucket.take(step / 64) == 0 for step in range(64 * 10))
    assert granted == 5 + 8 * 10 - 1


def test_a_rate_may_change_in_the_middle_of_a_wait() -> None:
    changes = [RateChange(at_seconds=20, rate=10), RateChange(at_seconds=10, rate=1)]
    bucket = TokenBucket(Bucket(rate=0.05, burst=10), changes)
    for _ in range(10):
        assert bucket.take(0) == 0
    # Half a token by second 10, then one per second.
    assert bucket.take(10.5) == 0
    assert bucket.take(10.5) == pytest.approx(1)
    assert bucket.take(11.5) == 0
    assert bucket.take(20) == 0
    while bucket.take(20) == 0:
        pass
    assert bucket.take(20) == pytest.approx(0.05, abs=0.05)


def test_a_change_without_a_bucket_affects_all_and_one_with_a_bucket_only_that() -> None:
    quota = Quota.model_validate(
        {
            "starts": {"rate": 1, "burst": 1},
            "reads": {"rate": 1, "burst": 1},
            "changes": [
                {"at_seconds": 10, "rate": 100},
                {"at_seconds": 20, "rate": 0.1, "bucket": "starts"},
            ],
        }
    )
    buckets = Limiter.of(quota).buckets
    waits = {}
    for operation_class, bucket in buckets.items():
        assert bucket.take(30) == 0
        waits[operation_class] = bucket.take(30)
    assert waits[OperationClass.STARTS] == pytest.approx(10)
    assert waits[OperationClass.READS] == pytest.approx(0.01)


def test_a_quota_without_buckets_does_not_limit() -> None:
    limiter = Limiter.of(Quota())
    for _ in range(1000):
        limiter.admit(OperationClass.STARTS, Instant(elapsed=0, wall=0))
    limiter.check_running(10**6)


def test_a_retry_after_date_is_never_too_early() -> None:
    quota = Quota.model_validate(
        {"reads": {"rate": 1, "burst": 1}, "retry_after": "date", "limit_type": "READS"}
    )
    limiter = Limiter.of(quota)
    now = Instant(elapsed=0, wall=1_700_000_000.5)
    limiter.admit(OperationClass.READS, now)
    with pytest.raises(ApiError) as caught:
        limiter.admit(OperationClass.READS, now)
    assert caught.value.members == {"limitType": "READS"}
    # One second after 22:13:20.5 there is a token.
    assert caught.value.headers == {"Retry-After": "Tue, 14 Nov 2023 22:13:22 GMT"}
