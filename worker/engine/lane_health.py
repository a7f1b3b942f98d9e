"""A lane's health: what an answer to one call says about everybody's calls on the same lane.

A lane pauses when its credentials are refused or nobody answers, and goes on once a probe of it is
answered; its limiter learns from every 429.
"""

import logging
from typing import Final

import structlog

from worker.domain.answers import UNANSWERED, Answer, Kind
from worker.domain.claims import Claim
from worker.domain.decisions import Throttle
from worker.engine.own_clock import STAND_DOWN_SECONDS, OwnClock
from worker.engine.ports import Ledger

log = structlog.get_logger()

PROBE_SECONDS: Final = 5.0
PROBE_MAX_SECONDS: Final = 300.0
FAILURES_IN_A_ROW: Final = 10
"""So many calls in a row without an answer that makes sense pause their lane; see `_WEIGHT`."""

_WEIGHT: Final = {Kind.UNREACHABLE: 2, Kind.UNKNOWN: 1, Kind.CLOCK: 5}
"""How much a failed call counts: one that found nobody says more than one that was lost.

Of those that are refused for their time, one in half a minute counts.
"""


class LaneHealth:
    """Keeps the pauses and limiters of lanes in step with what answers say."""

    def __init__(self, ledger: Ledger, own_clock: OwnClock) -> None:
        self._ledger = ledger
        self._own_clock = own_clock

    async def note(self, claim: Claim, answer: Answer) -> bool:
        """Keep the lane's pause in step with what the answer says about everybody's calls.

        Returns whether nobody is answered at the moment.
        """
        if claim.answered:
            self._own_clock.accepted()
        if answer.kind is Kind.CLOCK:
            await self._stand_down(claim, answer)
            return False
        if answer.kind in UNANSWERED:
            failures = await self._ledger.count_failure(claim.item.lane, _WEIGHT[answer.kind])
            in_outage = claim.probe or failures >= FAILURES_IN_A_ROW
            if in_outage:
                await self.pause(claim, answer.error)
            return in_outage
        if claim.probe and answer.kind is not Kind.CREDENTIALS:
            resumed = await self._ledger.resume_lane(claim.item.lane)
            log.info("lane.resumed" if resumed else "lane.held")
        return False

    async def _stand_down(self, claim: Claim, answer: Answer) -> None:
        """Leave calls to other workers; a lane that none of them can serve pauses all the same."""
        if not self._own_clock.refused():
            return
        log.error("clock.wrong", error=answer.error, retry_seconds=STAND_DOWN_SECONDS)
        failures = await self._ledger.count_failure(claim.item.lane, _WEIGHT[answer.kind])
        if failures >= FAILURES_IN_A_ROW and not claim.probe:
            await self.pause(claim, answer.error)

    async def pause(self, claim: Claim, reason: str) -> None:
        """Pause the lane of a claim, whose call nothing can make work now."""
        if await self._ledger.pause_lane(
            claim.item.lane,
            reason,
            probe=claim.probe,
            delay_seconds=PROBE_SECONDS,
            delay_max_seconds=PROBE_MAX_SECONDS,
        ):
            log.error("lane.paused", reason=reason)

    async def throttle(self, claim: Claim, decision: Throttle) -> None:
        """Let the lane's limiter learn from a 429."""
        counted, kept = await self._ledger.throttle_lane(
            claim,
            retry_after_seconds=decision.retry_after_seconds,
            limit_type=decision.limit_type,
            concurrent=decision.concurrent,
        )
        log.log(
            logging.INFO if counted else logging.DEBUG,
            "lane.throttled",
            call=claim.call,
            limit_type=decision.limit_type or None,
            retry_after_seconds=decision.retry_after_seconds,
            kept=kept,
        )
