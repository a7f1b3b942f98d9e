"""Scenarios: all that the sandbox can be told, as checked models.

Owns the keys and their bounds; reads no files (see `loader`) and decides nothing at run time.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.sandbox.api import Operation
from worker.sandbox.undocumented import Probability, Seconds, Undocumented

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ErrorNames(StrEnum):
    """Whose names the error codes bear."""

    PAGE = "page"
    BOTOCORE = "botocore"
    NONE = "none"


class ErrorCodePlace(StrEnum):
    """Where in the answer the error code is put."""

    HEADER = "header"
    HEADER_URL = "header-url"
    CODE = "code"
    TYPE = "type"
    NOWHERE = "nowhere"


class ConflictCode(StrEnum):
    """The code of the 400 that answers an import while another one is pending."""

    BAD_REQUEST = "BadRequestException"
    VALIDATION = "ValidationException"


class RetryAfter(StrEnum):
    """How a 429 says when to come back."""

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
    """What an account's credentials are worth."""

    OK = "ok"
    EXPIRED = "expired"
    DENIED = "denied"


class Outcome(StrEnum):
    """What becomes of an import of a scripted target."""

    SUCCEED = "succeed"
    FAIL = "fail"
    NEVER = "never"
    REJECT = "reject"
    NOT_FOUND = "not_found"


class FaultKind(StrEnum):
    """What may go wrong with a call; see `faults` for what each one does."""

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
    def only_operation(self) -> Operation | None:
        """The one operation that can have this fault; None: all can."""
        return _ONLY_OPERATION.get(self)

    @property
    def is_standing(self) -> bool:
        """Whether it hides young jobs from a target's calls, beside any fault of a single call."""
        return self in {FaultKind.LATE_404, FaultKind.LAG}


_ONLY_OPERATION: Mapping[FaultKind, Operation] = {
    FaultKind.NO_JOB_ID: Operation.IMPORT_BACKEND_AUTH,
    FaultKind.UNKNOWN_STATUS: Operation.GET_BACKEND_JOB,
    FaultKind.LATE_404: Operation.GET_BACKEND_JOB,
    FaultKind.LAG: Operation.LIST_BACKEND_JOBS,
    FaultKind.EMPTY_PAGES: Operation.LIST_BACKEND_JOBS,
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bucket(_Model):
    """A token bucket: tokens a second, and how many it holds."""

    rate: Rate
    burst: int = Field(ge=1)


class RateChange(_Model):
    """From `at_seconds` after the start on, the bucket (all, if unnamed) refills at `rate`."""

    at_seconds: Seconds
    rate: Rate
    bucket: BucketName | None = None


class Quota(_Model):
    """What one account may do in one region; a bucket that is not given does not limit."""

    starts: Bucket | None = None
    reads: Bucket | None = None
    shared: Bucket | None = None
    changes: tuple[RateChange, ...] = ()
    retry_after: RetryAfter = RetryAfter.NONE
    limit_type: str = "REQUESTS_PER_SECOND"
    max_running: int | None = Field(default=None, ge=1)
    # Empty: the 429 for too many jobs looks like any other.
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
    """One AWS account; its quota replaces the scenario's as a whole."""

    access_key_id: str = Field(min_length=1)
    credentials: Credentials = Credentials.OK
    quota: Quota | None = None


class JobSettings(_Model):
    """How long jobs take and how many fail; drawn per job."""

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
    """The sizes of the faults."""

    hang_seconds: Seconds = 60
    slow_seconds: Seconds = 1
    lag_seconds: Seconds = 2
    late_404_seconds: Seconds = 2
    empty_pages: int = Field(default=2, ge=1)
    unknown_status: str = "VALIDATING"


class ScriptedFault(_Model):
    """A fault of a scripted target: on its first `times` calls, or on all of them.

    The operation defaults to the only one that can have the fault, else to ImportBackendAuth.
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
        return self.operation or self.kind.only_operation or Operation.IMPORT_BACKEND_AUTH


class ScriptedTarget(_Model):
    """One target (or, without environment, all of one app) whose fate is not left to chance.

    Faults by chance pass it by. Its own apply in the order given, one to a call.
    """

    app_id: str
    environment: str | None = None
    outcome: Outcome | None = None
    duration_seconds: Seconds | None = None
    faults: tuple[ScriptedFault, ...] = ()


class Scenario(_Model):
    """All that the sandbox can be told. Every key has a default; {} is a well-behaved API."""

    description: str = ""
    seed: int = 1
    error_names: ErrorNames = ErrorNames.PAGE
    error_code_in: ErrorCodePlace = ErrorCodePlace.HEADER
    pending_conflict_code: ConflictCode = ConflictCode.BAD_REQUEST
    require_known_accounts: bool = False
    ledger_calls: int = Field(default=200_000, ge=1)
    # App id to environments, none meaning any; without the table every app exists.
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
    if kind.only_operation not in {None, operation}:
        raise ValueError(f"{kind} is a fault of {kind.only_operation}, not of {operation}")
