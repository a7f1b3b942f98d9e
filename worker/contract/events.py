"""Models of the events. The scripts write the events; these models describe them for readers.

The attributes are those of CloudEvents 1.0: https://github.com/cloudevents/spec
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from worker.domain.events import EventType

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in UTC, by RFC 3339."""

Count = Annotated[int, Field(ge=0)]
Outcome = Literal["succeeded", "failed", "rejected", "timed_out", "cancelled"]


class _Data(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, serialize_by_alias=True, use_attribute_docstrings=True
    )


class ImportData(_Data):
    """The `data` of the events of an import: the import as it stood at that time."""

    import_id: str
    """The import."""
    app_id: str
    """The Amplify app; `-` if a rejected request names none."""
    backend_environment_name: str
    """The app's backend environment; `-` if a rejected request names none."""
    job_id: str | None
    """AWS's id of the job."""
    operation: str | None
    """What AWS calls the job's operation."""
    status: str | None
    """The job's last status that was seen."""
    error: str | None
    """Why the import did not succeed, or why it needs attention."""
    outcome: Outcome | None
    """How the import ended; `null` while it is under way."""
    attempts: Count
    """How many starts may have taken effect."""
    accepted_at: Time | None
    """When a worker admitted the request."""
    started_at: Time | None
    """When the jobId became known."""
    finished_at: Time | None
    """When the import ended."""
    account: str
    """The AWS profile; `-` if the request is invalid."""
    region: str
    """The AWS region; `-` if the request is invalid."""
    batch_id: str | None
    """The batch."""
    metadata: Mapping[str, str]
    """The request's metadata."""


class BatchCompletedData(_Data):
    """The `data` of `batch.completed`: how many imports ended in each way."""

    batch_id: str
    """The batch."""
    total: Count
    """How many requests the batch has."""
    known: Count
    """How many of them asked for an import of another batch."""
    succeeded: Count
    """Imports that succeeded."""
    failed: Count
    """Imports that failed."""
    rejected: Count
    """Imports that validation or AWS rejected."""
    timed_out: Count = Field(alias="timed_out")
    """Imports that passed their deadline."""
    cancelled: Count
    """Imports that were cancelled."""


class BatchPausedData(_Data):
    """The `data` of `batch.paused`."""

    batch_id: str
    """The batch."""
    reason: str
    """Why it is paused."""


class BatchResumedData(_Data):
    """The `data` of `batch.resumed`."""

    batch_id: str
    """The batch."""


class LanePausedData(_Data):
    """The `data` of `lane.paused`."""

    lane: str
    """The lane: `account/region`."""
    reason: str
    """Why it is paused."""
    probe_at: Time | None
    """When the next probe may follow; `null` if an operator paused the lane."""


class LaneResumedData(_Data):
    """The `data` of `lane.resumed`."""

    lane: str
    """The lane: `account/region`."""


_OTHER_DATA: Final[Mapping[EventType, type[_Data]]] = {
    EventType.BATCH_COMPLETED: BatchCompletedData,
    EventType.BATCH_PAUSED: BatchPausedData,
    EventType.BATCH_RESUMED: BatchResumedData,
    EventType.LANE_PAUSED: LanePausedData,
    EventType.LANE_RESUMED: LaneResumedData,
}
DATA: Final[Mapping[EventType, type[_Data]]] = {
    kind: _OTHER_DATA.get(kind, ImportData) for kind in EventType
}
"""The data of each type of event."""

ATTRIBUTES: Final[Mapping[str, Mapping[str, Any]]] = {
    "specversion": {"const": "1.0"},
    "id": {"type": "string", "minLength": 1, "description": "Two events with one id are the same."},
    "source": {"type": "string", "minLength": 1, "format": "uri-reference"},
    "type": {"type": "string", "description": "Later releases may add types; ignore others."},
    "subject": {
        "type": "string",
        "minLength": 1,
        "description": "The target (`appId/environment`), the batch or the lane.",
    },
    "time": {"type": "string", "format": "date-time", "description": "When it happened, in UTC."},
    "datacontenttype": {"const": "application/json"},
}
"""The attributes that every event has."""

OPTIONAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "dataschema": {
        "type": "string",
        "format": "uri",
        "description": "Names the schema of `data`: the type of the event, and a version that"
        " changes if readers must. Events of older releases lack it.",
    },
    "traceparent": {
        "type": "string",
        "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "The import's place in a trace (W3C Trace Context), if it has one.",
    },
    "tracestate": {
        "type": "string",
        "minLength": 1,
        "description": "What tracing tools add to it, if they do.",
    },
}
"""The attributes that some events have. Traces are CloudEvents' extension for them."""


def dataschema_of(kind: EventType) -> str:
    """Return the URI that names the schema of the data of this type of event."""
    return f"urn:amplify-import-worker:{kind}:1"
