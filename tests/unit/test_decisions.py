"""From an answer to a decision: the design's table row by row, and the cases between rows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import (
    Decision,
    End,
    NoteLate,
    PauseLane,
    PollAgain,
    Reconcile,
    Requeue,
    Retry,
    Run,
    Start,
    Throttle,
    Undecided,
    WaitBehind,
)
from worker.domain.facts import SLACK_SECONDS, LaneFacts, Times
from worker.domain.imports import Import
from worker.domain.policy import LATE_MAX_SECONDS, Policy
from worker.domain.rules import decide_poll, decide_reconcile, decide_start
from worker.domain.states import State
from worker.operations.registry import OPERATIONS

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
    operations=("ImportBackendAuth", "ImportBackendStorage"),
)
MIDDLE = 0.5
"""The jitter that does not change a poll's interval."""


def request_json(**changes: Any) -> str:
    members = {
        "appId": "d1",
        "backendEnvironmentName": "staging",
        "userPoolId": "us-east-1_A",
        "webClientId": "w",
        "nativeClientId": "n",
    }
    return OPERATIONS.parse({**members, **changes}).to_json()


ITEM = Import(
    id="import-1",
    state=State.STARTING,
    app_id="d1",
    backend_environment_name="staging",
    account="default",
    region="us-east-1",
    request_json=request_json(),
    attempts=1,
)
SEEN = LaneFacts(times=Times.GOOD, list_lag_seconds=0.0, lists_finished=True)
"""The facts of a lane whose first job has ended: jobs report their age, lists show all jobs."""

RUNNING: dict[str, Any] = {"state": State.RUNNING, "job_id": "job-1", "status": "CREATING"}


def start(answer: Answer, age_seconds: float = 0, **item: Any) -> Decision:
    """Decide on the answer to a start."""
    claim = Claim(
        call=Call.START,
        lease="l",
        item=replace(ITEM, **item),
        age_seconds=age_seconds,
        facts=SEEN,
    )
    return decide_start(answer, claim, POLICY, MIDDLE)


def poll(answer: Answer, age_seconds: float = 100, **item: Any) -> Decision:
    """Decide on the answer to a poll."""
    item = {**RUNNING, **item}
    claim = Claim(
        call=Call.POLL,
        lease="l",
        item=replace(ITEM, **item),
        age_seconds=age_seconds,
        facts=SEEN,
    )
    return decide_poll(answer, claim, POLICY, MIDDLE)


def reconcile(
    answer: Answer,
    doubt: Doubt,
    age_seconds: float = 100,
    elapsed_seconds: float = 0,
    earlier: str = "",
    facts: LaneFacts = SEEN,
    **item: Any,
) -> Decision:
    """Decide on the list of jobs that was requested because of `doubt`, whose error is "why"."""
    of_doubt: dict[str, Any] = {"doubt": doubt.value, "doubt_error": "why"}
    if doubt is Doubt.UNKNOWN:
        of_doubt["doubts"] = 1
    if doubt is Doubt.GONE:
        of_doubt |= RUNNING
    claim = Claim(
        call=Call.RECONCILE,
        lease="l",
        item=replace(ITEM, **{**of_doubt, **item}),
        age_seconds=age_seconds,
        elapsed_seconds=elapsed_seconds,
        earlier_jobs=frozenset({earlier} - {""}),
        facts=facts,
    )
    return decide_reconcile(answer, claim, POLICY, MIDDLE)


def answered(kind: Kind, error: str = "said so", **more: Any) -> Answer:
    return Answer(kind=kind, error=error, **more)


def job(job_id: str = "job-1", status: str = "CREATING", ago: float | None = 50) -> Job:
    return Job(job_id=job_id, status=status, created_seconds_ago=ago)


def seen(*jobs: Job) -> Answer:
    return Answer(kind=Kind.OK, jobs=jobs)


THROTTLED = answered(Kind.THROTTLED, retry_after_seconds=7, limit_type="calls")
SLOW_DOWN = Throttle(7, "calls")
REFUSED_CREDENTIALS = PauseLane("said so")
DONE = job(status="completed")
BROKEN = Job(job_id="job-1", status="FAILED", error="no such pool")
NEW = job(status="PREPARING")
NAMELESS = Job(status="CREATING")

START_ROWS: list[tuple[str, Answer, Decision]] = [
    ("200 with a jobId: running", seen(job()), Run(job(), 4)),
    ("200 with a jobId and no status: running", seen(job(status="")), Run(job(status=""), 4)),
    ("200 with success: terminal at once", seen(DONE), End(State.SUCCEEDED, "", DONE)),
    ("200 with failure: terminal at once", seen(BROKEN), End(State.FAILED, "no such pool", BROKEN)),
    (
        "200 with failure and no reason: the status is the reason",
        seen(job(status="Failed")),
        End(State.FAILED, "the job ended with status Failed", job(status="Failed")),
    ),
    ("200 with an undocumented status: running", seen(NEW), Run(NEW, 4)),
    (
        "200 without a jobId, an error: terminal",
        seen(Job(error="denied")),
        End(State.FAILED, "denied", Job(error="denied")),
    ),
    (
        "200 without a jobId, success: terminal",
        seen(Job(status="COMPLETED")),
        End(State.SUCCEEDED, "", Job(status="COMPLETED")),
    ),
    (
        "200 without a jobId, failure: terminal",
        seen(Job(status="FAILED")),
        End(State.FAILED, "the job ended with status FAILED", Job(status="FAILED")),
    ),
    (
        "200 without a jobId, under way: reconcile",
        seen(NAMELESS),
        Reconcile(Doubt.UNKNOWN, 10, "the answer held no jobId"),
    ),
    (
        "200 with nothing: reconcile",
        seen(),
        Reconcile(Doubt.UNKNOWN, 10, "the answer held no jobId"),
    ),
    (
        "400: look for a pending job",
        answered(Kind.BAD_REQUEST),
        Reconcile(Doubt.REFUSED, 0, "said so"),
    ),
    ("a pending job: wait behind it", answered(Kind.CONFLICT), WaitBehind(4, "said so")),
    ("404: rejected", answered(Kind.NOT_FOUND), End(State.REJECTED, "said so")),
    ("429: the limiter learns of it", THROTTLED, SLOW_DOWN),
    (
        "429, too many jobs: starts wait for one to end",
        answered(Kind.THROTTLED, concurrent=True),
        Throttle(None, "", concurrent=True),
    ),
    ("credentials: the lane pauses", answered(Kind.CREDENTIALS), REFUSED_CREDENTIALS),
    ("a wrong clock of ours: left to other workers", answered(Kind.CLOCK), Requeue()),
    (
        "5xx and the like: reconcile",
        answered(Kind.UNKNOWN),
        Reconcile(Doubt.UNKNOWN, 10, "said so"),
    ),
    ("unreachable: reconcile", answered(Kind.UNREACHABLE), Reconcile(Doubt.UNKNOWN, 10, "said so")),
]

POLL_ROWS: list[tuple[str, Answer, Decision]] = [
    (
        "429: no start, so not for too many jobs",
        answered(Kind.THROTTLED, concurrent=True),
        Throttle(None, ""),
    ),
    ("200 under way: poll again", seen(job()), PollAgain(job(), 4)),
    ("200 with success: succeeded", seen(DONE), End(State.SUCCEEDED, "", DONE)),
    ("200 with failure: failed", seen(BROKEN), End(State.FAILED, "no such pool", BROKEN)),
    ("200 with an undocumented status: still running", seen(NEW), PollAgain(NEW, 4)),
    ("200 without a jobId: as if unreadable", seen(NAMELESS), PollAgain(NAMELESS, 4)),
    ("200 with nothing: as if unreadable", seen(), PollAgain(Job(), 4)),
    ("400: reconcile", answered(Kind.BAD_REQUEST), Reconcile(Doubt.GONE, 0, "said so")),
    (
        "404 after the grace: reconcile",
        answered(Kind.NOT_FOUND),
        Reconcile(Doubt.GONE, 0, "said so"),
    ),
    ("429: the limiter is told", THROTTLED, SLOW_DOWN),
    ("credentials: the lane pauses", answered(Kind.CREDENTIALS), REFUSED_CREDENTIALS),
    ("a wrong clock of ours: left to other workers", answered(Kind.CLOCK), Requeue()),
    ("5xx and the like: poll again", answered(Kind.UNKNOWN), PollAgain(Job(), 4)),
    ("unreachable: poll again", answered(Kind.UNREACHABLE), PollAgain(Job(), 4)),
]

RECONCILE_ROWS: list[tuple[str, Doubt, Answer, Decision]] = [
    ("an unknown outcome, its job is found: adopted", Doubt.UNKNOWN, seen(job()), Run(job(), 4)),
    (
        "an unknown outcome, its job is over",
        Doubt.UNKNOWN,
        seen(DONE),
        End(State.SUCCEEDED, "", DONE),
    ),
    ("an unknown outcome, no job: again", Doubt.UNKNOWN, seen(), Retry(1.5, "why")),
    (
        "an unknown outcome, an older job is over: again",
        Doubt.UNKNOWN,
        seen(job(status="COMPLETED", ago=9999)),
        Retry(1.5, "why"),
    ),
    (
        "an unknown outcome, an older job is pending: wait behind it",
        Doubt.UNKNOWN,
        seen(job(ago=9999)),
        WaitBehind(4, "why"),
    ),
    ("a refusal, nothing pending: rejected", Doubt.REFUSED, seen(), End(State.REJECTED, "why")),
    (
        "a refusal, only finished jobs: rejected",
        Doubt.REFUSED,
        seen(DONE),
        End(State.REJECTED, "why"),
    ),
    (
        "a refusal, a job is pending: wait behind it",
        Doubt.REFUSED,
        seen(job()),
        WaitBehind(4, "why"),
    ),
    (
        "a refusal, a job of unknown status is pending: wait behind it",
        Doubt.REFUSED,
        seen(NEW),
        WaitBehind(4, "why"),
    ),
    (
        "a refusal, a job without a status is not pending: rejected",
        Doubt.REFUSED,
        seen(job(status="")),
        End(State.REJECTED, "why"),
    ),
    (
        "a conflict, the job is over by now: wait a little",
        Doubt.CONFLICT,
        seen(),
        WaitBehind(4, "why"),
    ),
    (
        "a lost job is found again: it is polled",
        Doubt.GONE,
        seen(job("x"), job()),
        PollAgain(job(), 4),
    ),
    ("a lost job is found ended", Doubt.GONE, seen(job("x"), DONE), End(State.SUCCEEDED, "", DONE)),
    (
        "a lost job is not found: failed",
        Doubt.GONE,
        seen(job("x")),
        End(State.FAILED, "AWS no longer knows job job-1: why"),
    ),
    ("a lost import, its job is found: adopted", Doubt.LOST, seen(job()), Run(job(), 4)),
    (
        "a lost import whose job is over: terminal",
        Doubt.LOST,
        seen(DONE),
        End(State.SUCCEEDED, "", DONE),
    ),
    ("a lost import without a job: started", Doubt.LOST, seen(), Start(())),
    (
        "a lost import, an older job is pending: wait behind it",
        Doubt.LOST,
        seen(job(ago=200)),
        WaitBehind(4, "why"),
    ),
    (
        "a lost import, the list is refused: reconcile again, whatever the deadline",
        Doubt.LOST,
        answered(Kind.BAD_REQUEST),
        Reconcile(Doubt.LOST, 4, "why"),
    ),
    ("429: the limiter learns of it", Doubt.UNKNOWN, THROTTLED, SLOW_DOWN),
    ("credentials: the lane pauses", Doubt.GONE, answered(Kind.CREDENTIALS), REFUSED_CREDENTIALS),
    (
        "a wrong clock of this worker: left to others",
        Doubt.UNKNOWN,
        answered(Kind.CLOCK),
        Requeue(),
    ),
    (
        "5xx: reconcile again",
        Doubt.UNKNOWN,
        answered(Kind.UNKNOWN),
        Reconcile(Doubt.UNKNOWN, 4, "why"),
    ),
    (
        "unreachable: reconcile again",
        Doubt.GONE,
        answered(Kind.UNREACHABLE),
        Reconcile(Doubt.GONE, 4, "why"),
    ),
]


LATE_ROWS: list[tuple[str, Answer, Decision]] = [
    ("it succeeded after all", seen(DONE), NoteLate(State.SUCCEEDED, DONE)),
    (
        "it failed after all, with its reason",
        seen(BROKEN),
        NoteLate(State.FAILED, BROKEN, "no such pool"),
    ),
    ("it still runs: polled less and less often", seen(job()), PollAgain(job(), 720)),
    (
        "AWS has forgotten it: no longer followed",
        answered(Kind.NOT_FOUND),
        NoteLate(None, error="said so"),
    ),
    ("a 400 is no better", answered(Kind.BAD_REQUEST), NoteLate(None, error="said so")),
    ("429: the limiter learns of it", THROTTLED, SLOW_DOWN),
    ("credentials: the lane pauses", answered(Kind.CREDENTIALS), REFUSED_CREDENTIALS),
    ("a wrong clock of ours: left to other workers", answered(Kind.CLOCK), Requeue()),
    ("5xx: asked again, whatever the deadline", answered(Kind.UNKNOWN), PollAgain(Job(), 720)),
]


@pytest.mark.parametrize("state", [State.TIMED_OUT, State.CANCELLED])
@pytest.mark.parametrize(
    ("answer", "decision"), [pytest.param(*row[1:], id=row[0]) for row in LATE_ROWS]
)
def test_a_late_poll_is_decided_by_the_table(
    answer: Answer, decision: Decision, state: State
) -> None:
    assert poll(answer, age_seconds=7200, state=state) == decision


def test_late_polls_become_hourly_and_are_never_more_frequent_than_others() -> None:
    assert POLICY.late_delay(1) == 60
    assert POLICY.late_delay(30 * 86400) == 3600


def test_a_job_that_was_just_made_may_be_unknown_for_a_while() -> None:
    assert poll(answered(Kind.NOT_FOUND), age_seconds=59, state=State.CANCELLED) == PollAgain(
        Job(), 60
    )


@pytest.mark.parametrize(
    ("answer", "decision"), [pytest.param(*row[1:], id=row[0]) for row in START_ROWS]
)
def test_a_start_is_decided_by_the_table(answer: Answer, decision: Decision) -> None:
    assert start(answer) == decision


@pytest.mark.parametrize(
    ("answer", "decision"), [pytest.param(*row[1:], id=row[0]) for row in POLL_ROWS]
)
def test_a_poll_is_decided_by_the_table(answer: Answer, decision: Decision) -> None:
    assert poll(answer) == decision


@pytest.mark.parametrize(
    ("doubt", "answer", "decision"), [pytest.param(*row[1:], id=row[0]) for row in RECONCILE_ROWS]
)
def test_a_reconciliation_is_decided_by_the_table(
    doubt: Doubt, answer: Answer, decision: Decision
) -> None:
    assert reconcile(answer, doubt) == decision


def test_a_conflict_after_a_doubt_may_be_our_own_job() -> None:
    assert start(answered(Kind.CONFLICT), doubts=1) == Reconcile(Doubt.CONFLICT, 0, "said so")


def test_a_conflict_with_the_imports_own_job_adopts_it() -> None:
    assert reconcile(seen(job()), Doubt.CONFLICT, doubts=1) == Run(job(), 4)


@pytest.mark.parametrize(("conflicts", "seconds"), [(0, 4), (1, 8), (3, 32), (4, 60), (10**6, 60)])
def test_the_wait_behind_a_job_grows_up_to_the_longest_interval(
    conflicts: int, seconds: float
) -> None:
    assert start(answered(Kind.CONFLICT), conflicts=conflicts) == WaitBehind(seconds, "said so")


@pytest.mark.parametrize("attempts", [5, 99])
def test_waiting_behind_a_job_never_exhausts_the_attempts(attempts: int) -> None:
    assert isinstance(reconcile(seen(job()), Doubt.REFUSED, attempts=attempts), WaitBehind)


@pytest.mark.parametrize("doubt", [Doubt.REFUSED, Doubt.CONFLICT])
def test_no_job_is_adopted_while_every_call_was_refused(doubt: Doubt) -> None:
    assert isinstance(reconcile(seen(job()), doubt, doubts=0), WaitBehind)


@pytest.mark.parametrize("doubt", [Doubt.UNKNOWN, Doubt.REFUSED, Doubt.CONFLICT])
def test_after_an_unknown_outcome_the_job_is_adopted_whatever_the_last_answer_was(
    doubt: Doubt,
) -> None:
    assert reconcile(seen(job()), doubt, doubts=1) == Run(job(), 4)


@pytest.mark.parametrize(
    ("ago", "adopted"),
    [
        (0, True),
        (100, True),
        (100 + SLACK_SECONDS, True),
        (100 + SLACK_SECONDS + 0.1, False),
        (None, False),
    ],
)
def test_a_job_older_than_the_first_call_is_never_adopted(ago: float | None, adopted: bool) -> None:  # noqa: FBT001 - a column of the table
    decision = reconcile(seen(job(status="COMPLETED", ago=ago)), Doubt.UNKNOWN, age_seconds=100)
    assert isinstance(decision, End) is adopted


def test_the_job_of_an_earlier_import_is_never_adopted() -> None:
    decision = reconcile(seen(DONE), Doubt.UNKNOWN, earlier=DONE.job_id)
    assert decision == Retry(1.5, "why")


def test_the_oldest_of_several_candidates_is_adopted() -> None:
    jobs = (job("newest", ago=1), job("oldest", ago=99), job("middle", ago=50))
    assert reconcile(seen(*jobs), Doubt.UNKNOWN) == Run(job("oldest", ago=99), 4)


def test_the_oldest_candidate_is_adopted_even_if_a_job_of_an_earlier_import_is_older() -> None:
    jobs = (job("earlier", ago=101), job("ours", ago=90), job("later", ago=3))
    decision = reconcile(seen(*jobs), Doubt.UNKNOWN, earlier="earlier")
    assert decision == Run(job("ours", ago=90), 4)


def test_the_last_attempt_ends_the_import_with_the_last_error() -> None:
    decision = reconcile(seen(), Doubt.UNKNOWN, attempts=POLICY.max_attempts)
    assert decision == End(State.FAILED, "gave up after 5 attempts; last: why")


def test_the_attempt_before_the_last_is_made_again() -> None:
    assert isinstance(reconcile(seen(), Doubt.UNKNOWN, attempts=4), Retry)


def test_no_start_is_repeated_after_the_deadline() -> None:
    decision = reconcile(seen(), Doubt.UNKNOWN, age_seconds=7200, attempts=1)
    assert decision == End(State.TIMED_OUT, "no job was found before the deadline; last: why")


def test_the_outcome_of_a_job_found_after_the_deadline_still_counts() -> None:
    assert reconcile(seen(DONE), Doubt.UNKNOWN, age_seconds=9999) == End(State.SUCCEEDED, "", DONE)


@pytest.mark.parametrize("doubt", [Doubt.UNKNOWN, Doubt.GONE])
def test_reconciling_without_answers_ends_at_the_deadline(doubt: Doubt) -> None:
    decision = reconcile(answered(Kind.UNKNOWN), doubt, age_seconds=7200)
    assert isinstance(decision, End)
    assert decision.state is State.TIMED_OUT
    assert "said so" in decision.error


@pytest.mark.parametrize("kind", [Kind.OK, Kind.UNKNOWN, Kind.UNREACHABLE, Kind.CONFLICT])
def test_a_running_import_ends_at_its_deadline(kind: Kind) -> None:
    decision = poll(answered(kind, jobs=(job(),)), age_seconds=7200)
    assert isinstance(decision, End)
    assert decision.state is State.TIMED_OUT
    assert "7200 s" in decision.error
    assert "CREATING" in decision.error


def test_the_outcome_of_a_job_counts_even_if_it_ended_after_the_deadline() -> None:
    assert poll(seen(DONE), age_seconds=10**6) == End(State.SUCCEEDED, "", DONE)


def test_a_timed_out_import_names_the_last_status_and_the_last_answer() -> None:
    decision = poll(answered(Kind.UNKNOWN, "HTTP 504"), age_seconds=7200, status="UPDATING")
    assert isinstance(decision, End)
    assert "last status UPDATING; last answer: HTTP 504" in decision.error


def test_the_requests_own_deadline_replaces_the_operators() -> None:
    own = request_json(deadlineSeconds=300)
    assert isinstance(poll(seen(job()), age_seconds=299, request_json=own), PollAgain)
    assert isinstance(poll(seen(job()), age_seconds=300, request_json=own), End)


@pytest.mark.parametrize(
    ("remaining", "seconds"), [(1000, 60), (60.5, 60), (59, 59), (20, 20), (4, 4), (0.5, 4)]
)
def test_the_last_poll_is_made_at_the_deadline(remaining: float, seconds: float) -> None:
    decision = poll(seen(job()), age_seconds=7200 - remaining, polls=99, stuck=True)
    assert decision == PollAgain(job(), seconds)


@pytest.mark.parametrize(
    ("age_seconds", "already", "stuck"),
    [(1799, False, False), (1800, False, True), (1800, True, False), (3000, True, False)],
)
def test_an_import_is_reported_as_stuck_once(
    age_seconds: float,
    already: bool,  # noqa: FBT001 - a column of the table
    stuck: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert poll(seen(job()), age_seconds, stuck=already) == PollAgain(job(), 4, stuck)


def test_the_intervals_between_polls_grow() -> None:
    assert poll(seen(job()), polls=2) == PollAgain(job(), 9)


@pytest.mark.parametrize(
    ("age_seconds", "decision"),
    [
        (0, PollAgain(Job(), 4)),
        (59, PollAgain(Job(), 4)),
        (60, Reconcile(Doubt.GONE, 0, "said so")),
    ],
)
def test_a_new_job_may_be_unknown_for_a_while(age_seconds: float, decision: Decision) -> None:
    assert poll(answered(Kind.NOT_FOUND), age_seconds) == decision


@pytest.mark.parametrize(
    ("known_seconds", "decision"),
    [
        (0, PollAgain(Job(), 4)),
        (59, PollAgain(Job(), 4)),
        (60, Reconcile(Doubt.GONE, 0, "said so")),
    ],
)
def test_a_job_of_a_later_attempt_is_as_new_as_one_of_the_first(
    known_seconds: int, decision: Decision
) -> None:
    times = {"first_start_at_ms": 5000, "started_at_ms": 5000 + 1000 * (600 - known_seconds)}
    assert poll(answered(Kind.NOT_FOUND), age_seconds=600, **times) == decision


def test_a_new_job_that_is_not_found_is_reconciled_once_the_list_can_show_it() -> None:
    decision = poll(answered(Kind.BAD_REQUEST), age_seconds=3)
    assert decision == Reconcile(Doubt.GONE, POLICY.settle_seconds - 3, "said so")


@pytest.mark.parametrize("kind", [Kind.UNKNOWN, Kind.UNREACHABLE])
@pytest.mark.parametrize("attempts", [5, 99])
def test_no_number_of_failed_polls_ends_a_running_import(kind: Kind, attempts: int) -> None:
    decision = poll(answered(kind), attempts=attempts, polls=10**6, stuck=True)
    assert decision == PollAgain(Job(), 60)


def test_a_job_found_again_after_the_deadline_is_timed_out() -> None:
    decision = reconcile(seen(job()), Doubt.GONE, age_seconds=7200)
    assert isinstance(decision, End)
    assert decision.state is State.TIMED_OUT


STATUSES = st.sampled_from(["", "CREATING", "COMPLETED", "failed", "PREPARING"])
JOB_IDS = st.sampled_from(["", "job-1", "job-2", "earlier"])
jobs = st.builds(
    Job,
    job_id=JOB_IDS,
    status=STATUSES,
    error=st.sampled_from(["", "denied"]),
    operation=st.sampled_from(["", "ImportBackendAuth", "UpdateBackendAuth"]),
    created_seconds_ago=st.none() | st.floats(-10, 20_000),
    created_within_seconds=st.sampled_from([0.0, 1.0, 50_401.0]),
)
answers = st.builds(
    Answer,
    kind=st.sampled_from(Kind),
    jobs=st.lists(jobs, max_size=4).map(tuple),
    error=st.sampled_from(["", "said so"]),
    retry_after_seconds=st.none() | st.floats(0, 1000),
)
lanes = st.builds(
    LaneFacts,
    times=st.sampled_from(Times),
    list_operations=st.sampled_from([{}, {"ImportBackendAuth": frozenset({"ImportBackendAuth"})}]),
    left=st.sampled_from([{}, {"CREATING": 5.0}]),
    list_lag_seconds=st.none() | st.floats(0, 100),
    lists_finished=st.none() | st.booleans(),
)
counts = st.integers(0, 200)
jitters = st.floats(0, 1, exclude_max=True)


@st.composite
def claims(draw: st.DrawFn, call: Call, running: bool) -> Claim:  # noqa: FBT001 - callers name it
    """Draw a claim as the store returns it: a claim to reconcile has a doubt."""
    doubts_of_starts = [Doubt.UNKNOWN, Doubt.REFUSED, Doubt.CONFLICT]
    doubt = Doubt.GONE if running else draw(st.sampled_from(doubts_of_starts))
    item = replace(
        ITEM,
        **(RUNNING if running else {}),
        request_json=draw(st.sampled_from([request_json(), request_json(deadlineSeconds=50)])),
        attempts=draw(counts),
        polls=draw(counts),
        conflicts=draw(counts),
        doubts=draw(st.integers(1 if doubt is Doubt.UNKNOWN else 0, 5)),
        stuck=draw(st.booleans()),
        doubt=doubt.value if call is Call.RECONCILE else "",
        doubt_error="why" if call is Call.RECONCILE else "",
        listed_jobs=draw(st.none() | st.frozensets(JOB_IDS)),
    )
    return Claim(
        call=call,
        lease="l",
        item=item,
        age_seconds=draw(st.floats(0, 10**6)),
        probe=draw(st.booleans()),
        earlier_jobs=draw(st.frozensets(JOB_IDS.filter(bool), max_size=2)),
        facts=draw(lanes),
    )


@st.composite
def decided(draw: st.DrawFn, call: Call, *, running: bool) -> tuple[Claim, Decision]:
    decide = {
        Call.START: decide_start,
        Call.POLL: decide_poll,
        Call.RECONCILE: decide_reconcile,
    }[call]
    claim = draw(claims(call, running))
    return claim, decide(draw(answers), claim, POLICY, draw(jitters))


starts = decided(Call.START, running=False)
unknown_starts = decided(Call.RECONCILE, running=False)
polls = decided(Call.POLL, running=True)
lost_jobs = decided(Call.RECONCILE, running=True)
steady = settings(derandomize=True, database=None, deadline=None, max_examples=300)


@steady
@given(case=starts | unknown_starts | polls | lost_jobs)
def test_any_answer_to_any_claim_is_one_decision_with_a_sane_delay(
    case: tuple[Claim, Decision],
) -> None:
    _, decision = case
    assert isinstance(decision, Decision)
    longest = LATE_MAX_SECONDS if isinstance(decision, Undecided) else 300.5
    assert 0 <= getattr(decision, "delay_seconds", 0) <= longest


@steady
@given(case=polls | lost_jobs)
def test_a_running_import_is_never_started_again(case: tuple[Claim, Decision]) -> None:
    _, decision = case
    assert isinstance(
        decision, PollAgain | End | Throttle | PauseLane | Requeue | Reconcile | Undecided
    )
    if isinstance(decision, End):
        assert decision.state in (State.SUCCEEDED, State.FAILED, State.TIMED_OUT)
    if isinstance(decision, Reconcile | Undecided):
        assert decision.doubt is Doubt.GONE


@steady
@given(case=starts)
def test_a_start_is_never_repeated_without_reconciling(case: tuple[Claim, Decision]) -> None:
    _, decision = case
    assert not isinstance(decision, Retry | PollAgain)


@steady
@given(case=unknown_starts)
def test_an_adopted_job_is_the_imports_own(case: tuple[Claim, Decision]) -> None:
    claim, decision = case
    adopted = getattr(decision, "job", Job())
    if adopted == Job():
        return
    assert claim.item.doubts
    assert adopted.job_id not in claim.earlier_jobs
    if claim.item.listed_jobs is None:
        assert claim.facts.times is Times.GOOD
        assert adopted.created_seconds_ago is not None
    if claim.facts.times is Times.GOOD and adopted.created_seconds_ago is not None:
        assert adopted.created_seconds_ago <= claim.age_seconds + SLACK_SECONDS
    assert adopted.job_id not in (claim.item.listed_jobs or ())


@steady
@given(case=lost_jobs)
def test_a_running_import_follows_no_other_job_than_its_own(case: tuple[Claim, Decision]) -> None:
    claim, decision = case
    assert getattr(decision, "job", Job()).job_id in ("", claim.item.job_id)


@steady
@given(case=unknown_starts)
def test_attempts_and_deadline_bound_the_retries(case: tuple[Claim, Decision]) -> None:
    claim, decision = case
    if isinstance(decision, Retry):
        assert claim.item.attempts < POLICY.max_attempts
        assert claim.age_seconds < POLICY.deadline_seconds


def test_a_lost_import_adopts_the_newest_job_that_is_not_older_than_its_batch() -> None:
    jobs = seen(job("older", ago=103), job("first", "FAILED", ago=90), job("last", ago=10))
    assert reconcile(jobs, Doubt.LOST) == Run(job("last", ago=10), 4)
    assert reconcile(seen(job("older", "COMPLETED", ago=103)), Doubt.LOST) == Start(("older",))


def test_a_lost_import_that_cannot_be_reconciled_has_no_deadline() -> None:
    decision = reconcile(answered(Kind.UNKNOWN), Doubt.LOST, age_seconds=10**6)
    assert decision == Reconcile(Doubt.LOST, 4, "why")


NEW_LANE = LaneFacts()
WITHOUT_TIMES = replace(SEEN, times=Times.BAD)


@pytest.mark.parametrize(
    ("what", "answer", "decision"),
    [
        ("no job: started, and its jobs are known", seen(), Start(())),
        ("a job that is over: known to be older", seen(DONE), Start(("job-1",))),
        ("a job under way: wait behind it", seen(job()), WaitBehind(4, "why")),
        ("a refused list proves nothing", answered(Kind.BAD_REQUEST), Start(None)),
        ("no such app: the start will say so", answered(Kind.NOT_FOUND), Start(None)),
        ("5xx: asked again", answered(Kind.UNKNOWN), Reconcile(Doubt.BEFORE, 4, "why")),
    ],
)
def test_the_list_before_a_start_is_decided_by_the_table(
    what: str, answer: Answer, decision: Decision
) -> None:
    assert reconcile(answer, Doubt.BEFORE, age_seconds=0) == decision, what


def test_without_times_a_job_that_was_not_listed_before_is_adopted() -> None:
    timeless = seen(job("old", "COMPLETED", ago=None), job("new", ago=None))
    decision = reconcile(
        timeless, Doubt.UNKNOWN, facts=WITHOUT_TIMES, listed_jobs=frozenset({"old"})
    )
    assert decision == Run(job("new", ago=None), 4)


def test_without_any_evidence_the_import_waits_for_the_job_and_then_becomes_undecided() -> None:
    pending = reconcile(seen(job(ago=None)), Doubt.UNKNOWN, facts=WITHOUT_TIMES)
    assert pending == WaitBehind(4, "why")
    over = reconcile(seen(job(status="COMPLETED", ago=None)), Doubt.UNKNOWN, facts=WITHOUT_TIMES)
    assert isinstance(over, Undecided)
    assert over.jobs == ("job-1",)
    assert "job-1" in over.reason


def test_a_new_job_with_another_operation_name_leaves_the_import_undecided() -> None:
    facts = replace(SEEN, list_operations={"ImportBackendAuth": frozenset({"ImportBackendAuth"})})
    other = Job(job_id="x", operation="UpdateAuth", status="COMPLETED", created_seconds_ago=5)
    decision = reconcile(seen(other), Doubt.UNKNOWN, facts=facts)
    assert isinstance(decision, Undecided)
    assert decision.jobs == ("x",)


@pytest.mark.parametrize("listed_jobs", [None, frozenset[str]()])
def test_until_the_lane_knows_the_operation_name_only_an_import_is_a_candidate(
    listed_jobs: frozenset[str] | None,
) -> None:
    # The list before the start may have lagged behind this job.
    other = Job(job_id="x", operation="UpdateAuth", status="COMPLETED", created_seconds_ago=5)
    ours = replace(other, job_id="y", operation="IMPORT_AUTH")
    undecided = reconcile(seen(other), Doubt.UNKNOWN, listed_jobs=listed_jobs)
    assert isinstance(undecided, Undecided)
    assert undecided.jobs == ("x",)
    decision = reconcile(seen(other, ours), Doubt.UNKNOWN, listed_jobs=listed_jobs)
    assert decision == End(State.SUCCEEDED, "", ours)


def test_a_delayed_answer_adopts_no_job_that_may_be_older_than_the_start() -> None:
    """The answer was given 88 to 100 s after the start; the job may be as old, or 7 s older."""
    foreign = seen(job(status="COMPLETED", ago=95))
    asked_again = reconcile(foreign, Doubt.UNKNOWN, age_seconds=100, elapsed_seconds=12)
    assert asked_again == Reconcile(Doubt.UNKNOWN, 4, "why")
    given_up = reconcile(foreign, Doubt.UNKNOWN, age_seconds=100, elapsed_seconds=12, polls=5)
    assert isinstance(given_up, Undecided)
    ours = seen(job(status="COMPLETED", ago=89))
    taken = reconcile(ours, Doubt.UNKNOWN, age_seconds=100, elapsed_seconds=12)
    assert isinstance(taken, End)


STORAGE = "ImportBackendStorage"
NAMED = {STORAGE: frozenset({"Bucket"})}


@pytest.mark.parametrize(
    ("requested", "name", "facts", "is_ours"),
    [
        ("ImportBackendAuth", "importStorage", SEEN, False),
        ("ImportBackendAuth", "importAuth", SEEN, True),
        ("ImportBackendAuth", "Import", SEEN, True),
        (STORAGE, "IMPORT_BACKEND_STORAGE", SEEN, True),
        (STORAGE, "ImportBackendAuth", SEEN, False),
        (STORAGE, "Bucket", SEEN, False),
        (STORAGE, "Bucket", replace(SEEN, operations=NAMED), True),
        (STORAGE, "Bucket", replace(SEEN, list_operations=NAMED), True),
        (STORAGE, "ImportBackendStorage", replace(SEEN, list_operations=NAMED), False),
        ("ImportBackendAuth", "Bucket", replace(SEEN, list_operations=NAMED), False),
        ("ImportBackendAuth", "ImportAuth", replace(SEEN, list_operations=NAMED), True),
    ],
)
def test_a_job_of_another_operation_is_not_adopted(
    requested: str, name: str, facts: LaneFacts, *, is_ours: bool
) -> None:
    found = Job(job_id="x", operation=name, status="COMPLETED", created_seconds_ago=5)
    decision = reconcile(seen(found), Doubt.UNKNOWN, facts=facts, requested_operation=requested)
    assert isinstance(decision, End if is_ours else Undecided)


def test_an_empty_list_proves_nothing_where_lists_hide_finished_jobs() -> None:
    facts = replace(SEEN, lists_finished=False)
    assert isinstance(reconcile(seen(), Doubt.UNKNOWN, facts=facts), Undecided)


def test_in_a_lane_that_has_shown_nothing_yet_three_lists_must_lack_the_job() -> None:
    assert reconcile(seen(), Doubt.UNKNOWN, facts=NEW_LANE) == Reconcile(Doubt.UNKNOWN, 4, "why")
    assert isinstance(reconcile(seen(), Doubt.UNKNOWN, facts=NEW_LANE, polls=2), Reconcile)
    assert reconcile(seen(), Doubt.UNKNOWN, facts=NEW_LANE, polls=3) == Retry(1.5, "why")


def test_a_list_counts_once_it_can_show_the_job() -> None:
    called: dict[str, Any] = {"first_start_at_ms": 1000, "last_start_at_ms": 1000}
    decision = reconcile(seen(), Doubt.UNKNOWN, age_seconds=3, **called)
    assert decision == Reconcile(Doubt.UNKNOWN, POLICY.settle_seconds - 3, "why")


def test_lists_that_lag_longer_than_configured_are_waited_for_twice_as_long() -> None:
    lagging = replace(SEEN, list_lag_seconds=40.0)
    assert reconcile(seen(), Doubt.UNKNOWN, age_seconds=79, facts=lagging) == Reconcile(
        Doubt.UNKNOWN, 1, "why"
    )
    assert isinstance(reconcile(seen(), Doubt.UNKNOWN, age_seconds=80, facts=lagging), Retry)


def test_a_call_older_than_the_memory_of_lists_leaves_the_import_undecided() -> None:
    deadline: dict[str, Any] = {"request_json": request_json(deadlineSeconds=30 * 86400.0)}
    memory = POLICY.list_memory_seconds
    late = reconcile(seen(), Doubt.UNKNOWN, age_seconds=memory + 1, **deadline)
    assert isinstance(late, Undecided)
    assert "IMPORTS_LIST_MEMORY_SECONDS" in late.reason
    again: dict[str, Any] = {
        "first_start_at_ms": 1000,
        "last_start_at_ms": 1000 + round(memory * 1000),
    }
    assert isinstance(
        reconcile(seen(), Doubt.UNKNOWN, age_seconds=memory + 11, **deadline, **again), Retry
    )


def test_a_refusal_is_final_once_the_list_can_show_the_job_that_may_have_caused_it() -> None:
    unsure = replace(SEEN, list_lag_seconds=None)
    assert reconcile(seen(), Doubt.REFUSED, age_seconds=3, facts=unsure) == Reconcile(
        Doubt.REFUSED, 7, "why"
    )
    assert reconcile(seen(), Doubt.REFUSED, age_seconds=10, facts=unsure) == End(
        State.REJECTED, "why"
    )


@pytest.mark.parametrize(
    ("facts", "age_seconds"),
    [
        (replace(SEEN, lists_finished=False), 60),
        (SEEN, POLICY.list_memory_seconds + 1),
    ],
    ids=["lists hide finished jobs", "lists may have forgotten it"],
)
def test_a_missing_job_that_may_have_ended_leaves_the_import_undecided(
    facts: LaneFacts, age_seconds: float
) -> None:
    decision = reconcile(seen(), Doubt.GONE, facts=facts, age_seconds=age_seconds)
    assert isinstance(decision, Undecided)
    assert "it may have ended first" in decision.reason


def test_an_undecided_import_ends_at_its_deadline() -> None:
    decision = reconcile(seen(), Doubt.GONE, age_seconds=7200)
    assert isinstance(decision, End)
    assert decision.state is State.TIMED_OUT


def test_a_missing_job_keeps_the_outcome_with_which_it_was_seen_to_end() -> None:
    ended = reconcile(seen(), Doubt.GONE, status="COMPLETED")
    assert ended == End(State.SUCCEEDED, job=Job(job_id="job-1", status="COMPLETED"))


def test_of_several_new_jobs_without_times_none_is_adopted() -> None:
    jobs = (job("a", "COMPLETED", ago=None), job("b", "FAILED", ago=None))
    decision = reconcile(
        seen(*jobs), Doubt.UNKNOWN, facts=WITHOUT_TIMES, listed_jobs=frozenset({"old"})
    )
    assert isinstance(decision, Undecided)
    assert decision.jobs == ("a", "b")


STILL: dict[str, Any] = {
    "status": "ready",
    "updated": "12:00",
    "first_start_at_ms": 1,
    "changed_at_ms": 1,
}
READY = replace(job(status="Ready"), updated="12:00")


@pytest.mark.parametrize(
    ("what", "left", "seconds", "item", "suspected"),
    [
        ("others left theirs in 30 s", {"CREATING": 30.0}, 91, {}, True),
        ("not much longer than others", {"CREATING": 30.0}, 89, {}, False),
        ("a minute at least", {"CREATING": 1.0}, 59, {}, False),
        ("no job has ever changed", {}, 5000, {}, False),
        ("another one left this status", {"READY": 2.0}, 5000, {}, False),
        ("told before", {"CREATING": 1.0}, 5000, {"suspicion": "so"}, False),
        ("its status was another", {"CREATING": 1.0}, 5000, {"status": "CREATING"}, False),
        ("it was updated", {"CREATING": 1.0}, 5000, {"updated": "11:59"}, False),
    ],
)
def test_a_status_in_which_a_job_stays_is_suspected_to_be_final(
    what: str,
    left: dict[str, float],
    seconds: float,
    item: dict[str, Any],
    suspected: bool,  # noqa: FBT001 - a column of the table
) -> None:
    claim = Claim(
        call=Call.POLL,
        lease="l",
        item=replace(ITEM, **{**RUNNING, **STILL, **item}),
        age_seconds=seconds,
        facts=replace(SEEN, left=left),
    )
    decision = decide_poll(seen(READY), claim, POLICY, MIDDLE)
    assert isinstance(decision, PollAgain)
    assert bool(decision.suspicion) is suspected, what
    if suspected:
        assert "IMPORTS_SUCCESS_STATUSES" in decision.suspicion


def test_an_ended_job_that_is_not_listed_is_reconciled_until_lists_can_show_it() -> None:
    def decide(known_seconds: float) -> Decision:
        claim = Claim(
            call=Call.POLL,
            lease="l",
            item=replace(ITEM, **RUNNING),
            age_seconds=known_seconds,
            facts=replace(SEEN, lists_finished=None),
        )
        return decide_poll(replace(seen(DONE), listed=False), claim, POLICY, MIDDLE)

    assert decide(3) == PollAgain(DONE, 7)
    assert decide(10) == End(State.SUCCEEDED, "", DONE)
