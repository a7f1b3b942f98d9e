"""Turns what happens into measurements. One object observes the parts of a process."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from worker.domain.claims import Call, Claim
from worker.domain.decisions import Decision, End, Run, Throttle
from worker.domain.imports import Import
from worker.domain.outcomes import Verdict
from worker.domain.recording import Recorded
from worker.domain.states import State
from worker.engine.tracing import claim_in_progress
from worker.metrics import catalogue as of
from worker.metrics.registry import Recorder

_CALL_OF_METHOD: Final = {
    "get_backend": Call.POLL,
    "get_backend_job": Call.POLL,
    "list_backend_jobs": Call.RECONCILE,
}
"""Every other method is a start."""

_STEPS: Final = {
    "_show_waiting": "waiting",
    "_show_running": "running",
    "_finish": "ended",
    "events": "events",
}
SCRIPT_OF_BROKER: Final = "take_messages"
"""The script that runs on the broker, which may be another server than the store."""

NO_LIMIT_TYPE: Final = "none"


class Measurements:
    """Observes the engine, the store, the calls to AWS, and the announcer.

    Its methods are callable from any thread.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.store_answered_at: float | None = None
        """When the store answered last (`time.monotonic`); None until it has."""
        self.queue_failing_since: float | None = None
        """Since when calls to the queue of requests fail (`time.monotonic`); None if none do."""

    def admitted(self, verdict: Verdict, operation: str) -> None:
        """Count a request that was accepted, or rejected, for the first time."""
        if verdict is Verdict.ACCEPTED:
            self._recorder.add(of.ACCEPTED, 1, operation)
        elif verdict is Verdict.REJECTED:
            self._recorder.add(of.ENDED, 1, State.REJECTED, operation)

    def recorded(self, claim: Claim, decision: Decision, recorded: Recorded) -> None:
        """Count what an answer did to its lane and, if it came in time, to its import."""
        lane = claim.item.lane
        if isinstance(decision, Throttle):
            self._recorder.add(of.THROTTLED, 1, lane, decision.limit_type or NO_LIMIT_TYPE)
        if recorded.paused:
            self._recorder.add(of.PAUSES, 1, lane)
        if recorded.resumed:
            self._recorder.add(of.RESUMES, 1, lane)
        if claim.call is Call.RECONCILE:
            self._recorder.add(of.RECONCILIATIONS, 1)
        if not recorded.is_current:
            self._recorder.add(of.LOST_CLAIMS, 1)
            return
        if _is_adoption(claim, decision):
            self._recorder.add(of.ADOPTIONS, 1)
        if recorded.ended:
            self._ended(recorded.ended.item)

    def ran(self, script: str, seconds: float) -> None:
        """Observe how long a script of the store took."""
        if script != SCRIPT_OF_BROKER:
            self.store_answered_at = time.monotonic()
        self._recorder.add(of.SCRIPT_SECONDS, seconds, script)

    def claimed(self, claims: Sequence[Claim], expired_leases: int) -> None:
        """Count claims and how late they are, and claims that were taken over."""
        for claim in claims:
            self._recorder.add(of.CLAIMS, 1, claim.call)
            if claim.call is not Call.START and not claim.item.is_terminal:
                self._recorder.add(of.POLL_DELAY, claim.overdue_seconds)
        if expired_leases:
            self._recorder.add(of.EXPIRED_LEASES, expired_leases)

    def learned_of_end(self, item: Import) -> None:
        """Count an import that ended in a script of no worker, or beside a decision."""
        self._ended(item)

    def called(self, account: str, region: str, method: str, status: int, seconds: float) -> None:
        """Count and observe a call to AWS; a status of 0 stands for no answer."""
        call = _CALL_OF_METHOD.get(method, Call.START)
        self._recorder.add(of.CALLS, 1, call, status_class(status), f"{account}/{region}")
        self._recorder.add(of.CALL_SECONDS, seconds, call, exemplar=_exemplar())

    def called_queue(self, method: str, status: int, seconds: float) -> None:  # noqa: ARG002 - a long poll's duration means nothing
        """Count a call to the queue of requests; a status of 0 stands for no answer."""
        self._recorder.add(of.SQS_CALLS, 1, method, status_class(status))

    def received(self, messages: int) -> None:
        """Count messages that were received from the queue of requests."""
        self._recorder.add(of.SQS_MESSAGES, messages)

    def queue_failing(self, since: float | None) -> None:
        """Note since when calls to the queue of requests fail; None if none do."""
        self.queue_failing_since = since

    def announcement_failed(self, step: str) -> None:
        """Count an announcement that failed."""
        self._recorder.add(of.ANNOUNCEMENT_FAILURES, 1, _STEPS.get(step, of.OTHER))

    def _ended(self, item: Import) -> None:
        self._recorder.add(of.ENDED, 1, item.state, item.requested_operation)
        self._recorder.add(of.DURATION, _seconds(item.accepted_at_ms, item), item.state)
        if item.first_start_at_ms:
            self._recorder.add(of.JOB_DURATION, _seconds(item.first_start_at_ms, item), item.state)


def status_class(status: int) -> str:
    """Return the label for an HTTP status."""
    if status == 429:
        return "429"
    return f"{status // 100}xx" if 200 <= status < 600 else "none"


def _exemplar() -> Mapping[str, str] | None:
    """Return the trace of the call in progress, if its spans are kept."""
    claim = claim_in_progress()
    trace = claim.item.trace if claim else None
    return {"trace_id": trace.trace_id} if trace and trace.is_sampled else None


def _seconds(since_ms: int, item: Import) -> float:
    """Return the time from a moment to the end of an import; 0 if the clock was set back."""
    return max(0.0, (item.finished_at_ms - since_ms) / 1000)


def _is_adoption(claim: Claim, decision: Decision) -> bool:
    """Return whether the decision takes a listed job for the import's own."""
    is_new = claim.call is Call.RECONCILE and not claim.item.job_id
    return is_new and isinstance(decision, Run | End) and bool(decision.job.job_id)
