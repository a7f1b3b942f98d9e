"""A claim: the right to make one call, and what the decision on its answer needs."""

from dataclasses import dataclass
from enum import StrEnum

from worker.domain.facts import LaneFacts
from worker.domain.imports import Import

NO_FACTS = LaneFacts()


class Call(StrEnum):
    """Which call a claim is for."""

    START = "start"
    POLL = "poll"
    RECONCILE = "reconcile"


class Doubt(StrEnum):
    """Why the remote side must be asked before anything else happens to an import."""

    UNKNOWN = "unknown"  # a start whose effect is not known
    REFUSED = "refused"  # a 400, which may hide a job that is pending on the target
    CONFLICT = "conflict"  # a pending job, which may be that of our own earlier, doubtful call
    GONE = "gone"  # a running job that polls no longer find
    LOST = "lost"  # the store was lost, and nobody remembers whether a start was made
    BEFORE = "before"  # no start was made yet: which jobs does the target have already?


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to make one call for one import, until its lease ends.

    `grant` is the limiter's permit for it, to be brought back with the answer; `answered` says
    that a full answer came that was no 429. `age_seconds` is the time since the first start that
    may have taken effect, `taken_at` this process's monotonic clock before the claim was asked for,
    in seconds; `probe` says that the lane is paused and this one call tells whether it may go on;
    `earlier_jobs` are those of earlier imports of the same target, never to be taken for this
    one's; `lasting` says that no failover of the store forgets the claim. `facts` is what the
    import's lane has shown of AWS so far.
    """

    call: Call
    lease: str
    item: Import
    age_seconds: float
    grant: str = ""
    answered: bool = False
    taken_at: float = 0.0
    probe: bool = False
    earlier_jobs: frozenset[str] = frozenset()
    lasting: bool = True
    facts: LaneFacts = NO_FACTS

    @property
    def known_seconds(self) -> float:
        """How long the jobId has been known. The first start may have been long before."""
        return self._since(self.item.started_at_ms)

    @property
    def called_seconds(self) -> float:
        """How long ago the last start was claimed; that of records without it, the first one."""
        return self._since(self.item.last_start_at_ms or self.item.first_start_at_ms)

    @property
    def unchanged_seconds(self) -> float:
        """How long the job has shown the same status and the same `updateTime`."""
        return self._since(self.item.changed_at_ms or self.item.started_at_ms)

    @property
    def may_have_started(self) -> bool:
        """Whether a call may have started a job; every call was refused otherwise."""
        return self.item.doubts > 0 or self.item.doubt == Doubt.LOST

    def _since(self, moment_ms: int) -> float:
        """Return the seconds since a moment of the record, which is on the store's clock.

        The claim knows how long ago the first start was, so no other clock is asked.
        """
        return self.age_seconds - (moment_ms - self.item.first_start_at_ms) / 1000
