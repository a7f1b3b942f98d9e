"""A claim: the right to make one call, and what the decision on its answer needs."""

from dataclasses import dataclass
from enum import StrEnum

from worker.domain.facts import LaneFacts
from worker.domain.imports import Import

NO_FACTS = LaneFacts()


class Call(StrEnum):
    """The call that a claim is for."""

    START = "start"
    POLL = "poll"
    RECONCILE = "reconcile"


class Doubt(StrEnum):
    """Why a worker must reconcile before anything else happens to an import."""

    UNKNOWN = "unknown"  # a start whose outcome is unknown
    REFUSED = "refused"  # a 400, which may hide a job that is pending on the target
    CONFLICT = "conflict"  # a pending job, which may come from an earlier start of this import
    GONE = "gone"  # a running job that polls no longer find
    LOST = "lost"  # the store was lost, and with it whether a start was made
    BEFORE = "before"  # no start was made yet; lists the jobs that the target already has


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to make one call for one import, until its lease ends.

    `grant` is the limiter's permit, which the worker returns with the answer. `answered` says that
    a complete answer other than a 429 came.

    `age_seconds` is the time since the first start that may have taken effect. It is exact when the
    claim is made. With the answer, it may be up to `elapsed_seconds` too long, because the time at
    which the remote side answered is unknown. `taken_at` is when the claim was requested, in
    seconds on this process's monotonic clock.

    `overdue_seconds` is how long before the claim a poll or reconciliation fell due; 0 for a start.

    `probe` says that the lane is paused and that this call tests whether it works again.
    `earlier_jobs` belong to earlier imports of the same target and are never taken for this
    import's own. `lasting` says that a failover of the store can't lose the claim. `facts` is what
    the import's lane has shown of AWS so far.
    """

    call: Call
    lease: str
    item: Import
    age_seconds: float
    overdue_seconds: float = 0.0
    grant: str = ""
    answered: bool = False
    elapsed_seconds: float = 0.0
    taken_at: float = 0.0
    probe: bool = False
    earlier_jobs: frozenset[str] = frozenset()
    lasting: bool = True
    facts: LaneFacts = NO_FACTS

    @property
    def known_seconds(self) -> float:
        """For how long at least the jobId has been known. The first start may be much older."""
        return self._since(self.item.started_at_ms)

    @property
    def called_seconds(self) -> float:
        """How long ago at least the last start was claimed; in old records, the first one."""
        return self._since(self.item.last_start_at_ms or self.item.first_start_at_ms)

    @property
    def unchanged_seconds(self) -> float:
        """For how long at least the job has shown the same status and the same `updateTime`."""
        return self._since(self.item.changed_at_ms or self.item.started_at_ms)

    @property
    def ended_seconds(self) -> float:
        """How long ago at least the import ended."""
        return self._since(self.item.finished_at_ms)

    @property
    def may_have_started(self) -> bool:
        """Whether a call may have started a job; False if every call was refused."""
        return self.item.doubts > 0 or self.item.doubt == Doubt.LOST

    @property
    def least_age_seconds(self) -> float:
        """How old the first start was at least when the remote side answered."""
        return self.age_seconds - self.elapsed_seconds

    def _since(self, moment_ms: int) -> float:
        """Return the least number of seconds since a time in the record (on the store's clock).

        The claim's age gives the current time on the store's clock, so no other clock is read.
        """
        return self.least_age_seconds - (moment_ms - self.item.first_start_at_ms) / 1000
