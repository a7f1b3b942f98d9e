"""What the clients return."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

from pydantic.alias_generators import to_camel

from worker.domain.imports import Import
from worker.domain.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """An import as it stands. What is not known (yet) is None.

    `outcome` is None while the import is under way, and else one of `succeeded`, `failed`,
    `rejected`, `timed_out` and `cancelled`. `operation` and `status` are AWS's words for the job.
    """

    import_id: str
    app_id: str
    backend_environment_name: str
    job_id: str | None
    operation: str | None
    status: str | None
    error: str | None
    outcome: State | None
    attempts: int
    accepted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    state: State
    account: str
    region: str
    batch_id: str | None
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, item: Import) -> Self:
        """Build from the store's record."""
        return cls(
            import_id=item.id,
            app_id=item.app_id,
            backend_environment_name=item.backend_environment_name,
            job_id=item.job_id or None,
            operation=item.operation or None,
            status=item.status or None,
            error=item.error or None,
            outcome=item.state if item.is_terminal else None,
            attempts=item.attempts,
            accepted_at=_time(item.accepted_at_ms),
            started_at=_time(item.started_at_ms),
            finished_at=_time(item.finished_at_ms),
            state=item.state,
            account=item.account,
            region=item.region,
            batch_id=item.batch_id or None,
            metadata=item.members.get("metadata", {}),
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object with the names of the contract."""
        members = ((to_camel(each.name), getattr(self, each.name)) for each in fields(self))
        return {
            name: _iso_time(value) if isinstance(value, datetime) else value
            for name, value in members
        }

    @property
    def succeeded(self) -> bool:
        """Whether the import has ended, and its job succeeded."""
        return self.outcome is State.SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of the stream `imports:events`, a CloudEvent (docs/reference/events.md).

    `position` is its place in the stream, from which reading can resume. Two events with the same
    `source` and `id` are the same. `type` is one of `EventType`, or one of a later release. `data`
    has the members of the event's type, with the names of the contract.
    """

    position: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: Mapping[str, Any]

    @classmethod
    def of(cls, position: str, event: Mapping[str, Any]) -> Self:
        """Build from the JSON object of an entry of the stream."""
        return cls(
            position=position,
            id=event["id"],
            source=event["source"],
            type=event["type"],
            subject=event["subject"],
            time=datetime.fromisoformat(event["time"]),
            data=event["data"],
        )


def _time(milliseconds: int) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC) if milliseconds else None


def _iso_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
