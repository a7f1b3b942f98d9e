"""What goes into the store's door with a request, and what the store answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from worker.domain.imports import Import


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """How a request came in: its import id, and the Celery task that is owed its end.

    `signature` is empty where no task of the producer's waits; one is made up at the end then.
    With `recover_since_ms` (since the epoch; 0 for none) the import may have been started before,
    since that time: the remote side is asked first. It starts no earlier than `not_before_ms`, and
    never after `expires_at_ms` (0: at any time). With `ignores_result`, nobody asks for states.
    """

    import_id: str
    task_id: str
    signature: str = ""
    batch_id: str = ""
    recover_since_ms: int = 0
    not_before_ms: int = 0
    expires_at_ms: int = 0
    ignores_result: bool = False


class Action(StrEnum):
    """What a person may decide of an import that waits for it."""

    ADOPT = "adopt"
    START_AGAIN = "start-again"
    SUCCEED = "succeed"
    FAIL = "fail"


class Resolution(StrEnum):
    """What came of such a decision; nothing was done unless it is RESOLVED."""

    RESOLVED = "resolved"
    UNKNOWN = "unknown"
    OVER = "over"
    NOT_UNDECIDED = "not_undecided"
    EARLIER = "earlier"  # the job is that of an earlier import of the target
    RUNNING = "running"  # it has a job, so it can't be started again


class Cancellation(StrEnum):
    """What became of the wish to cancel an import."""

    CANCELLED = "cancelled"
    ASKED = "asked"  # a call is being made, or in doubt: once it is known what that did
    OVER = "over"
    UNKNOWN = "unknown"


class RetryVerdict(StrEnum):
    """What became of the wish to try an import again."""

    RETRIED = "retried"
    ALREADY = "already"  # it was retried before
    UNDER_WAY = "under_way"
    SUCCEEDED = "succeeded"
    LATE = "late"  # its job succeeded after the import had ended
    INVALID = "invalid"  # its request was refused at the door
    TOO_LONG = "too_long"  # the new import's id, or its batch's
    TAKEN = "taken"  # the new import's id is another import's
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of that wish, and the import that tries it again; '' where none does."""

    verdict: RetryVerdict
    retry_id: str = ""


class Verdict(StrEnum):
    """What became of a request at the door."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    REUSED = "reused"  # the import id stands for another request already
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Admission:
    """A request's reception. `item` is None for one that was just accepted: it waits."""

    verdict: Verdict
    import_id: str
    item: Import | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """An import that is over, and the Celery tasks that are owed its end: task id → signature.

    A signature is JSON text; an empty one stands for a task that must be made up from the record.
    """

    item: Import
    tasks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """A lane's limits in calls per second, in calls at once and in unfinished jobs.

    None where nothing is known: it is learned then. With `shared`, starts and polls have
    one budget, of which starts keep `start_share` while both are due.
    """

    start_rate: float | None = None
    start_burst: float | None = None
    poll_rate: float | None = None
    poll_burst: float | None = None
    shared: bool | None = None
    shared_rate: float | None = None
    shared_burst: float | None = None
    start_share: float | None = None
    max_running: int | None = None

    def known(self) -> dict[str, float]:
        """Return what is known, by name."""
        return {name: float(value) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a batch stops by itself; without either, never.

    Only its first `canary` imports start until all of them have ended. It stops when more than
    `stop_percent` of what has ended ended badly; of the canaries, where it is None, when one did.
    """

    canary: int = 0
    stop_percent: float | None = None


NO_RULE = StopRule()
