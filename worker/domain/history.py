"""What happened to an import, as the store keeps it for people to read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from worker.domain.imports import Import


class What(StrEnum):
    """What may happen to an import. Its end has the name of its final state."""

    ACCEPTED = "accepted"
    HELD = "held"
    RELEASED = "released"
    PARKED = "parked"
    START = "start"
    THROTTLED = "throttled"
    CONFLICT = "conflict"
    LANE_PAUSED = "lane_paused"
    GIVEN_BACK = "given_back"
    UNCHECKED = "unchecked"
    LISTING = "listing"
    DOUBT = "doubt"
    UNDECIDED = "undecided"
    RESOLVED = "resolved"
    FOUND = "found"
    NOT_STARTED = "not_started"
    RETRY = "retry"
    SILENT = "silent"
    RUNNING = "running"
    STUCK = "stuck"
    SUSPECTED = "suspected"
    CANCEL_ASKED = "cancel_asked"
    RETRIED = "retried"
    LATE = "late"
    UNVERIFIED = "unverified"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened, `times` in a row: first at `since_ms`, last at `at_ms`.

    Times are milliseconds on the store's clock. `what` is a text, because a newer worker may note
    things that this one does not know. `details` are what else was noted, depending on `what`.
    """

    at_ms: int
    what: str
    times: int = 1
    since_ms: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from a stored line."""
        details = json.loads(text)
        at_ms = int(details.pop("at"))
        return cls(
            at_ms=at_ms,
            what=details.pop("what"),
            times=details.pop("times", 1),
            since_ms=int(details.pop("since", at_ms)),
            details=details,
        )


def lines_shown_by(item: Import) -> list[Line]:
    """Return the history of an import to which nothing unusual happened: its record shows it."""
    job = {"job_id": item.job_id} if item.job_id else {}
    error = {"error": item.error} if item.error else {}
    retry_of = {"retry_of": item.retry_of} if item.retry_of else {}
    lines = [_line(item.accepted_at_ms, What.ACCEPTED, **retry_of)]
    if item.last_start_at_ms:
        lines.append(_line(item.last_start_at_ms, What.START, attempt=item.attempts))
    if item.started_at_ms not in {0, item.finished_at_ms}:
        lines.append(_line(item.started_at_ms, What.RUNNING, **job))
    if item.is_terminal:
        lines.append(_line(item.finished_at_ms, item.state.value, **error, **job))
    return lines


def _line(at_ms: int, what: str, **details: Any) -> Line:
    return Line(at_ms=at_ms, what=what, since_ms=at_ms, details=details)
