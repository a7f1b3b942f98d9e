"""One step of an import: make the call that was claimed, decide on the answer, write it down.

The order is the safety: the claim was recorded before the call is made (intent), the outcome is
recorded before anybody is told. A process that dies anywhere in between leaves a lease that runs
out, and the store says what that means.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from worker.domain.answers import UNANSWERED, Answer, Kind
from worker.domain.claims import Call, Claim
from worker.domain.decisions import (
    Again,
    Decision,
    End,
    GiveBack,
    NoteLate,
    PauseLane,
    PollAgain,
    Retry,
    Run,
    Start,
    Throttle,
    Undecided,
    Verify,
    WaitBehind,
)
from worker.domain.facts import LaneFacts
from worker.domain.history import What
from worker.domain.imports import Import
from worker.domain.outcomes import Ended
from worker.domain.policy import Policy
from worker.domain.rules import decide_poll, decide_reconcile, decide_start
from worker.engine.lane_health import LaneHealth
from worker.engine.learn import is_surveyor, learn
from worker.engine.own_clock import OwnClock
from worker.engine.ports import Announcer, Ledger, Operation

log = structlog.get_logger()

PROBE_AGAIN_SECONDS: Final = 60.0
"""How long an import that failed as a probe stands back for the others of its lane."""

UNKNOWN_OUTCOME: Final = "unknown"
"""Of a late job that AWS no longer knows."""

UNDER_WAY_STATUSES: Final = frozenset({"CREATING", "IN_PROGRESS", "PENDING", "RUNNING", "UPDATING"})
"""Statuses seen of jobs that are not over. AWS documents none; others are logged once."""

_NO_GRANT_USED: Final = UNANSWERED | {Kind.THROTTLED, Kind.CREDENTIALS, Kind.CLOCK}
"""Answers that don't say that the call passed the remote side's limit."""

_DECIDE: Final = {
    Call.START: decide_start,
    Call.POLL: decide_poll,
    Call.RECONCILE: decide_reconcile,
}


class Advancer:
    """Carries out claims. One object serves all imports of a process."""

    def __init__(
        self,
        operation: Operation,
        ledger: Ledger,
        announcer: Announcer,
        policy: Policy,
        lease_seconds: float,
        own_clock: OwnClock,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._operation = operation
        self._ledger = ledger
        self._announcer = announcer
        self._policy = policy
        self._lease_seconds = lease_seconds
        self._lane_health = LaneHealth(ledger, own_clock)
        self._jitter = jitter
        self._clock = clock
        self._unknown_statuses: set[str] = set()

    async def advance(self, claim: Claim) -> None:
        """Make the claimed call and record what follows from its answer.

        Raises whatever the store raises when it can't be reached; the lease then runs out, and
        the import is taken up again as one whose call may or may not have been made.
        """
        with structlog.contextvars.bound_contextvars(
            import_id=claim.item.id, target=claim.item.target, lane=claim.item.lane
        ):
            # A call may take half a lease: what is sent later could outlive its claim.
            send_by = claim.taken_at + self._lease_seconds / 2
            if self._clock() > send_by:
                log.warning("claim.given_back", call=claim.call)
                await give_back(self._ledger, claim)
                return
            answer = await self._call(claim, send_by)
            elapsed = self._clock() - claim.taken_at
            claim = replace(
                claim,
                # As old as it was when the answer came: jobs tell their age at that moment, too.
                age_seconds=claim.age_seconds + elapsed,
                answered=answer.kind not in _NO_GRANT_USED,
            )
            self._note_unknown_status(answer)
            known = claim.facts
            claim = replace(claim, facts=learn(claim, answer, self._policy))
            decision = _DECIDE[claim.call](answer, claim, self._policy, self._jitter())
            await self._keep_facts(decision, claim, known)
            log.debug("call.answered", call=claim.call, kind=answer.kind, decision=decision)
            in_outage = await self._lane_health.note(claim, answer)
            await self._carry_out(_stand_back(decision, claim, answer), claim, in_outage=in_outage)

    async def _call(self, claim: Claim, send_by: float) -> Answer:
        match claim.call:
            case Call.START:
                return await self._operation.submit(claim.item, send_by)
            case Call.POLL if is_surveyor(claim):
                return await self._survey(claim)
            case Call.POLL:
                return await self._operation.status(claim.item)
            case Call.RECONCILE:
                return await self._operation.find(claim.item, partial(self._another, claim))

    async def _survey(self, claim: Claim) -> Answer:
        """Poll a job by the list; where that does not show it, by itself as well."""
        found = await self._operation.find(claim.item, partial(self._another, claim))
        for job in found.jobs:
            if job.job_id == claim.item.job_id and job.status:
                return Answer(kind=found.kind, jobs=(job,), listed=True)
        if found.kind in {Kind.THROTTLED, Kind.CREDENTIALS, Kind.CLOCK}:
            return found
        await self._another(claim)
        answer = await self._operation.status(claim.item)
        return replace(answer, listed=False) if found.kind is Kind.OK else answer

    async def _keep_facts(self, decision: Decision, claim: Claim, known: LaneFacts) -> None:
        """Store what is new to the lane; that happens a few times in its life."""
        facts = claim.facts
        if isinstance(decision, PollAgain) and decision.suspicion:
            facts = replace(facts, suspects=facts.suspects | {decision.job.status.upper()})
        if facts != known:
            await self._ledger.learn(claim.item.lane, facts)

    async def _another(self, claim: Claim) -> None:
        """Wait until a claim is granted another call."""
        wait_seconds = await self._ledger.grant_more(claim)
        while wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
            wait_seconds = await self._ledger.grant_more(claim)

    async def _carry_out(self, decision: Decision, claim: Claim, *, in_outage: bool) -> None:
        match decision:
            case Run():
                held = await self._run(decision, claim)
            case End():
                held = await self._end(decision, claim)
            case PollAgain():
                held = await self._poll_again(decision, claim)
            case NoteLate():
                held = await self._note_late(decision, claim)
            case Verify(doubt, delay, error):
                held = await self._ledger.doubt(
                    claim, doubt, error=error, delay_seconds=delay, in_outage=in_outage
                )
                log.warning("import.doubted", doubt=doubt, error=error)
            case Undecided():
                held = await self._leave_undecided(decision, claim, in_outage=in_outage)
            case Start() | Retry() | WaitBehind():
                held = await self._start_again(decision, claim)
            case Throttle() | PauseLane() | GiveBack():
                held = await self._give_way(decision, claim)
        if not held:
            # Somebody else took over while we were slow; what they record is what counts.
            log.warning("claim.lost", call=claim.call, decision=type(decision).__name__)

    async def _run(self, decision: Run, claim: Claim) -> bool:
        job = decision.job
        held = await self._ledger.run(
            claim,
            job_id=job.job_id,
            operation=job.operation,
            status=job.status,
            delay_seconds=decision.delay_seconds,
            created_seconds_ago=job.created_seconds_ago or 0.0,
            updated=job.updated,
        )
        if held:
            log.info("import.started", job_id=job.job_id, adopted=claim.call is Call.RECONCILE)
            await self._announcer.running(claim.item, job.job_id, job.status)
            await self._repair_state(claim)
        return held

    async def _repair_state(self, claim: Claim) -> None:
        """Tell the end again, should it have been told before our late RUNNING."""
        item = await self._ledger.load(claim.item.id)
        if item and item.is_terminal:
            await self._announcer.ended(made_up(item))

    async def _end(self, decision: End, claim: Claim) -> bool:
        job = decision.job
        ended = await self._ledger.finish(
            claim,
            decision.state,
            error=decision.error,
            job_id=job.job_id,
            operation=job.operation,
            status=job.status,
        )
        if ended is None:
            return False
        log.info(
            f"import.{decision.state}",
            job_id=ended.item.job_id or None,
            attempts=ended.item.attempts,
            error=decision.error or None,
        )
        await self._announcer.ended(ended)
        return True

    async def _start_again(self, decision: Again, claim: Claim) -> bool:
        match decision:
            case Start(listed_jobs):
                return await self._ledger.requeue(
                    claim, why=What.NOT_STARTED, listed_jobs=listed_jobs
                )
            case Retry(delay, error):
                return await self._ledger.requeue(
                    claim, delay_seconds=delay, counted=True, error=error
                )
            case WaitBehind(delay, error):
                return await self._ledger.requeue(
                    claim, delay_seconds=delay, conflict=True, error=error
                )

    async def _poll_again(self, decision: PollAgain, claim: Claim) -> bool:
        held = await self._ledger.reschedule(
            claim,
            delay_seconds=decision.delay_seconds,
            status=decision.job.status,
            operation=decision.job.operation,
            counted=True,
            stuck=decision.stuck,
            settled=bool(decision.job.status),
            updated=decision.job.updated,
            suspicion=decision.suspicion,
        )
        if held and decision.stuck:
            log.warning("import.stuck", job_id=claim.item.job_id, age_seconds=claim.age_seconds)
        if held and decision.suspicion:
            log.warning("import.stuck", job_id=claim.item.job_id, error=decision.suspicion)
        return held

    async def _leave_undecided(self, decision: Undecided, claim: Claim, *, in_outage: bool) -> bool:
        held = await self._ledger.doubt(
            claim,
            decision.doubt,
            error=claim.item.doubt_error,
            delay_seconds=decision.delay_seconds,
            in_outage=in_outage,
            undecided=decision.reason,
            unclear_jobs=decision.jobs,
        )
        if held and decision.reason != claim.item.undecided:
            log.warning("import.undecided", error=decision.reason, jobs=decision.jobs)
        return held

    async def _note_late(self, decision: NoteLate, claim: Claim) -> bool:
        outcome = decision.outcome or UNKNOWN_OUTCOME
        held = await self._ledger.note_late(
            claim, outcome=outcome, status=decision.job.status, error=decision.error
        )
        if held:
            log.warning("job.ended_late", job_id=claim.item.job_id, outcome=outcome)
        return held

    async def _give_way(self, decision: Throttle | PauseLane | GiveBack, claim: Claim) -> bool:
        """Let the lane learn of what holds it up; the import goes back unharmed."""
        if isinstance(decision, GiveBack):
            return await give_back(self._ledger, claim)
        if isinstance(decision, Throttle):
            await self._lane_health.throttle(claim, decision)
            return await give_back(self._ledger, claim, why=What.THROTTLED)
        await self._lane_health.pause(claim, decision.reason)
        # One app that is refused must not be the probe for ever: others come first.
        stand_back = PROBE_AGAIN_SECONDS if claim.probe else 0.0
        return await give_back(self._ledger, claim, stand_back, What.LANE_PAUSED)

    def _note_unknown_status(self, answer: Answer) -> None:
        for job in answer.jobs:
            status = job.status.upper()
            known = status in UNDER_WAY_STATUSES or self._policy.outcome_of(status)
            if status and not known and status not in self._unknown_statuses:
                self._unknown_statuses.add(status)
                log.warning("job.status_unknown", status=status, job_id=job.job_id)


def _stand_back(decision: Decision, claim: Claim, answer: Answer) -> Decision:
    """Let an import whose probe was not answered stand back, so that others are probes too."""
    if not (claim.probe and answer.kind in UNANSWERED):
        return decision
    match decision:
        case Verify(delay_seconds=delay) | PollAgain(delay_seconds=delay):
            return replace(decision, delay_seconds=max(delay, PROBE_AGAIN_SECONDS))
    return decision


def made_up(item: Import) -> Ended:
    """Return an ended import that owes its end to no task but one of its own id."""
    return Ended(item, {item.id: ""})


async def give_back(
    ledger: Ledger, claim: Claim, delay_seconds: float = 0.0, why: What = What.GIVEN_BACK
) -> bool:
    """Return a claim whose call was not made, or had no effect: nothing is counted."""
    if claim.call is Call.START:
        return await ledger.requeue(claim, delay_seconds=delay_seconds, why=why)
    return await ledger.reschedule(claim, delay_seconds=delay_seconds)
