"""What one call to a remote API came back with, after the adapter has read it.

The engine decides on these alone; it never sees a status code's quirks, an SDK exception or text.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What an answer means, whatever its wording."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    CONFLICT = "conflict"  # another job is pending on the target
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"  # refused or missing, or nothing can be sent: mend the lane
    CLOCK = "clock"  # signed at a wrong time: nothing about the lane is wrong
    UNREACHABLE = "unreachable"  # no connection, as far as the SDK can tell
    UNKNOWN = "unknown"  # 5xx, time-out, reset, unreadable: it may have taken effect


UNANSWERED: Final = frozenset({Kind.UNREACHABLE, Kind.UNKNOWN})
"""No answer, or none that makes sense: nothing is known of the call, nor of its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A remote job as the API shows it.

    `created_seconds_ago` is on the remote side's own clock, None where the job does not tell;
    `created_within_seconds` is how far off it may be either way, as the time is written, and
    `time_format` names how. `updated` is the text of `updateTime`.
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
    """The answer to one call. `jobs` holds one job for a start or a poll, any number for a list.

    `error` is one printable line for people; `retry_after_seconds` is the server's own wish;
    `concurrent` says of a 429 that it speaks of unfinished jobs; `listed` says of a poll whether
    the target's list showed the job as well, None where the list was not asked.
    """

    kind: Kind
    jobs: tuple[Job, ...] = ()
    error: str = ""
    limit_type: str = ""
    resource_type: str = ""
    retry_after_seconds: float | None = None
    concurrent: bool = False
    listed: bool | None = None

    @property
    def job(self) -> Job:
        """The one job of a start's or a poll's answer; an empty one where there is none."""
        return self.jobs[0] if self.jobs else Job()
