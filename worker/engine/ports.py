"""The interfaces that the engine uses, as protocols. `worker.runtime` connects them once."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from worker.domain.accounts import Standing
from worker.domain.answers import Answer
from worker.domain.claims import Claim
from worker.domain.decisions import Decision, End, Postpone
from worker.domain.imports import Import
from worker.domain.outcomes import (
    Admission,
    Ended,
    Envelope,
    InvalidRequest,
    StopRule,
    ValidRequest,
)
from worker.domain.preflight import Checked, Place
from worker.domain.recording import NOTHING_OBSERVED, Observed, Recorded
from worker.domain.requests import ImportRequest
from worker.domain.schedules import Schedule


class Operation(Protocol):
    """The remote API: start a job, poll it, list jobs. Failures are answers, not exceptions."""

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the job with one call, never sent after `send_by` (`time.monotonic`, seconds)."""
        ...

    async def status(self, item: Import) -> Answer:
        """Poll the import's job with one call."""
        ...

    async def verify(self, item: Import) -> Answer:
        """Ask with one call what the target of an import that has succeeded has."""
        ...

    async def find(self, item: Import, another: Callable[[], Awaitable[None]]) -> Answer:
        """List all jobs of the target; `another` obtains a permit for each call but the first."""
        ...


class Checks(Protocol):
    """Checks of what imports name. They only read."""

    async def preflight(self, operation: str, members: Mapping[str, str], place: Place) -> Checked:
        """Check what a request of an operation names. It never raises for what AWS answers."""
        ...


class Preflight(Protocol):
    """Decides whether a claimed start may be made."""

    async def before(self, claim: Claim) -> End | Postpone | None:
        """Return the decision that takes the start's place; None if the start may be made."""
        ...


class Requests(Protocol):
    """The requests of all operations."""

    def parse(self, members: object, operation: str) -> ImportRequest:
        """Validate a request of an operation; raises InvalidRequestError."""
        ...

    def name_in(self, members: object) -> str:
        """Return the operation that a request names; the default operation if it names none."""
        ...


class AdmissionStore(Protocol):
    """The part of the store that admission writes to."""

    async def admit_all(self, received: Sequence[ValidRequest | InvalidRequest]) -> list[Admission]:
        """Admit requests in their order and in one step; invalid ones become rejected imports.

        Safe to repeat.
        """
        ...

    async def announce_batch(
        self, batch_id: str, expected: int, rule: StopRule, schedule: Schedule
    ) -> None:
        """Keep a batch open until `expected` imports were admitted; set its rule and schedule."""
        ...

    async def accepted_accounts(self) -> frozenset[str]:
        """Return the names and patterns of the accounts that any worker accepts."""
        ...


class SubmissionStore(AdmissionStore, Protocol):
    """The part of the store that submission needs."""

    async def conflicts(self, valid: Sequence[ValidRequest]) -> list[str]:
        """Return for each request the import that has its id or key with other members, or ''."""
        ...


class ClaimStore(Protocol):
    """The part of the store with which claims are carried out."""

    async def record(
        self, claim: Claim, decision: Decision, observed: Observed = NOTHING_OBSERVED
    ) -> Recorded:
        """Record a decision, and what the answer shows about the lane, in one step."""
        ...

    async def grant_more(self, claim: Claim) -> float:
        """Grant a claim one more call; return 0, or the seconds until it may be granted."""
        ...

    async def load(self, import_id: str) -> Import | None:
        """Return the import as it stands."""
        ...


class Announcer(Protocol):
    """Shows states and ends to producers. Never raises."""

    async def waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        """Show imports for which no task of the producer waits."""
        ...

    def accepted(self, envelope: Envelope, target: str, lane: str, batch_id: str) -> None:
        """Show the task of a request that was accepted just now."""
        ...

    async def running(self, item: Import, job_id: str, status: str) -> bool:
        """Show that the job runs; return whether this may have replaced an end shown before."""
        ...

    async def ended(self, ended: Ended) -> None:
        """Finish the import's tasks, soon. If that fails, it is repeated from the store."""
        ...

    async def settled(self) -> None:
        """Return when the tasks that are to be finished are finished, or have failed to."""
        ...

    async def repair(self, item: Import) -> None:
        """Show the end of an import again, in case it was shown before a late RUNNING."""
        ...


class Accounts(Protocol):
    """The accounts that this worker knows."""

    def standing_of(self, account: str) -> Standing:
        """Return what is known of an account."""
        ...


class Regions(Protocol):
    """The regions of imports whose requests name none."""

    def region_of(self, account: str) -> str:
        """Return the region; '' if none is configured."""
        ...
