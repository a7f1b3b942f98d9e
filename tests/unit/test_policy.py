"""The operator's policy: intervals have limits, and the case of statuses is ignored."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worker.domain.policy import JITTER, RETRY_MAX_SECONDS, Policy
from worker.domain.states import State

steady = settings(derandomize=True, database=None, deadline=None)
jitters = st.floats(0, 1, exclude_max=True)
counts = st.integers(0, 10**9)


def policy(poll_min_seconds: float = 3, poll_max_seconds: float = 60) -> Policy:
    return Policy(
        max_attempts=5,
        poll_min_seconds=poll_min_seconds,
        poll_max_seconds=poll_max_seconds,
        stuck_seconds=1800,
        deadline_seconds=6 * 3600,
        success_statuses=frozenset({"COMPLETED", "DONE"}),
        failure_statuses=frozenset({"FAILED"}),
        settle_seconds=10,
        missing_grace_seconds=60,
    )


@pytest.mark.parametrize(
    ("polls", "seconds"), [(0, 4), (1, 6), (2, 9), (3, 13.5), (10, 60), (10**9, 60)]
)
def test_poll_intervals_grow_by_half_up_to_the_longest(polls: int, seconds: float) -> None:
    assert policy(poll_min_seconds=4).poll_delay(polls, 0.5) == pytest.approx(seconds)


@steady
@given(polls=counts, jitter=jitters)
def test_the_same_jitter_never_brings_a_later_poll_sooner(polls: int, jitter: float) -> None:
    assert policy().poll_delay(polls, jitter) <= policy().poll_delay(polls + 1, jitter)


@steady
@given(
    shortest=st.floats(0.001, 365 * 86400),
    longest=st.floats(0.001, 365 * 86400),
    polls=counts,
    jitter=jitters,
)
def test_a_poll_stays_within_the_operators_bounds(
    shortest: float, longest: float, polls: int, jitter: float
) -> None:
    assume(shortest <= longest)
    assert shortest <= policy(shortest, longest).poll_delay(polls, jitter) <= longest


def test_jitter_spreads_polls_to_both_sides() -> None:
    middle = policy().poll_delay(3, 0.5)
    assert policy().poll_delay(3, 0) == pytest.approx(middle * (1 - JITTER))
    assert policy().poll_delay(3, 0.999999) == pytest.approx(middle * (1 + JITTER), rel=1e-4)


@pytest.mark.parametrize(
    ("attempts", "longest"), [(0, 1.5), (1, 2.5), (2, 4.5), (5, 32.5), (9, 300.5), (10**9, 300.5)]
)
def test_the_bound_of_a_retry_doubles_up_to_five_minutes(attempts: int, longest: float) -> None:
    assert policy().retry_delay(attempts, 0) == 0.5
    assert policy().retry_delay(attempts, 1 - 1e-12) == pytest.approx(longest)


@steady
@given(attempts=counts, jitter=jitters)
def test_the_wait_before_a_retry_is_positive_and_limited(attempts: int, jitter: float) -> None:
    assert 0.5 <= policy().retry_delay(attempts, jitter) <= 0.5 + RETRY_MAX_SECONDS


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("COMPLETED", State.SUCCEEDED),
        ("completed", State.SUCCEEDED),
        ("Completed", State.SUCCEEDED),
        ("done", State.SUCCEEDED),
        ("FAILED", State.FAILED),
        ("Failed", State.FAILED),
        ("IN_PROGRESS", None),
        ("COMPLETED_WITH_WARNINGS", None),
        ("", None),
    ],
)
def test_a_status_is_read_without_regard_to_case(status: str, outcome: State | None) -> None:
    assert policy().outcome_of(status) is outcome
