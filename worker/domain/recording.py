"""What the store records of an answer beside the decision, and the result of recording it."""

from dataclasses import dataclass
from typing import Final

from worker.domain.facts import LaneFacts
from worker.domain.outcomes import Ended

PROBE_SECONDS: Final = 5.0
PROBE_MAX_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an answer shows about the whole lane.

    `failure` is the weight of a call without a usable answer, and 0 for any other. When the weights
    of consecutive failures add up to `pause_at`, the lane pauses with `reason`; None means that it
    does not pause. `probe_answered` reopens a paused lane. A paused lane is probed after
    `probe_seconds`, then less and less often, up to every `probe_max_seconds`. `facts` is what the
    lane has shown of AWS, if that is new.
    """

    failure: int = 0
    reason: str = ""
    pause_at: int | None = None
    probe_answered: bool = False
    probe_seconds: float = PROBE_SECONDS
    probe_max_seconds: float = PROBE_MAX_SECONDS
    facts: LaneFacts | None = None


NOTHING_OBSERVED: Final = Observed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """What a lane's limiter did with a 429.

    `is_counted` is False if the 429 belongs to a burst of which one was counted already. From then
    on the lane keeps to a ceiling of unfinished jobs, which may be only suspected, or to a rate in
    calls per second. Both are None if the call had no permit.
    """

    is_counted: bool
    rate: float | None = None
    ceiling: int | None = None
    is_suspected: bool = False

    @property
    def kept(self) -> str:
        """The limit that the lane keeps to, as people read it."""
        if self.ceiling is not None:
            return f"{self.ceiling} unfinished jobs at most" + (
                ", apparently" if self.is_suspected else ""
            )
        return "" if self.rate is None else f"{self.rate:.3g}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The result of recording a decision.

    If not `is_current`, another worker had taken over the claim: the import stays unchanged, but
    the store keeps what the answer shows about the lane. `paused` and `resumed` say that this
    answer paused or resumed the lane. `ended` is the import that this decision ended.
    """

    is_current: bool
    paused: bool = False
    resumed: bool = False
    throttled: Throttled | None = None
    ended: Ended | None = None
