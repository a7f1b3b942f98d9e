"""What the store receives with a request, and what it answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum

from worker.domain.imports import Import
from worker.domain.requests import DEFAULT_OPERATION, ImportRequest, Problems
from worker.domain.traces import TraceContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """How a request came in: its import id, and the Celery task that ends with the import.

    `signature` is empty if no task of the producer waits; a worker creates one when the import
    ends. `recover_since_ms` (since the epoch; 0 for none) says that the import may have been
    started since then, so that a worker checks with AWS first. The import starts no earlier than
    `not_before_ms` and no later than `expires_at_ms` (0: no bound). With `ignores_result`, no task
    states are stored. `operation` is the operation that the entry point implies. `trace` is the
    producer's place in a trace, if it gave one.
    """

    import_id: str
    task_id: str
    operation: str = DEFAULT_OPERATION
    signature: str = ""
    batch_id: str = ""
    recover_since_ms: int = 0
    not_before_ms: int = 0
    expires_at_ms: int = 0
    ignores_result: bool = False
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A request that can be imported, in the lane of its account and `region`.

    With a `refusal`, it would be valid, but its account may not be used: it is rejected.
    """

    envelope: Envelope
    request: ImportRequest
    region: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """A request that can't be imported, with what is known of its target and its lane.

    `target` is appId and environment name, `lane` account and region. `problems` has a member and
    the reason for each part of the error.
    """

    envelope: Envelope
    target: tuple[str, str]
    lane: tuple[str, str]
    error: str
    problems: Problems = ()


class Action(StrEnum):
    """What an operator may decide about an undecided import."""

    ADOPT = "adopt"
    START_AGAIN = "start-again"
    SUCCEED = "succeed"
    FAIL = "fail"


class Resolution(StrEnum):
    """The result of such a decision. Only RESOLVED means that something was done."""

    RESOLVED = "resolved"
    UNKNOWN = "unknown"
    OVER = "over"
    NOT_UNDECIDED = "not_undecided"
    EARLIER = "earlier"  # the job belongs to an earlier import of the target
    RUNNING = "running"  # the import has a job, so it can't be started again


class Cancellation(StrEnum):
    """The result of cancelling an import."""

    CANCELLED = "cancelled"
    # a call is in progress, or its outcome is unknown; the import is cancelled once it is known
    ASKED = "asked"
    OVER = "over"
    UNKNOWN = "unknown"


class RetryVerdict(StrEnum):
    """The result of retrying an import."""

    RETRIED = "retried"
    ALREADY = "already"  # it was retried before
    UNDER_WAY = "under_way"
    SUCCEEDED = "succeeded"
    LATE = "late"  # its job succeeded after the import had ended
    INVALID = "invalid"  # its request was invalid, so it was rejected at admission
    TOO_LONG = "too_long"  # the id of the new import or of its batch
    TAKEN = "taken"  # the new import's id belongs to another import
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Retried:
    """The result of retrying an import, and the id of the new import; '' if there is none."""

    verdict: RetryVerdict
    retry_id: str = ""


class Verdict(StrEnum):
    """The result of admitting a request."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    REUSED = "reused"  # the import id already belongs to another request
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Admission:
    """How a request was admitted. `item` is None if it was just accepted: then it waits.

    `is_new` is that of `Ended`, if the import was known and is over.
    """

    verdict: Verdict
    import_id: str
    item: Import | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """An import that is over, and the Celery tasks that end with it: task id → signature.

    A signature is JSON text. An empty one stands for a task that a worker creates from the record.
    `is_new` says that a script ended the import without an answer of a worker, and that no worker
    has learned of it before.
    """

    item: Import
    tasks: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """A lane's limits in calls per second, in calls at once and in unfinished jobs.

    None means unknown: the limit is learned. With `shared`, starts and polls have one budget, of
    which starts keep `start_share` while both are due.
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

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all limits."""
        return [each.name for each in fields(cls)]

    def known(self) -> dict[str, float]:
        """Return the limits that are known, by name."""
        return {name: float(value) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a batch pauses automatically. With neither field set, it never does.

    Only the batch's first `canary` imports start until all of them have ended. The batch pauses
    when more than `stop_percent` percent of the ended imports did not succeed. If `stop_percent` is
    None, it pauses when a canary did not succeed.
    """

    canary: int = 0
    stop_percent: float | None = None


NO_RULE = StopRule()
