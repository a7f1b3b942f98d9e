"""What the engine needs of the world, as protocols. Wired once, in `worker.runtime`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from worker.domain.answers import Answer
from worker.domain.claims import Claim, Doubt
from worker.domain.facts import LaneFacts
from worker.domain.history import What
from worker.domain.imports import Import
from worker.domain.outcomes import Admission, Ended, Entrance, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import State


class Operation(Protocol):
    """A remote API: submit a job, then ask for it until it is over. Answers, never exceptions."""

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the job; one call, never sent after `send_by` on `time.monotonic`, in seconds."""
        ...

    async def status(self, item: Import) -> Answer:
        """Ask for the import's job; one call."""
        ...

    async def find(self, item: Import, another: Callable[[], Awaitable[None]]) -> Answer:
        """List all jobs of the target; `another` grants each call but the first."""
        ...


class Door(Protocol):
    """The part of the store that admission writes to."""

    async def admit(self, entrance: Entrance, request: ImportRequest, region: str) -> Admission:
        """Admit a valid request; safe to repeat."""
        ...

    async def reject(
        self, entrance: Entrance, target: tuple[str, str], lane: tuple[str, str], error: str
    ) -> Admission:
        """Record an invalid request as a terminal import; safe to repeat."""
        ...

    async def announce_batch(self, batch_id: str, expected: int, rule: StopRule) -> None:
        """Keep a batch open until so many imports were admitted; give it its stop rule."""
        ...


class Ledger(Protocol):
    """The part of the store that carries claims out. See `worker.store.store` for each method."""

    async def run(
        self,
        claim: Claim,
        *,
        job_id: str,
        operation: str,
        status: str,
        delay_seconds: float,
        created_seconds_ago: float = 0.0,
        updated: str = "",
    ) -> bool:
        """Keep the jobId and schedule the first poll."""
        ...

    async def finish(
        self, claim: Claim, state: State, *, error: str, job_id: str, operation: str, status: str
    ) -> Ended | None:
        """End the import."""
        ...

    async def requeue(
        self,
        claim: Claim,
        *,
        delay_seconds: float = 0.0,
        counted: bool = False,
        conflict: bool = False,
        error: str = "",
        why: What = What.GIVEN_BACK,
        listed_jobs: Sequence[str] | None = None,
    ) -> bool:
        """Let it wait for another start."""
        ...

    async def reschedule(
        self,
        claim: Claim,
        *,
        delay_seconds: float = 0.0,
        status: str = "",
        operation: str = "",
        counted: bool = False,
        stuck: bool = False,
        settled: bool = False,
        updated: str = "",
        suspicion: str = "",
    ) -> bool:
        """Ask again later."""
        ...

    async def note_late(self, claim: Claim, *, outcome: str, status: str, error: str) -> bool:
        """Note how the job of an ended import ended after all."""
        ...

    async def doubt(
        self,
        claim: Claim,
        doubt: Doubt,
        *,
        error: str,
        delay_seconds: float,
        in_outage: bool,
        undecided: str = "",
        unclear_jobs: Sequence[str] = (),
    ) -> bool:
        """Note a doubt, to be resolved later, and why it may need a person to resolve it."""
        ...

    async def learn(self, lane: str, facts: LaneFacts) -> None:
        """Keep what a lane has shown of AWS."""
        ...

    async def throttle_lane(
        self,
        claim: Claim,
        *,
        retry_after_seconds: float | None,
        limit_type: str,
        concurrent: bool,
    ) -> tuple[bool, str]:
        """Let the lane learn from a 429; say whether it counts, and what is kept to now."""
        ...

    async def grant_more(self, claim: Claim) -> float:
        """Grant a claim one more call; return 0, or the seconds until it may be granted."""
        ...

    async def pause_lane(
        self,
        lane: str,
        reason: str,
        *,
        probe: bool,
        delay_seconds: float,
        delay_max_seconds: float,
    ) -> bool:
        """Pause the lane."""
        ...

    async def resume_lane(self, lane: str) -> bool:
        """Reopen the lane."""
        ...

    async def count_failure(self, lane: str, weight: int) -> int:
        """Count calls in a row without an answer that makes sense."""
        ...

    async def load(self, import_id: str) -> Import | None:
        """Return the import as it stands."""
        ...


class Announcer(Protocol):
    """Tells the producer's side: states under way, and the end. Never raises."""

    async def waiting(self, entrances: Sequence[Entrance], targets: Sequence[str]) -> None:
        """Show imports that have no task of the producer's."""
        ...

    async def running(self, item: Import, job_id: str, status: str) -> None:
        """Show that the job runs."""
        ...

    async def ended(self, ended: Ended) -> None:
        """Have the import's deferred tasks finish; what fails here is repeated from the store."""
        ...


class Regions(Protocol):
    """Where an account's imports go when a request names no region."""

    def region_of(self, account: str) -> str:
        """Return the region, '' when none is configured."""
        ...
