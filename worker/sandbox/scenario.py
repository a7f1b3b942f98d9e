"""The models of a scenario: all keys of its file, and their allowed values.

`loader` reads the files.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.sandbox.api import Operation
from worker.sandbox.undocumented import Probability, Seconds, Undocumented

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ErrorNames(StrEnum):
    """The source of the error codes' names: AWS's documentation, or botocore; or no error code."""

    PAGE = "page"
    BOTOCORE = "botocore"
    NONE = "none"


class ErrorCodePlace(StrEnum):
    """The place of the error code in an answer: a header, a member of the body, or none."""

    HEADER = "header"
    HEADER_URL = "header-url"
    CODE = "code"
    TYPE = "type"
    NOWHERE = "nowhere"


class ConflictCode(StrEnum):
    """The code of the answer 400 to an import while another job of its target is pending."""

    BAD_REQUEST = "BadRequestException"
    VALIDATION = "ValidationException"


class RetryAfter(StrEnum):
    """The form of the Retry-After header of an answer 429."""

    NONE = "none"
    SECONDS = "seconds"
    FRACTION = "fraction"
    DATE = "date"


class BucketName(StrEnum):
    """The token buckets of a quota."""

    STARTS = "starts"
    READS = "reads"
    SHARED = "shared"


class Credentials(StrEnum):
    """The state of an account's credentials."""

    OK = "ok"
    EXPIRED = "expired"
    DENIED = "denied"


class Outcome(StrEnum):
    """The outcome of an import of a scripted target."""

    SUCCEED = "succeed"
    FAIL = "fail"
    NEVER = "never"
    REJECT = "reject"
    NOT_FOUND = "not_found"


class FaultKind(StrEnum):
    """The faults that a call can have. `faults`, `simulation` and `delivery` show their effects."""

    ERROR_504_BEFORE = "error_504_before"
    ERROR_504_AFTER = "error_504_after"
    ERROR_500 = "error_500"
    HTML_502 = "html_502"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    HANG = "hang"
    TRUNCATED = "truncated"
    SLOW = "slow"
    NO_JOB_ID = "no_job_id"
    UNKNOWN_STATUS = "unknown_status"
    LATE_404 = "late_404"
    LAG = "lag"
    EMPTY_PAGES = "empty_pages"

    @property
    def operations(self) -> Sequence[Operation]:
        """The operations that can have this fault; the default of scripted targets first."""
        return _OPERATIONS.get(self, tuple(Operation))

    @property
    def is_standing(self) -> bool:
        """Whether the fault hides young jobs. A call can have it in addition to another fault."""
        return self in {FaultKind.LATE_404, FaultKind.LAG}


_OPERATIONS: Mapping[FaultKind, Sequence[Operation]] = {
    FaultKind.NO_JOB_ID: [Operation.IMPORT_BACKEND_AUTH, Operation.IMPORT_BACKEND_STORAGE],
    FaultKind.UNKNOWN_STATUS: [Operation.GET_BACKEND_JOB],
    FaultKind.LATE_404: [Operation.GET_BACKEND_JOB],
    FaultKind.LAG: [Operation.LIST_BACKEND_JOBS],
    FaultKind.EMPTY_PAGES: [Operation.LIST_BACKEND_JOBS],
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(_Model):
    """A token bucket: tokens per second, and how many it holds."""

    rate: Rate
    burst: int = Field(ge=1)


class RateChange(_Model):
    """A change of a bucket's rate, `at_seconds` after the start; without `bucket`, of all rates."""

    at_seconds: Seconds
    rate: Rate
    bucket: BucketName | None = None


class Quota(_Model):
    """The quota of one account in one region. Calls without a bucket are not limited."""

    starts: Bucket | None = None
    reads: Bucket | None = None
    shared: Bucket | None = None
    changes: tuple[RateChange, ...] = ()
    retry_after: RetryAfter = RetryAfter.NONE
    limit_type: str = "REQUESTS_PER_SECOND"
    max_running: int | None = Field(default=None, ge=1)
    # Empty: the answer 429 for too many jobs looks like that for too many calls.
    running_limit_type: str = "CONCURRENT_JOBS"

    @model_validator(mode="after")
    def _buckets_fit(self) -> Self:
        if self.shared and (self.starts or self.reads):
            raise ValueError("a shared bucket excludes starts and reads")
        for change in self.changes:
            if change.bucket and getattr(self, change.bucket) is None:
                raise ValueError(f"changes name the bucket {change.bucket}, which is not given")
        return self


class Account(_Model):
    """One AWS account. Its quota replaces the scenario's quota entirely."""

    access_key_id: str = Field(min_length=1)
    credentials: Credentials = Credentials.OK
    quota: Quota | None = None


class JobSettings(_Model):
    """How long jobs take, and how many of them fail. Both are drawn for each job."""

    min_seconds: Seconds = 0.2
    max_seconds: Seconds = 0.5
    failure_rate: Probability = 0
    failure_messages: tuple[str, ...] = Field(
        default=("The user pool could not be imported.",), min_length=1
    )

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.min_seconds > self.max_seconds:
            raise ValueError("min_seconds is above max_seconds")
        return self


class FaultSettings(_Model):
    """The parameters of the faults."""

    hang_seconds: Seconds = 60
    slow_seconds: Seconds = 1
    lag_seconds: Seconds = 2
    late_404_seconds: Seconds = 2
    empty_pages: int = Field(default=2, ge=1)
    unknown_status: str = "VALIDATING"


class ScriptedFault(_Model):
    """A fault of a scripted target, on the first `times` calls of an operation, or on all.

    The default operation is ImportBackendAuth if it can have the fault, else the one that can.
    """

    kind: FaultKind
    operation: Operation | None = None
    times: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _operation_fits(self) -> Self:
        if self.operation:
            _check_operation(self.kind, self.operation)
        return self

    @property
    def on(self) -> Operation:
        """The operation whose calls have the fault."""
        return self.operation or self.kind.operations[0]


class ScriptedTarget(_Model):
    """A target whose outcome and faults are fixed; without `environment`, all targets of an app.

    It has no random faults. Its own faults apply in the given order, one per call.
    """

    app_id: str
    environment: str | None = None
    outcome: Outcome | None = None
    duration_seconds: Seconds | None = None
    faults: tuple[ScriptedFault, ...] = ()
    # Outputs that GetBackend shows in place of the true ones; if empty, it shows no import at all.
    shown: dict[str, str] | None = None


class Scenario(_Model):
    """A scenario. Every key has a default; with all defaults, there are no faults and no quotas."""

    description: str = ""
    seed: int = 1
    error_names: ErrorNames = ErrorNames.PAGE
    error_code_in: ErrorCodePlace = ErrorCodePlace.HEADER
    pending_conflict_code: ConflictCode = ConflictCode.BAD_REQUEST
    require_known_accounts: bool = False
    ledger_calls: int = Field(default=200_000, ge=1)
    # The environments of each app id; an empty list allows any. Without `apps`, every app exists.
    apps: dict[str, tuple[str, ...]] | None = None
    missing_app_prefixes: tuple[str, ...] = ()
    jobs: JobSettings = JobSettings()
    undocumented: Undocumented = Undocumented()
    quota: Quota = Quota()
    accounts: dict[str, Account] = {}
    faults: dict[Operation, dict[FaultKind, Probability]] = {}
    fault_settings: FaultSettings = FaultSettings()
    targets: tuple[ScriptedTarget, ...] = ()

    @model_validator(mode="after")
    def _faults_fit(self) -> Self:
        for operation, kinds in self.faults.items():
            for kind in kinds:
                _check_operation(kind, operation)
            if sum(p for kind, p in kinds.items() if not kind.is_standing) > 1:
                raise ValueError(f"faults.{operation}: the probabilities add up to more than 1")
        return self

    @model_validator(mode="after")
    def _access_keys_differ(self) -> Self:
        keys = [account.access_key_id for account in self.accounts.values()]
        if len(set(keys)) < len(keys):
            raise ValueError("accounts: two accounts have the same access_key_id")
        return self


def _check_operation(kind: FaultKind, operation: Operation) -> None:
    if operation not in kind.operations:
        raise ValueError(f"{kind} is a fault of {', '.join(kind.operations)}, not of {operation}")
