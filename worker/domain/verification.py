"""Decides what follows from what AWS shows of an import that has succeeded; pure.

AWS does not document that it must show an imported resource, nor when. So what it shows is
evidence: it never changes how an import ended, and it never leads to another start.
"""

from enum import StrEnum

from worker.domain.answers import Answer, Kind
from worker.domain.claims import Claim
from worker.domain.decisions import Decision, NoteVerified, PauseLane, PollAgain, Requeue, Throttle
from worker.domain.policy import Policy

LAG_SECONDS = 300.0
"""How long after an import's end AWS may not show it yet."""

GIVE_UP_SECONDS = 3600.0
"""How long after an import's end a look that gets no answer is repeated."""


class Verification(StrEnum):
    """The result of looking at what an import that has succeeded left in AWS."""

    DUE = "due"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    UNKNOWN = "unknown"


def decide_verification(answer: Answer, claim: Claim, policy: Policy) -> Decision:
    """Decide after AWS was asked what the target of a succeeded import has."""
    seconds = claim.ended_seconds
    match answer.kind:
        case Kind.THROTTLED:
            return Throttle(answer.retry_after_seconds, answer.limit_type)
        case Kind.CREDENTIALS:
            return PauseLane(answer.error)
        case Kind.CLOCK:
            return Requeue()
        case Kind.OK if not answer.mismatch:
            return NoteVerified(Verification.CONFIRMED)
        case Kind.OK if seconds >= LAG_SECONDS:
            return NoteVerified(Verification.UNCONFIRMED, answer.mismatch)
        case Kind.OK:
            return PollAgain(answer.job, policy.poll_max_seconds)
        case Kind.UNKNOWN | Kind.UNREACHABLE if seconds < GIVE_UP_SECONDS:
            return PollAgain(answer.job, policy.poll_max_seconds)
    return NoteVerified(Verification.UNKNOWN, answer.error)
