"""Logs a decision once it is recorded."""

import logging

import structlog

from worker.domain.claims import Call, Claim
from worker.domain.decisions import (
    UNKNOWN_OUTCOME,
    Decision,
    End,
    NoteLate,
    PauseLane,
    PollAgain,
    Reconcile,
    Run,
    Throttle,
    Undecided,
)
from worker.domain.recording import Observed, Recorded

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
        case End(state, error) if recorded.ended:
            item = recorded.ended.item
            log.info(
                f"import.{state}",
                job_id=item.job_id or None,
                attempts=item.attempts,
                error=error or None,
            )
        case PollAgain(stuck=stuck, suspicion=suspicion):
            if stuck:
                log.warning("import.stuck", job_id=claim.item.job_id, age_seconds=claim.age_seconds)
            if suspicion:
                log.warning("import.stuck", job_id=claim.item.job_id, error=suspicion)
        case Reconcile(doubt, _, error):
            log.warning("import.doubted", doubt=doubt, error=error)
        case Undecided(reason=reason, jobs=jobs) if reason != claim.item.undecided:
            log.warning("import.undecided", error=reason, jobs=jobs)
        case NoteLate(outcome):
            log.warning(
                "job.ended_late", job_id=claim.item.job_id, outcome=outcome or UNKNOWN_OUTCOME
            )
