"""The limiter in simulated time: the store's Lua code against buckets that it does not know."""

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quotas import LearningLimiter, Outcome, Setting, simulate

steady = settings(derandomize=True, database=None, deadline=None, max_examples=60)


SHUT = 1e-9
"""A rate at which no call is accepted."""


def backlog(calls: int) -> tuple[tuple[float, int], ...]:
    return ((0.0, calls),)


def spend(rate: float, burst: float, calls: int, seed: int = 1) -> Outcome:
    setting = Setting(rates=((0, rate),), burst=burst, demand=backlog(calls), seed=seed)
    return simulate(LearningLimiter(), setting)


def between(times: list[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


@pytest.mark.parametrize("seed", range(5))
def test_a_hidden_quota_is_used_and_hardly_ever_exceeded(seed: int) -> None:
    outcome = spend(rate=10, burst=5, calls=1000, seed=seed)
    assert outcome.used >= 0.97
    assert outcome.share_refused <= 0.005


@pytest.mark.parametrize(
    ("rate", "burst", "calls", "used", "refused"),
    [
        (0.05, 2, 60, 0.97, 0.25),
        (0.2, 1, 80, 0.92, 0.2),
        (0.2, 2, 80, 0.95, 0.2),
        (0.5, 1, 120, 0.92, 0.12),
        (0.5, 5, 120, 0.93, 0.1),
        (1, 3, 200, 0.95, 0.06),
        (5, 5, 1000, 0.97, 0.01),
        (10, 100, 1000, 0.97, 0.02),
        (20, 20, 2000, 0.97, 0.01),
        (200, 100, 12_000, 0.92, 0.005),
        (1000, 500, 60_000, 0.88, 0.01),
    ],
)
def test_any_rate_is_learned(
    rate: float, burst: float, calls: int, used: float, refused: float
) -> None:
    """The unused part of a high rate is the time to reach it: ten seconds to 1,000 per second."""
    outcome = spend(rate, burst, calls)
    assert outcome.used >= used
    assert outcome.share_refused <= refused


@steady
@given(
    rate=st.floats(0.3, 60),
    burst_seconds=st.floats(0.3, 10),
    way_ms=st.floats(1, 150),
    seed=st.integers(0, 10**6),
)
def test_the_limiter_copes_with_every_bucket(
    rate: float, burst_seconds: float, way_ms: float, seed: int
) -> None:
    way = way_ms / 1000
    setting = Setting(
        rates=((0, rate),),
        burst=max(3, round(rate * burst_seconds)),
        demand=backlog(round(60 + 60 * rate)),
        transit_seconds=way,
        jitter_seconds=way / 5,
        seed=seed,
    )
    outcome = simulate(LearningLimiter(), setting, until=3600)
    assert len(outcome.accepted) == setting.demand[0][1], "all calls are accepted in the end"
    assert outcome.used >= 0.75
    assert outcome.share_refused <= 0.15


@pytest.mark.parametrize(("transit_seconds", "used"), [(0.1, 0.98), (0.25, 0.95), (1, 0.85)])
def test_slow_answers_cost_little(transit_seconds: float, used: float) -> None:
    """A late 429 proves nothing about calls that were granted later."""
    setting = Setting(
        rates=((0, 10),),
        burst=5,
        demand=backlog(1000),
        transit_seconds=transit_seconds,
        jitter_seconds=transit_seconds / 5,
    )
    assert simulate(LearningLimiter(), setting).used >= used


@steady
@given(
    rate=st.floats(0.05, 500),
    burst=st.floats(1, 50),
    rests=st.lists(st.floats(0, 30), min_size=1, max_size=6),
)
def test_a_known_limit_is_never_exceeded_over_any_time(
    rate: float, burst: float, rests: list[float]
) -> None:
    limiter = LearningLimiter(rate=rate, burst=burst)
    granted: list[float] = []
    now = 0.0
    for rest in rests:
        now += rest
        for _ in range(20):
            for _ in range(limiter.available(now, due=1000)):
                limiter.grant(now)
                granted.append(now)
            now += limiter.wait(now)
    for first, begin in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + rate * (granted[last] - begin) + 1e-6


@pytest.mark.parametrize("jitter_seconds", [0.002, 0.02])
def test_a_known_limit_is_used_without_a_429(jitter_seconds: float) -> None:
    setting = Setting(
        rates=((0, 10),),
        burst=5,
        demand=backlog(1000),
        transit_seconds=jitter_seconds,
        jitter_seconds=jitter_seconds,
    )
    outcome = simulate(LearningLimiter(rate=10, burst=5), setting)
    assert outcome.used >= 0.985
    assert not outcome.refused


@pytest.mark.parametrize("burst", [5, 10, 20])
def test_a_falling_quota_is_noticed_within_seconds_and_a_rising_one_within_tens_of_seconds(
    burst: int,
) -> None:
    setting = Setting(
        rates=((0, 20), (60, 5), (120, 20)), burst=burst, demand=backlog(2700), seed=burst
    )
    outcome = simulate(LearningLimiter(), setting)
    assert outcome.used >= 0.92
    assert outcome.share_refused <= 0.02
    assert between(outcome.refused, 60, 66) <= 8
    assert between(outcome.accepted, 66, 110) >= 0.9 * 5 * 44
    assert between(outcome.accepted, 145, 155) >= 0.9 * 20 * 10


def test_a_known_rate_that_is_too_high_is_lowered_and_restored_when_possible() -> None:
    limiter = LearningLimiter(rate=10, burst=5)
    setting = Setting(rates=((0, 10), (30, 3), (90, 10)), burst=5, demand=backlog(1100))
    outcome = simulate(limiter, setting)
    assert outcome.used >= 0.9
    assert outcome.share_refused <= 0.03
    assert between(outcome.accepted, 110, 125) >= 0.9 * 10 * 15


@pytest.mark.parametrize("known", [{}, {"rate": 10, "burst": 5}], ids=["hidden", "known"])
@pytest.mark.parametrize("since", [0, 60], ids=["new", "learned"])
@pytest.mark.parametrize(("seconds", "refused", "late"), [(5, 6, 60), (60, 9, 25), (300, 16, 95)])
def test_a_quota_that_was_shut_is_used_again_soon_after_it_opens(
    known: dict[str, float], since: float, seconds: float, refused: int, late: float
) -> None:
    """Nothing reports that it opens: attempts become rarer, down to about one per minute."""
    opens = since + seconds
    setting = Setting(rates=((0, 10), (since, SHUT), (opens, 10)), burst=5, demand=backlog(4000))
    outcome = simulate(LearningLimiter(**known), setting)
    assert between(outcome.refused, since, opens) <= refused
    assert between(outcome.accepted, opens + late, opens + late + 100) >= 0.9 * 10 * 100


def test_a_burst_is_discovered_and_used_after_a_rest() -> None:
    bursts = [(10.0 * n, 15) for n in range(1, 20)]
    setting = Setting(rates=((0, 10),), burst=20, demand=((0.0, 400), *bursts))
    limiter = LearningLimiter()
    # Let the backlog end; then each burst is due while the bucket is full.
    setting = Setting(
        rates=((0, 10),), burst=20, demand=((0.0, 400), *((at + 60, n) for at, n in bursts))
    )
    outcome = simulate(limiter, setting)
    assert limiter.burst == pytest.approx(20, abs=4)
    for at, calls in setting.demand[2:]:
        assert between(outcome.accepted, at, at + 0.5) == calls
    assert between(outcome.refused, 75, 1000) <= 2


def test_retry_after_is_obeyed() -> None:
    limiter = LearningLimiter()
    assert limiter.available(0, due=10)
    limiter.refused(0.1, limiter.grant(0), retry_after=7.0)
    assert limiter.available(7.05, due=10) == 0
    assert limiter.wait(5) == pytest.approx(2.1)
    assert limiter.available(60, due=10)


def test_429s_of_calls_in_transit_count_as_one() -> None:
    limiter = LearningLimiter(rate=100, burst=50)
    grants = [limiter.grant(0) for _ in range(limiter.available(0, due=40))]
    before = limiter.rate
    for grant in grants:
        limiter.refused(1.0, grant, 0)
    assert limiter.rate == before, "a known rate does not change because of one moment"
    learning = LearningLimiter()
    learning.state.tokens = 20
    grants = [learning.grant(0) for _ in range(20)]
    learning.refused(1.0, grants[0], 0)
    once = learning.rate
    for grant in grants[1:]:
        learning.refused(1.1, grant, 0)
    assert learning.rate == once


@steady
@given(
    idle_seconds=st.floats(0, 30 * 86400),
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_a_lane_resumes_after_any_rest_without_many_429s(
    idle_seconds: float, rate: float, burst: int, seed: int
) -> None:
    calls = round(20 + 20 * rate)
    end = 3 * calls / rate
    setting = Setting(
        rates=((0, rate),),
        burst=burst,
        demand=((0.0, calls), (end + idle_seconds, calls)),
        seed=seed,
    )
    outcome = simulate(LearningLimiter(), setting)
    assert len(outcome.accepted) == 2 * calls
    woken = end + idle_seconds
    assert between(outcome.accepted, woken, woken + 2 / rate + 1) >= 1
    assert between(outcome.refused, woken, woken + 1) <= 3 + 0.1 * rate


FIELDS = sorted(LearningLimiter().stored())
JUNK = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["nan", "-inf", "1e300", "-1", "0", "", "null", "{}", "-1e6", "99999"]),
)


@steady
@given(damage=st.dictionaries(st.sampled_from(FIELDS), JUNK, min_size=1), lost=st.booleans())
def test_a_lost_or_damaged_limiter_still_grants_and_soon_recovers(
    damage: dict[str, str], *, lost: bool
) -> None:
    setting = Setting(rates=((0, 10),), burst=5, demand=backlog(150))
    limiter = LearningLimiter()
    simulate(limiter, setting)
    limiter.restore({} if lost else {**limiter.stored(), **damage}, now=20.0)
    again = Setting(rates=((0, 10),), burst=5, demand=((20.0, 200),))
    outcome = simulate(limiter, again, until=200)
    assert len(outcome.accepted) == 200
    assert outcome.share_refused <= 0.1


def test_a_field_that_is_absent_is_zero() -> None:
    whole, short = LearningLimiter(rate=5.0, burst=3.0), LearningLimiter(rate=5.0, burst=3.0)
    whole.refused(0.1, whole.grant(0.1), 0.0)
    fields = whole.stored()
    short.restore({name: text for name, text in fields.items() if float(text)}, now=0.2)
    whole.restore(fields, now=0.2)
    assert short.stored() == whole.stored()
    assert len([text for text in fields.values() if not float(text)]) > 5
