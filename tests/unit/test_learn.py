"""What a lane learns about AWS from answers about its own jobs."""

from dataclasses import replace
from typing import Any

import pytest

from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim
from worker.domain.facts import WORDS, LaneFacts, Times
from worker.domain.imports import Import
from worker.domain.policy import Policy
from worker.domain.states import State
from worker.engine.learn import is_surveyor, learn

POLICY = Policy(
    max_attempts=5,
    poll_min_seconds=4,
    poll_max_seconds=60,
    stuck_seconds=1800,
    deadline_seconds=7200,
    success_statuses=frozenset({"COMPLETED"}),
    failure_statuses=frozenset({"FAILED"}),
    settle_seconds=10,
    missing_grace_seconds=60,
)
ITEM = Import(
    id="import-1",
    state=State.RUNNING,
    app_id="d1",
    backend_environment_name="staging",
    account="default",
    region="us-east-1",
    job_id="job-1",
    status="CREATING",
    attempts=1,
    first_start_at_ms=1000,
    started_at_ms=3000,
    changed_at_ms=3000,
)
"""An import whose start was claimed 2 s before its job id was known."""


def claim(call: Call = Call.POLL, age: float = 32, **item: Any) -> Claim:
    facts = item.pop("facts", LaneFacts())
    return Claim(call=call, lease="l", item=replace(ITEM, **item), age_seconds=age, facts=facts)


def answer(status: str = "CREATING", *, listed: bool | None = None, **job: Any) -> Answer:
    shown = Job(job_id="job-1", status=status, operation="ImportIt", **job)
    return Answer(kind=Kind.OK, jobs=(shown,), listed=listed)


def learned(answer: Answer, **of_claim: Any) -> LaneFacts:
    elapsed = of_claim.pop("elapsed_seconds", 0.0)
    return learn(replace(claim(**of_claim), elapsed_seconds=elapsed), answer, POLICY)


@pytest.mark.parametrize(
    ("what", "created", "times"),
    [
        ("created between the call and its answer", {"created_seconds_ago": 31.0}, Times.GOOD),
        ("a little before, by the clock's grain", {"created_seconds_ago": 33.9}, Times.GOOD),
        ("long before the call", {"created_seconds_ago": 40.0}, Times.BAD),
        ("long after its jobId was known", {"created_seconds_ago": 20.0}, Times.BAD),
        ("not at all", {}, Times.BAD),
        (
            "in whole minutes",
            {"created_seconds_ago": 31.0, "created_within_seconds": 60.0},
            Times.BAD,
        ),
    ],
)
def test_times_are_good_when_they_fit_the_call_that_made_the_job(
    what: str, created: dict[str, Any], times: Times
) -> None:
    assert learned(answer(**created)).times is times, what


@pytest.mark.parametrize("ago", [13.0, 31.0])
def test_a_delayed_answer_is_no_reason_to_distrust_times(ago: float) -> None:
    """Neither does a delayed claim: the age was measured at some time since the request."""
    assert learned(answer(created_seconds_ago=ago), elapsed_seconds=18.0).times is Times.GOOD


def test_times_that_were_bad_once_are_never_trusted_again() -> None:
    bad = learned(answer())
    assert learned(answer(created_seconds_ago=31.0), facts=bad).times is Times.BAD


def test_a_recovered_import_teaches_nothing_about_times() -> None:
    assert learned(answer(created_seconds_ago=31.0), attempts=0).times is Times.UNKNOWN


IMPORT_IT = {"ImportBackendAuth": frozenset({"ImportIt"})}


def test_operation_names_in_lists_are_kept_apart_from_those_in_answers() -> None:
    polled = learned(answer())
    assert polled.operations == IMPORT_IT
    assert not polled.list_operations
    listed = learned(answer(listed=True))
    assert not listed.operations
    assert listed.list_operations == IMPORT_IT
    assert listed.statuses == {"CREATING"}


def test_a_start_teaches_only_names_and_statuses() -> None:
    facts = learned(answer(), call=Call.START, job_id="", status="")
    assert facts == LaneFacts(operations=IMPORT_IT, statuses=frozenset({"CREATING"}))


def test_a_lane_keeps_a_limited_number_of_names_and_statuses() -> None:
    facts = LaneFacts()
    for number in range(3 * WORDS):
        job = Job(operation=f"o{number}", status=f"s{number}")
        facts = facts.with_words_of(job, "ImportBackendAuth", listed=False)
        facts = facts.with_change(f"s{number}", 1.0)
    assert (
        len(facts.operations["ImportBackendAuth"])
        == len(facts.statuses)
        == len(facts.left)
        == WORDS
    )


def test_a_status_that_a_job_left_is_not_final_and_how_long_it_stayed_is_kept() -> None:
    facts = learned(answer("VERIFYING", created_seconds_ago=31.0))
    assert facts.left == {"CREATING": 30.0}
    assert learned(answer("VERIFYING"), age=12, facts=facts).left == {"CREATING": 30.0}


def test_the_longest_job_is_kept_once_it_is_over() -> None:
    assert learned(answer()).longest_job_seconds == 0
    assert learned(answer("COMPLETED")).longest_job_seconds == 32


@pytest.mark.parametrize(
    ("what", "received", "age", "lag", "finished"),
    [
        ("the list shows it", answer(listed=True), 32, 0.0, None),
        ("the list shows it, and it is over", answer("COMPLETED", listed=True), 32, 0.0, True),
        ("the list does not show it yet", answer(listed=False), 5, 3.0, None),
        ("it is over, and the list may lag", answer("COMPLETED", listed=False), 5, None, None),
        ("it is over, and not listed", answer("COMPLETED", listed=False), 32, None, False),
        ("nobody asked the list", answer(), 32, None, None),
    ],
)
def test_a_survey_shows_how_a_list_lags_and_whether_it_shows_finished_jobs(
    what: str,
    received: Answer,
    age: float,
    lag: float | None,
    finished: bool | None,  # noqa: FBT001 - a column of the table
) -> None:
    facts = learned(received, age=age)
    assert (facts.list_lag_seconds, facts.lists_finished) == (lag, finished), what


def test_the_greatest_lag_counts() -> None:
    facts = learned(answer(listed=False), age=8)
    assert learned(answer(listed=True), facts=facts).list_lag_seconds == 6
    assert facts.settle_seconds(10) == 12
    assert facts.settle_seconds(30) == 30


@pytest.mark.parametrize("kind", [Kind.UNKNOWN, Kind.THROTTLED, Kind.NOT_FOUND])
def test_an_answer_without_the_job_teaches_nothing(kind: Kind) -> None:
    assert learned(Answer(kind=kind)) == LaneFacts()


def test_the_first_imports_of_a_lane_survey_its_lists_until_they_are_known() -> None:
    listed: dict[str, Any] = {"listed_jobs": frozenset[str]()}
    assert is_surveyor(claim(**listed))
    assert not is_surveyor(claim())
    assert not is_surveyor(claim(**listed, facts=LaneFacts(lists_finished=True)))
    assert not is_surveyor(claim(**listed, state=State.CANCELLED))
    assert not is_surveyor(claim(call=Call.RECONCILE, **listed))


def test_facts_survive_the_store() -> None:
    facts = LaneFacts(
        times=Times.GOOD,
        time_format="ISO 8601",
        operations={
            "ImportBackendAuth": frozenset({"Import: it"}),
            "ImportSomething": frozenset({"Import@it: all"}),
        },
        list_operations={"ImportBackendAuth": frozenset({"IMPORT"})},
        statuses=frozenset({"A", "B"}),
        left={"A": 1.5},
        suspects=frozenset({"B"}),
        list_lag_seconds=0.0,
        lists_finished=False,
        longest_job_seconds=12.25,
    )
    stored = {name: str(value) for name, value in facts.to_fields().items()}
    assert LaneFacts.from_fields(stored) == facts
    assert LaneFacts.from_fields({}) == LaneFacts()


def test_nothing_is_learned_from_an_adopted_job() -> None:
    assert learned(answer("COMPLETED", listed=True), adopted=True) == LaneFacts()
