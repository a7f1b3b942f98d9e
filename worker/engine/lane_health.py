"""A lane's health: what the answer to one call shows about the whole lane.

A lane pauses if its credentials are refused or no call gets an answer. It resumes once a probe is
answered. The store keeps the count; this module says how much each answer counts.
"""

from typing import Final

import structlog

from worker.domain.answers import UNANSWERED, Answer, Kind
from worker.domain.claims import Claim
from worker.domain.recording import NOTHING_OBSERVED, Observed
from worker.engine.own_clock import STAND_DOWN_SECONDS, OwnClock

log = structlog.get_logger()

FAILURES_IN_A_ROW: Final = 10
"""The sum of weights of consecutive calls without a usable answer that pauses their lane; see
`_WEIGHT`."""

_WEIGHT: Final = {Kind.UNREACHABLE: 2, Kind.UNKNOWN: 1, Kind.CLOCK: 5}
"""How much a failed call counts. A refused connection shows more than a lost answer.

Of the calls that AWS refuses because of a wrong clock, only one per half minute counts.
"""


def observe(claim: Claim, answer: Answer, own_clock: OwnClock) -> Observed:
    """Return what an answer shows about its lane, except for a 429 or refused credentials."""
    if claim.answered:
        own_clock.accepted()
    match answer.kind:
        case Kind.CLOCK:
            return _stand_down(claim, answer, own_clock)
        case kind if kind in UNANSWERED:
            pause_at = 0 if claim.probe else FAILURES_IN_A_ROW
            return Observed(failure=_WEIGHT[kind], reason=answer.error, pause_at=pause_at)
        case Kind.CREDENTIALS:
            return NOTHING_OBSERVED
    return Observed(probe_answered=claim.probe)


def _stand_down(claim: Claim, answer: Answer, own_clock: OwnClock) -> Observed:
    """Leave the calls to other workers. If none of them can serve the lane either, it pauses."""
    if not own_clock.refused():
        return NOTHING_OBSERVED
    log.error("clock.wrong", error=answer.error, retry_seconds=STAND_DOWN_SECONDS)
    pause_at = None if claim.probe else FAILURES_IN_A_ROW
    return Observed(failure=_WEIGHT[answer.kind], reason=answer.error, pause_at=pause_at)
