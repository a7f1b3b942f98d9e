"""Decides what follows from an answer: the table in `docs/architecture.md`, row by row; pure.

Each `decide_*` takes the answer to one kind of call, the claim under which it was made, the
operator's policy and a jitter in [0, 1), and returns exactly one decision.
"""

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
from worker.domain.evidence import Findings, examine
from worker.domain.facts import SLACK_SECONDS, Times
from worker.domain.policy import Policy
from worker.domain.polling import next_poll_delay
from worker.domain.states import State
from worker.domain.verification import decide_verification

ABSENT_LISTS = 3
"""How many lists must lack a job while it is unknown whether lists show finished jobs."""

SLOW_LISTS = 5
"""How many slow answers a worker repeats the list for, before it asks an operator."""

STILL_SECONDS = 60.0
STILL_TIMES = 3
"""A status is suspected to be final if a job stays in it so many times longer than any job
stayed in another status."""

SHOWN_JOBS = 3

FIRST_LOOK_SECONDS = 0.25
"""How soon the first jobs of a lane are polled. What they show speeds up the lane's other
imports."""


def decide_start(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after the call that starts the remote job."""
    match answer.kind:
        case Kind.OK if answer.job.job_id:
            return _follow(answer.job, claim, policy, jitter)
        case Kind.OK if answer.job.error or policy.outcome_of(answer.job.status):
            return _end_of(answer.job, policy)
        case Kind.THROTTLED:
            return Throttle(answer.retry_after_seconds, answer.limit_type, answer.concurrent)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return Requeue()
        case Kind.NOT_FOUND:
            return End(State.REJECTED, answer.error)
        case Kind.CONFLICT if claim.item.doubts:
            return Reconcile(Doubt.CONFLICT, 0.0, answer.error)
        case Kind.CONFLICT:
            return _wait_behind(claim, policy, answer.error)
        case Kind.BAD_REQUEST:
            return Reconcile(Doubt.REFUSED, 0.0, answer.error)
        case _:  # OK without a jobId, UNREACHABLE, UNKNOWN
            error = answer.error or "the answer held no jobId"
            return Reconcile(Doubt.UNKNOWN, _settle_seconds(claim, policy), error)


def decide_poll(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after a poll of a running job."""
    if claim.item.state is State.SUCCEEDED:
        return decide_verification(answer, claim, policy)
    if claim.item.is_terminal:
        return _decide_late(answer, claim, policy)
    if blocked := _blocked(answer):
        return blocked
    match answer.kind:
        case Kind.OK if policy.outcome_of(answer.job.status):
            return _end_or_survey(answer, claim, policy)
        case Kind.NOT_FOUND if claim.known_seconds >= policy.missing_grace_seconds:
            return _reconcile_gone(answer, claim, policy)
        case Kind.BAD_REQUEST:
            return _reconcile_gone(answer, claim, policy)
    return _poll_again(answer, claim, policy, jitter)


def decide_reconcile(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    """Decide after the target's jobs were listed because of a doubt."""
    if blocked := _blocked(answer):
        return blocked
    match answer.kind:
        case Kind.UNREACHABLE | Kind.UNKNOWN:
            return _reconcile_again(answer, claim, policy, jitter)
        case Kind.BAD_REQUEST | Kind.CONFLICT if claim.may_have_started:
            # without a list, absence is not proven
            return _reconcile_again(answer, claim, policy, jitter)
    if claim.item.state is State.RUNNING:
        return _decide_gone(answer, claim, policy, jitter)
    return _decide_doubtful_start(answer, claim, policy, jitter)


def deadline_of(claim: Claim, policy: Policy) -> float:
    """Return the seconds that this import may take, from its first start on."""
    return claim.item.deadline_seconds or policy.deadline_seconds


def _blocked(answer: Answer) -> Decision | None:
    """Return the decision for a poll or list that was throttled or refused; else None."""
    match answer.kind:
        case Kind.THROTTLED:
            return Throttle(answer.retry_after_seconds, answer.limit_type)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return Requeue()
    return None


def _decide_doubtful_start(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    findings = examine(answer.jobs, claim, policy)
    if findings.ours is not None:
        return _follow(findings.ours, claim, policy, jitter)
    doubt, error = Doubt(claim.item.doubt), claim.item.doubt_error
    if claim.item.doubts and claim.age_seconds >= deadline_of(claim, policy):
        return End(State.TIMED_OUT, f"no job was found before the deadline; last: {error}")
    if doubt is Doubt.CONFLICT or findings.pending:
        return _wait_behind(claim, policy, error)
    match doubt:
        case Doubt.BEFORE:
            return Start(_ids_of(answer))
        case Doubt.REFUSED if not claim.may_have_started:
            return _decide_refused(claim, policy, error)
    return _decide_absent(findings, answer, claim, policy, jitter)


def _decide_refused(claim: Claim, policy: Policy, error: str) -> Decision:
    """Reject what AWS refused, once lists are sure to show a job that is pending on the target."""
    left = _settle_seconds(claim, policy) - claim.called_seconds
    if claim.facts.list_lag_seconds == 0 or left <= 0:
        return End(State.REJECTED, error)
    return Reconcile(Doubt.REFUSED, left, error)


def _decide_absent(
    findings: Findings, answer: Answer, claim: Claim, policy: Policy, jitter: float
) -> Decision:
    """Decide if no job is recognized as ours: start again only if the list proves that none is."""
    doubt, error = Doubt(claim.item.doubt), claim.item.doubt_error
    is_slow = claim.elapsed_seconds > SLACK_SECONDS
    if findings.unclear and is_slow and claim.item.polls < SLOW_LISTS:
        # A slow answer shows ages too imprecisely; a faster one may show whose job it is.
        return Reconcile(doubt, policy.poll_delay(claim.item.polls, jitter), error)
    if findings.unclear:
        ids = tuple(job.job_id for job in findings.unclear)
        return _undecided(claim, policy, f"may have started {_shown(ids)}; AWS does not tell", ids)
    left = _settle_seconds(claim, policy) - claim.called_seconds
    if left > 0 and doubt is not Doubt.LOST:
        return Reconcile(doubt, left, error)
    most_seconds = claim.called_seconds + claim.elapsed_seconds
    if reason := _why_absence_proves_nothing(claim, policy, most_seconds):
        return _undecided(claim, policy, f"its start may have taken effect; {reason}")
    if claim.facts.lists_finished is None and claim.item.polls < ABSENT_LISTS:
        return Reconcile(doubt, policy.poll_delay(claim.item.polls, jitter), error)
    if doubt is Doubt.LOST:
        return Start(_ids_of(answer))
    if doubt is Doubt.REFUSED:
        return End(State.REJECTED, error)
    if claim.item.attempts >= policy.max_attempts:
        return End(State.FAILED, f"gave up after {claim.item.attempts} attempts; last: {error}")
    return Retry(policy.retry_delay(claim.item.attempts, jitter), error)


def _why_absence_proves_nothing(claim: Claim, policy: Policy, job_age_seconds: float) -> str:
    """Return why a list without our job does not prove that there is none; '' if it does.

    The job is at most `job_age_seconds` old.
    """
    if claim.facts.lists_finished is False:
        return "this lane's lists do not show finished jobs"
    if claim.facts.lists_finished is None and not policy.assume_finished_listed:
        return "no list of this lane has shown a finished job yet"
    if job_age_seconds > policy.list_memory_seconds and claim.item.doubt != Doubt.LOST:
        return (
            "the start was longer ago than lists are trusted to remember"
            " (IMPORTS_LIST_MEMORY_SECONDS)"
        )
    return ""


def _undecided(claim: Claim, policy: Policy, reason: str, jobs: tuple[str, ...] = ()) -> Undecided:
    return Undecided(Doubt(claim.item.doubt), policy.late_delay(claim.called_seconds), reason, jobs)


def _decide_late(answer: Answer, claim: Claim, policy: Policy) -> Decision:
    """Decide after a poll of a job whose import is already over and can't end again."""
    if blocked := _blocked(answer):
        return blocked
    match answer.kind:
        case Kind.OK if outcome := policy.outcome_of(answer.job.status):
            return NoteLate(outcome, answer.job, answer.job.error)
        case Kind.NOT_FOUND if claim.age_seconds >= policy.missing_grace_seconds:
            return NoteLate(None, error=answer.error)
        case Kind.BAD_REQUEST:
            return NoteLate(None, error=answer.error)
    return PollAgain(answer.job, policy.late_delay(claim.age_seconds))


def _decide_gone(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    for job in answer.jobs:
        if job.job_id == claim.item.job_id:
            return decide_poll(Answer(kind=Kind.OK, jobs=(job,)), claim, policy, jitter)
    if policy.outcome_of(claim.item.status):
        return _end_of(Job(job_id=claim.item.job_id, status=claim.item.status), policy)
    error = f"AWS no longer knows job {claim.item.job_id}: {claim.item.doubt_error}"
    reason = _why_absence_proves_nothing(claim, policy, claim.age_seconds)
    if not reason:
        return End(State.FAILED, error)
    if claim.age_seconds >= deadline_of(claim, policy):
        return End(State.TIMED_OUT, error)
    # The job may have ended, and AWS no longer says how.
    return _undecided(claim, policy, f"{error}; it may have ended first: {reason}")


def _reconcile_gone(answer: Answer, claim: Claim, policy: Policy) -> Reconcile:
    """Reconcile once lists can no longer lag behind the job."""
    delay = max(0.0, _settle_seconds(claim, policy) - claim.known_seconds)
    return Reconcile(Doubt.GONE, delay, answer.error)


def _settle_seconds(claim: Claim, policy: Policy) -> float:
    return claim.facts.settle_seconds(policy.settle_seconds)


def _ids_of(answer: Answer) -> tuple[str, ...] | None:
    """Return the ids in a list; None if the remote side refused to list."""
    if answer.kind is not Kind.OK:
        return None
    return tuple(job.job_id for job in answer.jobs if job.job_id)


def _shown(ids: tuple[str, ...]) -> str:
    more = len(ids) - SHOWN_JOBS
    return (
        ("job " if len(ids) == 1 else "jobs ")
        + ", ".join(ids[:SHOWN_JOBS])
        + (f" and {more} more" if more > 0 else "")
    )


def _end_or_survey(answer: Answer, claim: Claim, policy: Policy) -> Decision:
    """End the import, unless its job still has to show whether lists contain finished jobs.

    If the job is over but not listed, it is polled once more when lists can no longer lag behind
    it.
    """
    left = _settle_seconds(claim, policy) - claim.known_seconds
    if answer.listed is False and claim.facts.lists_finished is None and left > 0:
        return PollAgain(answer.job, left)
    return _end_of(answer.job, policy)


def _follow(job: Job, claim: Claim, policy: Policy, jitter: float) -> Decision:
    if policy.outcome_of(job.status):
        return _end_of(job, policy)
    delay = policy.poll_delay(0, jitter)
    if claim.call is Call.START:
        delay = _next_poll(claim, 0.0, policy, jitter)
    if claim.facts.times is Times.UNKNOWN:  # the lane's other imports wait for what this job shows
        delay = min(delay, FIRST_LOOK_SECONDS)
    return Run(job, delay)


def _end_of(job: Job, policy: Policy) -> End:
    state = policy.outcome_of(job.status) or State.FAILED
    if state is State.SUCCEEDED:
        return End(state, job=job, verify_after_seconds=policy.verify_after_seconds)
    return End(state, job.error or f"the job ended with status {job.status}", job)


def _poll_again(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    remaining = deadline_of(claim, policy) - claim.age_seconds
    if remaining <= 0:
        seen = answer.job.status or claim.item.status or "unknown"
        return End(
            State.TIMED_OUT,
            f"not finished within {deadline_of(claim, policy):g} s; last status {seen}"
            + (f"; last answer: {answer.error}" if answer.error else ""),
        )
    delay = _next_poll(claim, claim.known_seconds + claim.elapsed_seconds, policy, jitter)
    stuck = claim.age_seconds >= policy.stuck_seconds and not claim.item.stuck
    return PollAgain(
        answer.job,
        min(delay, max(remaining, policy.poll_min_seconds)),
        stuck,
        _suspicion(answer.job, claim),
    )


def _next_poll(claim: Claim, age_seconds: float, policy: Policy, jitter: float) -> float:
    """Return the delay of the next poll of a job whose id has been known for `age_seconds`."""
    if claim.item.adopted:  # its age is unknown
        return policy.poll_delay(claim.item.polls, jitter)
    durations = claim.facts.durations_of(claim.item.requested_operation)
    return next_poll_delay(durations, age_seconds, policy, claim.item.polls, jitter)


def _suspicion(job: Job, claim: Claim) -> str:
    """Return why a status seems to be final that no setting lists as final; '' if it does not."""
    status, left = job.status.upper(), claim.facts.left
    is_same = status == claim.item.status.upper() and job.updated == claim.item.updated
    if not (status and is_same and left) or status in left or claim.item.suspicion:
        return ""
    seconds = claim.unchanged_seconds
    if seconds < max(STILL_SECONDS, STILL_TIMES * max(left.values())):
        return ""
    return (
        f"status {job.status} has not changed for {seconds:.0f} s, while other jobs changed theirs;"
        " if it is final, add it to IMPORTS_SUCCESS_STATUSES or IMPORTS_FAILURE_STATUSES"
    )


def _reconcile_again(answer: Answer, claim: Claim, policy: Policy, jitter: float) -> Decision:
    # After a lost store, the time from which the deadline runs is unknown.
    if claim.age_seconds >= deadline_of(claim, policy) and claim.item.doubt != Doubt.LOST:
        return End(
            State.TIMED_OUT,
            f"AWS did not say before the deadline whether a job runs; last answer: {answer.error}",
        )
    doubt = Doubt(claim.item.doubt)
    delay = policy.poll_delay(claim.item.polls, jitter)
    return Reconcile(doubt, delay, claim.item.doubt_error)


def _wait_behind(claim: Claim, policy: Policy, error: str) -> WaitBehind:
    delay = policy.poll_min_seconds * 2.0 ** min(claim.item.conflicts, 16)
    return WaitBehind(min(delay, policy.poll_max_seconds), error)
