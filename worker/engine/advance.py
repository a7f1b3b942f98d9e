"""One step of an import: make the claimed call, decide on the answer, record the decision.

The order makes it safe. The claim is recorded before the call is made, and the decision before it
is announced. If the process dies anywhere in between, the claim's lease ends and the store decides
what follows.
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
    Decision,
    End,
    PauseLane,
    PollAgain,
    Reconcile,
    Requeue,
    Run,
    delay_of,
)
from worker.domain.events import EventType, end_event
from worker.domain.facts import LaneFacts
from worker.domain.policy import Policy
from worker.domain.recording import NOTHING_OBSERVED, Observed, Recorded
from worker.domain.rules import decide_poll, decide_reconcile, decide_start
from worker.domain.states import State
from worker.engine.lane_health import observe
from worker.engine.learn import is_surveyor, learn
from worker.engine.log import log_import, log_lane
from worker.engine.observer import NOBODY, Observer
from worker.engine.own_clock import OwnClock
from worker.engine.ports import Announcer, ClaimStore, Operation, Preflight
from worker.engine.preflight import NO_PREFLIGHT
from worker.engine.tracing import UNTRACED, Tracer, carrying_out, trace_fields

log = structlog.get_logger()

PROBE_AGAIN_SECONDS: Final = 60.0
"""How long an import whose probe failed waits, so that other imports of its lane are probes,
too."""

UNDER_WAY_STATUSES: Final = frozenset({"CREATING", "IN_PROGRESS", "PENDING", "RUNNING", "UPDATING"})
"""Statuses seen in jobs that are not over. AWS documents none; any other status is logged once."""

_NO_GRANT_USED: Final = UNANSWERED | {Kind.THROTTLED, Kind.CREDENTIALS, Kind.CLOCK}
"""Answers that do not show that the call passed the remote side's limit."""

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
        store: ClaimStore,
        announcer: Announcer,
        policy: Policy,
        lease_seconds: float,
        own_clock: OwnClock,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = NOBODY,
        tracer: Tracer = UNTRACED,
        preflight: Preflight = NO_PREFLIGHT,
    ) -> None:
        self._operation = operation
        self._store = store
        self._announcer = announcer
        self._policy = policy
        self._lease_seconds = lease_seconds
        self._own_clock = own_clock
        self._jitter = jitter
        self._clock = clock
        self._observer = observer
        self._tracer = tracer
        self._preflight = preflight
        self._unknown_statuses: set[str] = set()

    async def advance(self, claim: Claim) -> float | None:
        """Make the claimed call and record what follows from its answer.

        Returns the seconds after which the import was scheduled again; None if it was not.

        Raises whatever the store raises if it can't be reached. The lease then ends, and another
        worker takes over the import as one whose call may or may not have been made.
        """
        item = claim.item
        with (
            structlog.contextvars.bound_contextvars(
                import_id=item.id, target=item.target, lane=item.lane, **trace_fields(item)
            ),
            carrying_out(claim),
        ):
            # A call may take half a lease. A call that is sent later could outlive its claim.
            send_by = claim.taken_at + self._lease_seconds / 2
            if self._clock() > send_by:
                log.warning("claim.given_back", call=claim.call)
                await self._store.record(claim, Requeue())
                return None
            if instead := await self._preflight.before(claim):
                await self._carry_out(instead, claim, NOTHING_OBSERVED)
                return delay_of(instead)
            return await self._make_call(claim, send_by)

    async def _make_call(self, claim: Claim, send_by: float) -> float | None:
        answer = await self._call(claim, send_by)
        elapsed = self._clock() - claim.taken_at
        claim = replace(
            claim,
            age_seconds=claim.age_seconds + elapsed,
            elapsed_seconds=elapsed,
            answered=answer.kind not in _NO_GRANT_USED,
        )
        self._note_unknown_status(answer)
        known = claim.facts
        claim = replace(claim, facts=learn(claim, answer, self._policy))
        decision = _DECIDE[claim.call](answer, claim, self._policy, self._jitter())
        log.debug("call.answered", call=claim.call, kind=answer.kind, decision=decision)
        observed = observe(claim, answer, self._own_clock)
        observed = replace(observed, facts=_news(decision, claim.facts, known))
        decision = _stand_back(decision, claim, answer)
        await self._carry_out(decision, claim, observed)
        return delay_of(decision)

    async def _call(self, claim: Claim, send_by: float) -> Answer:
        match claim.call:
            case Call.START:
                return await self._operation.submit(claim.item, send_by)
            case Call.POLL if claim.item.state is State.SUCCEEDED:
                return await self._operation.verify(claim.item)
            case Call.POLL if is_surveyor(claim):
                return await self._survey(claim)
            case Call.POLL:
                return await self._operation.status(claim.item)
            case Call.RECONCILE:
                return await self._operation.find(claim.item, partial(self._another, claim))

    async def _survey(self, claim: Claim) -> Answer:
        """Poll a job with the list; if the list does not show it, poll it on its own as well."""
        found = await self._operation.find(claim.item, partial(self._another, claim))
        for job in found.jobs:
            if job.job_id == claim.item.job_id and job.status:
                return Answer(kind=found.kind, jobs=(job,), listed=True)
        if found.kind in {Kind.THROTTLED, Kind.CREDENTIALS, Kind.CLOCK}:
            return found
        await self._another(claim)
        answer = await self._operation.status(claim.item)
        return replace(answer, listed=False) if found.kind is Kind.OK else answer

    async def _another(self, claim: Claim) -> None:
        """Wait until a claim is granted another call."""
        wait_seconds = await self._store.grant_more(claim)
        while wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
            wait_seconds = await self._store.grant_more(claim)

    async def _carry_out(self, decision: Decision, claim: Claim, observed: Observed) -> None:
        """Record a decision, then log it and announce it to the producer."""
        began_ns = time.time_ns()
        recorded = await self._store.record(claim, decision, observed)
        self._observer.recorded(claim, decision, recorded)
        log_lane(claim, decision, observed, recorded)
        if not recorded.is_current:
            # Another worker took over the claim meanwhile. What that worker records counts.
            log.warning("claim.lost", call=claim.call, decision=type(decision).__name__)
            return
        log_import(claim, decision, recorded)
        self._trace(claim, decision, recorded, began_ns)
        match decision:
            case Run(job):
                if await self._announcer.running(claim.item, job.job_id, job.status):
                    await self._repair_state(claim)
            case End() if recorded.ended:
                await self._announcer.ended(recorded.ended)

    def _trace(self, claim: Claim, decision: Decision, recorded: Recorded, began_ns: int) -> None:
        item = claim.item
        match decision:
            case Run():
                self._tracer.appended(item.id, item.trace, EventType.STARTED, began_ns)
            case End(state) if recorded.ended:
                self._tracer.appended(item.id, item.trace, end_event(state), began_ns)
                self._tracer.ended(recorded.ended.item)

    async def _repair_state(self, claim: Claim) -> None:
        """Show the end again, in case it was shown before our late RUNNING."""
        item = await self._store.load(claim.item.id)
        if item and item.is_terminal:
            await self._announcer.repair(item)

    def _note_unknown_status(self, answer: Answer) -> None:
        for job in answer.jobs:
            status = job.status.upper()
            known = status in UNDER_WAY_STATUSES or self._policy.outcome_of(status)
            if status and not known and status not in self._unknown_statuses:
                self._unknown_statuses.add(status)
                log.warning("job.status_unknown", status=status, job_id=job.job_id)


def _news(decision: Decision, facts: LaneFacts, known: LaneFacts) -> LaneFacts | None:
    """Return the facts if they are new to the lane, which is rare; else None."""
    if isinstance(decision, PollAgain) and decision.suspicion:
        facts = replace(facts, suspects=facts.suspects | {decision.job.status.upper()})
    return facts if facts != known else None


def _stand_back(decision: Decision, claim: Claim, answer: Answer) -> Decision:
    """Delay an import whose probe failed, so that the next probe is another import's."""
    match decision:
        case PauseLane() if claim.probe:
            return replace(decision, delay_seconds=PROBE_AGAIN_SECONDS)
        case Reconcile() | PollAgain() if claim.probe and answer.kind in UNANSWERED:
            delay = max(decision.delay_seconds, PROBE_AGAIN_SECONDS)
            return replace(decision, delay_seconds=delay)
    return decision
