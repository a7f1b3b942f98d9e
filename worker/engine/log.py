"""Logs a decision once it is recorded, and the end of each import in one line."""

import logging
from typing import Any

import structlog

from worker.domain.claims import Call, Claim
from worker.domain.decisions import (
    UNKNOWN_OUTCOME,
    Decision,
    End,
    NoteLate,
    NoteVerified,
    PauseLane,
    PollAgain,
    Postpone,
    Reconcile,
    Run,
    Throttle,
    Undecided,
)
from worker.domain.imports import Import
from worker.domain.outcomes import Ended
from worker.domain.recording import Observed, Recorded
from worker.engine.tracing import trace_fields

log = structlog.get_logger()


def log_lane(claim: Claim, decision: Decision, observed: Observed, recorded: Recorded) -> None:
    """Log what happened to the lane, also if the claim was no longer this worker's."""
    if recorded.paused:
        reason = decision.reason if isinstance(decision, PauseLane) else observed.reason
        log.error("lane.paused", reason=reason)
    if observed.probe_answered:
        log.info("lane.resumed" if recorded.resumed else "lane.held")
    if isinstance(decision, Throttle) and recorded.throttled:
        log.log(
            logging.INFO if recorded.throttled.is_counted else logging.DEBUG,
            "lane.throttled",
            call=claim.call,
            limit_type=decision.limit_type or None,
            retry_after_seconds=decision.retry_after_seconds,
            kept=recorded.throttled.kept,
        )


def log_import(claim: Claim, decision: Decision, recorded: Recorded) -> None:
    """Log what happened to the import. Call it only if the claim was still this worker's."""
    match decision:
        case Run(job):
            adopted = claim.call is Call.RECONCILE
            log.info("import.started", job_id=job.job_id, adopted=adopted)
        case End() if recorded.ended:
            log_end(recorded.ended.item)
        case PollAgain(stuck=stuck, suspicion=suspicion):
            if stuck:
                log.warning("import.stuck", job_id=claim.item.job_id, age_seconds=claim.age_seconds)
            if suspicion:
                log.warning("import.stuck", job_id=claim.item.job_id, error=suspicion)
        case Reconcile(doubt, _, error):
            log.warning("import.doubted", doubt=doubt, error=error)
        case _:
            _log_rare(claim, decision)


def _log_rare(claim: Claim, decision: Decision) -> None:
    match decision:
        case Postpone(_, error):
            log.info("import.postponed", error=error)
        case Undecided(reason=reason, jobs=jobs) if reason != claim.item.undecided:
            log.warning("import.undecided", error=reason, jobs=jobs)
        case NoteVerified(result, error) if error:
            log.warning("import.unverified", job_id=claim.item.job_id, result=result, error=error)
        case NoteLate(outcome):
            log.warning(
                "job.ended_late", job_id=claim.item.job_id, outcome=outcome or UNKNOWN_OUTCOME
            )


def log_end(item: Import, level: int = logging.INFO) -> None:
    """Log the end of an import: what it was, how it ended, and what that took."""
    log.log(level, f"import.{item.state}", **_account_of(item))


def log_overdue(ended: Ended) -> None:
    """Log that a worker finishes the tasks of an import that it did not end."""
    if ended.is_new:
        log_end(ended.item)
    else:
        log.warning("import.finished_again", **_account_of(ended.item))


def _account_of(item: Import) -> dict[str, Any]:
    """Return what the line about an ended import says. What does not apply is None."""
    started_at_ms = item.first_start_at_ms
    waited_until_ms = started_at_ms or item.finished_at_ms
    return {
        "import_id": item.id,
        "batch_id": item.batch_id or None,
        "target": item.target,
        "lane": item.lane,
        "operation": item.requested_operation,
        "priority": item.priority or None,
        "job_id": item.job_id or None,
        "outcome": item.state.value,
        "waited_seconds": _seconds(item.accepted_at_ms, waited_until_ms),
        "ran_seconds": _seconds(started_at_ms, item.finished_at_ms) if started_at_ms else None,
        "attempts": item.attempts,
        "polls": item.polls,
        "conflicts": item.conflicts,
        "doubts": item.doubts,
        "throttled": item.throttled,
        "retry_of": item.retry_of or None,
        "error": item.error or None,
        **trace_fields(item),
    }


def _seconds(since_ms: int, until_ms: int) -> float:
    # an import that `recover` admits may have started before it was admitted
    return max(0, until_ms - since_ms) / 1000
