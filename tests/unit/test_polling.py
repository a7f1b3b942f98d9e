"""Polls follow how long jobs take: within the operator's bounds, whatever the durations are."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.schedules import Learned, Schedule, simulate, simulate_short, with_as_many_polls
from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim
from worker.domain.decisions import PollAgain, Run
from worker.domain.facts import LaneFacts, Times
from worker.domain.imports import Import
from worker.domain.policy import Policy
from worker.domain.polling import BINS, ENOUGH, Durations, next_poll_delay
from worker.domain.rules import decide_poll, decide_reconcile, decide_start
from worker.domain.states import State

steady = settings(derandomize=True, database=None, deadline=None)
jitters = st.floats(0, 1, exclude_max=True)
ages = st.floats(-1e9, 1e9)
weights = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=BINS, max_size=BINS)
seconds = st.floats(0.001, 365 * 86400)
POLICY = Policy(
    max_attempts=5,
    poll_min_seconds=2,
    poll_max_seconds=30,
    stuck_seconds=1800,
    deadline_seconds=6 * 3600,
    success_statuses=frozenset(),
    failure_statuses=frozenset(),
    settle_seconds=10,
    missing_grace_seconds=60,
)


def durations_of(*jobs: tuple[float, float]) -> Durations:
    """Return the durations after jobs whose ends were seen between two ages."""
    learned = Learned()
    for after, until in jobs:
        learned.ended(after, until)
    return learned.durations


def ages_of_polls(durations: Durations, until: float) -> list[float]:
    """Return the ages at which a job is polled."""
    found = [0.0]
    while found[-1] < until:
        delay = next_poll_delay(durations, found[-1], POLICY, len(found) - 1, 0.5)
        found.append(found[-1] + delay)
    return found[1:]


@steady
@given(weights=weights, age=ages, shortest=seconds, longest=seconds, jitter=jitters)
def test_a_poll_stays_within_the_operators_bounds(
    weights: list[float], age: float, shortest: float, longest: float, jitter: float
) -> None:
    assume(shortest <= longest)
    policy = replace(POLICY, poll_min_seconds=shortest, poll_max_seconds=longest)
    delay = next_poll_delay(Durations(tuple(weights)), age, policy, 3, jitter)
    assert shortest <= delay <= longest


@steady
@given(weights=weights, age=st.floats(0, 1e5), later=st.floats(0, 1e5))
def test_a_poll_of_an_older_job_is_not_due_before_that_of_a_younger_one(
    weights: list[float], age: float, later: float
) -> None:
    durations, policy = Durations(tuple(weights)), replace(POLICY, poll_min_seconds=1e-9)
    due = [at + next_poll_delay(durations, at, policy, 9, 0.5) for at in (age, age + later)]
    assert due[0] <= due[1] + 1e-6


@pytest.mark.parametrize("jobs", [0, int(ENOUGH) - 1])
def test_the_schedule_is_plain_while_too_little_is_known(jobs: int) -> None:
    durations = durations_of(*[(55, 60)] * jobs)
    for polls in range(20):
        delay = next_poll_delay(durations, 30, POLICY, polls, 0.7)
        assert delay == POLICY.poll_delay(polls, 0.7)


def test_polls_are_dense_where_jobs_end_and_rare_elsewhere() -> None:
    polls = ages_of_polls(durations_of(*[(55, 60), (58, 63)] * 50), 70)
    assert [before for before in polls if before < 45] == [30.0]
    near = [after - before for before, after in pairwise(polls) if 54 <= before <= 64]
    assert near == pytest.approx([POLICY.poll_min_seconds] * len(near))
    assert len(near) >= 4


def test_between_two_kinds_of_jobs_polls_are_rare() -> None:
    polls = ages_of_polls(durations_of(*[(18, 20), (298, 302)] * 50), 310)
    quiet = [after - before for before, after in pairwise(polls) if before > 25 and after < 250]
    assert quiet == pytest.approx([POLICY.poll_max_seconds] * len(quiet))
    assert len(quiet) >= 6


def test_a_job_older_than_all_others_is_polled_by_the_plain_schedule() -> None:
    delay = next_poll_delay(durations_of(*[(55, 60)] * 50), 6 * 3600, POLICY, 4, 0.5)
    assert delay == POLICY.poll_delay(4, 0.5)


def test_polls_are_as_many_as_in_the_plain_schedule() -> None:
    jobs = [40.0 + number % 60 for number in range(600)]
    learned, plain = (simulate(each, jobs) for each in (Learned(), Schedule()))
    assert learned.polls_per_job == pytest.approx(plain.polls_per_job, rel=0.1)


def test_the_end_is_found_sooner_than_by_other_schedules_with_as_many_polls() -> None:
    jobs = [55.0 + 10 * (number % 97) / 97 for number in range(600)]
    learned = simulate(Learned(), jobs)
    fixed = with_as_many_polls(learned.polls_per_job, jobs)
    for other in (fixed, simulate(Schedule(), jobs)):
        assert learned.percentiles[49] < 0.6 * other.percentiles[49]
        assert learned.percentiles[94] < 0.6 * other.percentiles[94]


def test_a_short_limit_finds_ends_sooner_if_likely_ones_go_first() -> None:
    jobs = [55.0 + 10 * (number % 97) / 97 for number in range(600)]
    in_order, likeliest = (
        simulate_short(jobs, starts=5.0, polls=10.0, likeliest_first=first)
        for first in (False, True)
    )
    assert likeliest.polls_per_job == pytest.approx(in_order.polls_per_job, rel=0.05)
    assert likeliest.percentiles[49] < 0.7 * in_order.percentiles[49]
    assert likeliest.percentiles[98] < 1.1 * in_order.percentiles[98]


@pytest.mark.parametrize(("old", "new"), [(20.0, 200.0), (200.0, 20.0)])
def test_old_durations_are_forgotten(old: float, new: float) -> None:
    durations = durations_of(*[(old - 2, old)] * 300, *[(new - 2, new)] * 300)
    assert durations.quantile(0.1) == pytest.approx(new, rel=0.2)
    assert durations.quantile(0.9) == pytest.approx(new, rel=0.2)
    assert durations.total < 101


@pytest.mark.parametrize(
    ("after", "until"),
    [(0, 0), (5, 5), (-100, -50), (60, 10), (6 * 3600, 7 * 3600), (1e12, 2e12), (-1e12, 1e12)],
)
def test_a_strange_duration_weighs_no_more_than_one_job(after: float, until: float) -> None:
    durations = durations_of(*[(55, 60)] * 100)
    strange = durations_of(*[(55, 60)] * 100, (after, until))
    changes = [abs(new - old) for old, new in zip(durations.weights, strange.weights, strict=True)]
    assert sum(changes) <= 2
    assert strange.are_enough


@pytest.mark.parametrize(
    "text",
    ["", "x", "1 2 3", "nan " * BINS, "inf " * BINS, "-1 " * BINS, "1 " * (BINS + 1), "\x00"],
)
def test_a_damaged_histogram_counts_as_none_and_is_replaced(text: str) -> None:
    assert Durations.from_text(text) == Durations()
    learned = Learned()
    learned.text = text
    learned.ended(55, 60)
    assert learned.durations.total == pytest.approx(1)


def test_the_stored_histogram_stays_small() -> None:
    learned = Learned()
    for number in range(1000):
        learned.ended(0, 1.01 ** (number % 1100))
    assert len(learned.text) < 600
    assert math.isclose(learned.durations.total, 100, rel_tol=0.02)


JOB = Job(job_id="job-1", status="IN_PROGRESS")
ANSWER = Answer(kind=Kind.OK, jobs=(JOB,))
ITEM = Import(
    id="import-1",
    state=State.RUNNING,
    app_id="d1",
    backend_environment_name="staging",
    account="default",
    region="us-east-1",
    job_id="job-1",
    attempts=1,
    first_start_at_ms=1_000,
    started_at_ms=3_000,
)
"""An import whose job id was known 2 s after its first start."""


def claim(call: Call, durations: Durations, age_seconds: float = 0, **item: object) -> Claim:
    facts = LaneFacts(times=Times.GOOD, durations={ITEM.requested_operation: durations})
    changed = replace(ITEM, **item)  # type: ignore[arg-type]  # members of an import
    return Claim(call=call, lease="l", item=changed, age_seconds=age_seconds, facts=facts)


def test_the_first_poll_follows_the_durations() -> None:
    durations = durations_of(*[(18, 20)] * 50)
    decision = decide_start(ANSWER, claim(Call.START, durations), POLICY, 0.5)
    assert isinstance(decision, Run)
    assert 15 < decision.delay_seconds < 20


def test_the_age_counts_from_when_the_job_id_was_known_to_the_answer() -> None:
    durations = durations_of(*[(50, 52)] * 50)
    of_poll = replace(claim(Call.POLL, durations, age_seconds=42), elapsed_seconds=10)
    decision = decide_poll(ANSWER, of_poll, POLICY, 0.5)
    expected = next_poll_delay(durations, 40, POLICY, 0, 0.5)
    assert isinstance(decision, PollAgain)
    assert decision.delay_seconds == pytest.approx(expected)
    assert expected != pytest.approx(next_poll_delay(durations, 30, POLICY, 0, 0.5))


def test_the_polls_of_a_job_of_unknown_age_are_plain() -> None:
    durations = durations_of(*[(50, 52)] * 50)
    adopted = claim(Call.POLL, durations, age_seconds=42, adopted=True, polls=2)
    decision = decide_poll(ANSWER, adopted, POLICY, 0.5)
    assert isinstance(decision, PollAgain)
    assert decision.delay_seconds == POLICY.poll_delay(2, 0.5)


def test_a_job_that_is_adopted_is_first_polled_by_the_plain_schedule() -> None:
    durations = durations_of(*[(50, 52)] * 50)
    found = claim(
        Call.RECONCILE, durations, state=State.STARTING, job_id="", doubt="unknown", doubts=1
    )
    job = replace(JOB, created_seconds_ago=0.0)
    decision = decide_reconcile(Answer(kind=Kind.OK, jobs=(job,)), found, POLICY, 0.5)
    assert isinstance(decision, Run)
    assert decision.delay_seconds == POLICY.poll_delay(0, 0.5)
