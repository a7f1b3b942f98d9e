"""Which script records a decision, and with which arguments; it also updates the lane."""

import json
from typing import Any

from worker.domain.answers import Job
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import (
    NO_JOB,
    UNKNOWN_OUTCOME,
    Again,
    Decision,
    End,
    NoteLate,
    NoteVerified,
    PauseLane,
    PollAgain,
    Postpone,
    Reconcile,
    Requeue,
    Retry,
    Run,
    Start,
    Throttle,
    Undecided,
    WaitBehind,
)
from worker.domain.history import What
from worker.domain.recording import Observed
from worker.domain.states import sources_of
from worker.store.codec import milliseconds

Step = tuple[str, dict[str, Any]]
"""A script's name and its own arguments, without those that every answer has."""


def step_of(claim: Claim, decision: Decision) -> Step:
    """Return the script that carries out a decision."""
    match decision:
        case Run():
            return _run(decision)
        case End():
            return _finish(decision)
        case PollAgain(job, delay, stuck, suspicion):
            return _reschedule(delay, job, polled=True, stuck=stuck, suspicion=suspicion)
        case NoteLate(outcome, job, error):
            return _step(
                "note_late", outcome=outcome or UNKNOWN_OUTCOME, status=job.status, error=error
            )
        case NoteVerified(result, error):
            return _step("note_verified", verification=result, error=error)
        case Reconcile(doubt, delay, error):
            return _doubt(doubt, delay, error)
        case Undecided(doubt, delay, reason, jobs):
            return _doubt(doubt, delay, claim.item.doubt_error, reason, jobs)
        case Start() | Retry() | WaitBehind() | Postpone():
            return _start_again(decision)
        case Throttle() | PauseLane() | Requeue():
            return _requeue_unchanged(claim, decision)


def answer_to(claim: Claim, decision: Decision, observed: Observed) -> dict[str, Any]:
    """Return the arguments that every script for an answer takes."""
    return {
        "id": claim.item.id,
        "lease": claim.lease,
        "lane": claim.item.lane,
        "call": claim.call,
        "grant": claim.grant,
        "answered": claim.answered,
        "observed": _observed(claim, decision, observed),
    }


def _observed(claim: Claim, decision: Decision, observed: Observed) -> dict[str, Any]:
    """Return what the answer shows about the lane; empty if it shows nothing."""
    observations: dict[str, Any] = {}
    if isinstance(decision, Throttle):
        observations["throttle"] = {
            "retry_after_ms": milliseconds(decision.retry_after_seconds or 0.0),
            "limit_type": decision.limit_type,
            "concurrent": decision.concurrent,
        }
    if observed.facts is not None:
        observations["facts"] = observed.facts.to_fields()
    if observed.probe_answered:
        observations["probe_answered"] = True
    if observed.failure:
        observations["failure"] = observed.failure
    if observed.pause_at is not None:
        observations["pause_at"] = observed.pause_at
    if isinstance(decision, PauseLane):
        observations["pause_at"] = 0
    if "pause_at" in observations:
        observations["pause"] = {
            "reason": decision.reason if isinstance(decision, PauseLane) else observed.reason,
            "probe": claim.probe,
            "delay_ms": milliseconds(observed.probe_seconds),
            "delay_max_ms": milliseconds(observed.probe_max_seconds),
        }
    return observations


def _step(script: str, **args: Any) -> Step:
    return script, args


def _run(decision: Run) -> Step:
    job = decision.job
    return _step(
        "run",
        job_id=job.job_id,
        operation=job.operation,
        status=job.status,
        updated=job.updated,
        delay_ms=milliseconds(decision.delay_seconds),
        created_ms_ago=milliseconds(job.created_seconds_ago or 0.0),
    )


def _finish(decision: End) -> Step:
    job = decision.job
    return _step(
        "finish",
        state=decision.state,
        sources=sorted(sources_of(decision.state)),
        error=decision.error,
        job_id=job.job_id,
        operation=job.operation,
        status=job.status,
        uncalled=decision.uncalled,
        verify_ms=milliseconds(decision.verify_after_seconds),
    )


def _doubt(
    doubt: Doubt, delay: float, error: str, undecided: str = "", jobs: tuple[str, ...] = ()
) -> Step:
    return _step(
        "doubt",
        doubt=doubt,
        error=error,
        delay_ms=milliseconds(delay),
        undecided=undecided,
        unclear_jobs=json.dumps(jobs),
    )


def _start_again(decision: Again | Postpone) -> Step:
    match decision:
        case Start(listed):
            return _requeue(What.NOT_STARTED, listed_jobs=listed)
        case Retry(delay, error):
            return _requeue(What.RETRY, delay, error)
        case WaitBehind(delay, error):
            return _requeue(What.CONFLICT, delay, error)
        case Postpone(delay, error):
            return _requeue(What.UNCHECKED, delay, error)


def _requeue_unchanged(claim: Claim, decision: Throttle | PauseLane | Requeue) -> Step:
    """Return the step for a call that was not made or had no effect, so that nothing is counted."""
    match decision:
        case Throttle():
            why, delay = What.THROTTLED, 0.0
        case PauseLane(delay_seconds=delay):
            why = What.LANE_PAUSED
        case Requeue():
            why, delay = What.GIVEN_BACK, 0.0
    if claim.call is Call.START:
        return _requeue(why, delay)
    return _reschedule(delay)


def _requeue(
    why: What, delay: float = 0.0, error: str = "", listed_jobs: tuple[str, ...] | None = None
) -> Step:
    return _step(
        "requeue",
        delay_ms=milliseconds(delay),
        error=error,
        why=why,
        listed_jobs="" if listed_jobs is None else json.dumps(sorted(listed_jobs)),
    )


def _reschedule(
    delay: float,
    job: Job = NO_JOB,
    *,
    polled: bool = False,
    stuck: bool = False,
    suspicion: str = "",
) -> Step:
    return _step(
        "reschedule",
        delay_ms=milliseconds(delay),
        status=job.status,
        operation=job.operation,
        counted=polled,
        stuck=stuck,
        settled=bool(job.status),
        updated=job.updated,
        suspicion=suspicion,
    )
