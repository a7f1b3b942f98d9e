"""An import as it stands: the record that the store keeps, and the result that users get."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from worker.domain.errors import ERROR_OF_STATE, ImportEndedError
from worker.domain.requests import DEFAULT_OPERATION
from worker.domain.states import TERMINAL, State
from worker.domain.traces import TraceContext, read_trace

EXPIRED: Final = "expired"
"""Why an import was cancelled that did not start before its task's `expires` (imports.lua)."""

ImportResult = dict[str, Any]
"""The members that `AsyncResult.get()` returns; times are ISO 8601 in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import. Times are milliseconds since the epoch on the store's clock, 0 for not yet.

    `request_json` is empty if the import was rejected because its request is invalid; its target is
    then what could be read of the request. `requested_operation` is the API operation that was
    asked for; `operation` is what the job says it is.

    `listed_jobs` are the jobs that the target had before the first start; None if no list was read.
    `changed_at_ms` is when the job's status or `updated` changed last. `undecided` says why an
    operator must decide about the import, and `unclear_jobs` are the jobs that may be its own.
    `adopted` says that the job was found in a list or named by an operator, not returned by the
    start. `suspicion` says why the job's status may be final.

    `polls` counts those that found the job unfinished.
    `conflicts` is how often the import went behind another job, and `throttled` how often AWS
    answered one of its calls with 429.

    `retry_of` is the import whose request this import retries, and `retried_by` is the import that
    retries this one. `late_outcome` is how the job of an import that timed out or was cancelled
    ended: succeeded, failed, or unknown if AWS no longer knows the job. `verification` is what
    `worker.domain.verification` names; '' if none is wanted. The import may start no
    earlier than `not_before_ms` and no later than `expires_at_ms`. With `ignores_result`, no task
    states are stored. `traceparent`, `tracestate` and `parent_span` are the import's `trace`.
    """

    id: str
    state: State
    app_id: str
    backend_environment_name: str
    account: str
    region: str
    requested_operation: str = DEFAULT_OPERATION
    request_json: str = ""
    batch_id: str = ""
    priority: str = ""
    job_id: str = ""
    operation: str = ""
    status: str = ""
    error: str = ""
    attempts: int = 0
    polls: int = 0
    conflicts: int = 0
    doubts: int = 0
    throttled: int = 0
    stuck: bool = False
    suspicion: str = ""
    updated: str = ""
    doubt: str = ""
    doubt_error: str = ""
    undecided: str = ""
    unclear_jobs: tuple[str, ...] = ()
    adopted: bool = False
    listed_jobs: frozenset[str] | None = None
    late_outcome: str = ""
    late_status: str = ""
    late_error: str = ""
    verification: str = ""
    verification_error: str = ""
    format: int = 0
    accepted_at_ms: int = 0
    first_start_at_ms: int = 0
    last_start_at_ms: int = 0
    started_at_ms: int = 0
    changed_at_ms: int = 0
    finished_at_ms: int = 0
    late_at_ms: int = 0
    retry_of: str = ""
    retried_by: str = ""
    not_before_ms: int = 0
    expires_at_ms: int = 0
    ignores_result: bool = False
    traceparent: str = ""
    tracestate: str = ""
    parent_span: str = ""

    @classmethod
    def from_fields(cls, import_id: str, fields: Mapping[str, str]) -> Self:
        """Build from the text fields of a stored record; unknown fields are ignored."""
        numbers = {name: int(float(fields.get(name) or 0)) for name in _NUMBERS}
        texts = {name: fields.get(name, "") for name in _TEXTS}
        return cls(
            id=import_id,
            state=State(fields["state"]),
            requested_operation=fields.get("requested_operation", DEFAULT_OPERATION),
            stuck=fields.get("stuck") == "1",
            adopted=fields.get("adopted") == "1",
            ignores_result=fields.get("ignores_result") == "1",
            unclear_jobs=tuple(json.loads(fields.get("unclear_jobs", "[]"))),
            listed_jobs=_ids_in(fields.get("listed_jobs")),
            **texts,  # type: ignore[arg-type]  # keys and types are those of the two tuples
            **numbers,  # type: ignore[arg-type]
        )

    @property
    def members(self) -> dict[str, Any]:
        """The members that the producer sent; of a rejected one, what is known of the target."""
        if self.request_json:
            return dict(json.loads(self.request_json))
        return {"appId": self.app_id, "backendEnvironmentName": self.backend_environment_name}

    @property
    def deadline_seconds(self) -> float | None:
        """The deadline in the request, if it has one."""
        return self.members.get("deadlineSeconds")

    @property
    def target(self) -> str:
        """The target as people read it and as events name it in `subject`."""
        return f"{self.app_id}/{self.backend_environment_name}"

    @property
    def lane(self) -> str:
        """The lane whose limits the import's calls count against."""
        return f"{self.account}/{self.region}"

    @property
    def trace(self) -> TraceContext | None:
        """The import's place in a trace; None if it belongs to none."""
        return read_trace(self.traceparent, self.tracestate, self.parent_span)

    @property
    def is_terminal(self) -> bool:
        """Whether the import is over."""
        return self.state in TERMINAL

    @property
    def has_expired(self) -> bool:
        """Whether the import was cancelled because it did not start in time."""
        return self.state is State.CANCELLED and self.error == EXPIRED and self.expires_at_ms > 0

    @property
    def retry_id(self) -> str:
        """The id of the import that retries this one: the first import's id, and a number."""
        return self._retry_name(self.id)

    @property
    def retry_batch_id(self) -> str:
        """The batch of the import that retries this one; '' if this one has none."""
        return self._retry_name(self.batch_id) if self.batch_id else ""

    def _retry_name(self, name: str) -> str:
        # A name that only looks like that of a retry was chosen by a producer.
        earlier = _RETRY.match(name) if self.retry_of else None
        if earlier is None:
            return f"{name}:retry-1"
        return f"{earlier['root']}:retry-{int(earlier['number']) + 1}"

    def result(self) -> ImportResult:
        """Return the import's result; `outcome` is None while the import is under way."""
        return {
            "importId": self.id,
            "appId": self.app_id,
            "backendEnvironmentName": self.backend_environment_name,
            "jobId": self.job_id or None,
            "operation": self.operation or None,
            "status": self.status or None,
            "error": self.error or None,
            "outcome": self.state.value if self.is_terminal else None,
            "attempts": self.attempts,
            "acceptedAt": iso_time(self.accepted_at_ms),
            "startedAt": iso_time(self.started_at_ms),
            "finishedAt": iso_time(self.finished_at_ms),
        }

    def ended_error(self) -> ImportEndedError | None:
        """Return the error that the import's task fails with; None unless it did not succeed."""
        kind = ERROR_OF_STATE.get(self.state)
        if kind is None:
            return None
        job = f" (job {self.job_id})" if self.job_id else ""
        return kind(f"{self.target}{job} {self.state.value}: {self.error or 'no reason given'}")


_NUMBERS = (
    "attempts",
    "polls",
    "conflicts",
    "doubts",
    "throttled",
    "format",
    "accepted_at_ms",
    "first_start_at_ms",
    "last_start_at_ms",
    "started_at_ms",
    "changed_at_ms",
    "finished_at_ms",
    "late_at_ms",
    "not_before_ms",
    "expires_at_ms",
)
_TEXTS = (
    "app_id",
    "backend_environment_name",
    "account",
    "region",
    "request_json",
    "batch_id",
    "priority",
    "job_id",
    "operation",
    "status",
    "error",
    "suspicion",
    "updated",
    "doubt",
    "doubt_error",
    "undecided",
    "late_outcome",
    "late_status",
    "late_error",
    "verification",
    "verification_error",
    "retry_of",
    "retried_by",
    "traceparent",
    "tracestate",
    "parent_span",
)
_RETRY = re.compile(r"^(?P<root>.*):retry-(?P<number>\d+)$")


def _ids_in(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(json.loads(text))


def iso_time(milliseconds: int) -> str | None:
    """Return a time in ISO 8601, UTC, to the millisecond; None for 0."""
    if not milliseconds:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
