"""The answer to one call to a remote API, as the adapter has read it.

The engine decides on this alone. It never sees a status code, an SDK exception or a response body.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What an answer means, independent of its wording."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    CONFLICT = "conflict"  # another job is pending on the target
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    # credentials refused or missing, or no call can be sent: an operator must fix the lane
    CREDENTIALS = "credentials"
    CLOCK = "clock"  # signed with a wrong time; the lane itself is fine
    UNREACHABLE = "unreachable"  # no connection, as far as the SDK can tell
    UNKNOWN = "unknown"  # 5xx, timeout, reset or unreadable answer: the call may have taken effect


UNANSWERED: Final = frozenset({Kind.UNREACHABLE, Kind.UNKNOWN})
"""No usable answer: neither the effect of the call nor the lane's limit is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A remote job as the API shows it.

    `created_seconds_ago` is measured on the remote side's clock; None if the job does not show its
    time. The true value may differ by up to `created_within_seconds` in either direction, depending
    on the time's format, which `time_format` names. `updated` is the text of `updateTime`.
    """

    job_id: str = ""
    operation: str = ""
    status: str = ""
    error: str = ""
    created_seconds_ago: float | None = None
    created_within_seconds: float = 0.0
    time_format: str = ""
    updated: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one call.

    `jobs` contains at most one job for a start or a poll, and any number for a list. `error` is one
    printable line for people. `retry_after_seconds` is what the server asked for. `concurrent`
    marks a 429 that is about unfinished jobs. For a poll, `listed` says whether the target's list
    also showed the job; None if no list was read. `mismatch` is how what AWS shows of a target
    differs from what was imported.
    """

    kind: Kind
    jobs: tuple[Job, ...] = ()
    error: str = ""
    limit_type: str = ""
    resource_type: str = ""
    retry_after_seconds: float | None = None
    concurrent: bool = False
    listed: bool | None = None
    mismatch: str = ""

    @property
    def job(self) -> Job:
        """The one job in the answer to a start or a poll; an empty job if there is none."""
        return self.jobs[0] if self.jobs else Job()
