"""The catalogue of all metrics: names, types, labels, and what they mean.

`docs/reference/metrics.md` is made from it. No label holds an import id, a target or a message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from worker.domain.claims import Call
from worker.domain.states import TERMINAL
from worker.operations.registry import OPERATIONS


class Type(StrEnum):
    """The type of a metric, as Prometheus knows it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram, in its unit."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


LANES_SHOWN: Final = 200
LIMIT_TYPES_SHOWN: Final = 10
GROUPS_SHOWN: Final = 50
OTHER: Final = "other"
"""The label of everything beyond these numbers."""

LABELS: Final[Mapping[str, str]] = {
    "operation": "The API operation that the request asks for.",
    "outcome": "The state in which the import ended.",
    "state": "The state of the import.",
    "call": (
        "`start`, `poll`, or `reconcile`. Of calls to AWS, `reconcile` is one request for a page"
        " of a job list, whatever the list is for."
    ),
    "status": (
        "The class of the HTTP status: `2xx`, `3xx`, `4xx` without 429, `429`, `5xx`; `none` if"
        " there was no answer or the call could not be sent."
    ),
    "lane": f"The lane, `account/region`. After {LANES_SHOWN} lanes, `{OTHER}`.",
    "batch": "The id of a batch.",
    "limit_type": (
        f"The limit that AWS named; `none` if it named none. After {LIMIT_TYPES_SHOWN}, `{OTHER}`."
    ),
    "method": "The method of the AWS SDK, such as `receive_message`.",
    "script": "The name of a Lua script in `worker/store/scripts`.",
    "step": "What was to be announced: `waiting`, `running` or `ended`.",
    "part": "The part of the worker that its watchdog watches.",
    "priority": "`high`, `normal` or `low`.",
    "by": "`operator`, or `worker` if the lane was paused automatically.",
    "sink": "The name of a sink, from the sinks file.",
    "result": "`delivered`, `parked`, or `skipped` if the sink does not want the event.",
    "fault": (
        "What may have been at fault: `event`, `sink`, or `unclear`. See"
        " [Send events on](../guides/sinks.md#failures)."
    ),
    "route": f"A path of the HTTP server, as its OpenAPI document has it; `{OTHER}` for all else.",
    "code": "The HTTP status of an answer; `none` if the client was gone before.",
    "group": (f"A consumer group of the event stream. After {GROUPS_SHOWN} groups, `{OTHER}`."),
}

KNOWN_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "operation": tuple(OPERATIONS.tasks),
    "outcome": tuple(sorted(TERMINAL)),
    "call": tuple(Call),
    "step": ("waiting", "running", "ended"),
}
"""Labels all of whose values are known. Their counters exist from the beginning, with 0."""

_CALL_SECONDS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SCRIPT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_DELAY_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_IMPORT_SECONDS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)

ACCEPTED: Final = Metric(
    "imports_accepted_total",
    Type.COUNTER,
    "Imports that this worker admitted. Those of `amplify-import retry` are not counted.",
    ("operation",),
)
ENDED: Final = Metric(
    "imports_ended_total",
    Type.COUNTER,
    "Imports that ended. Each is counted once: by the worker that recorded the end, or, if a"
    " command ended it or it expired, by the first worker that learned of it.",
    ("outcome", "operation"),
)
DURATION: Final = Metric(
    "imports_duration_seconds",
    Type.HISTOGRAM,
    "Time from admission to the end of an import. Imports that were rejected at admission are not"
    " observed.",
    ("outcome",),
    _IMPORT_SECONDS,
)
JOB_DURATION: Final = Metric(
    "imports_job_duration_seconds",
    Type.HISTOGRAM,
    "Time from the first start of an import to its end. Imports that never started are not"
    " observed.",
    ("outcome",),
    _IMPORT_SECONDS,
)
POLL_DELAY: Final = Metric(
    "imports_poll_delay_seconds",
    Type.HISTOGRAM,
    "Time from when a poll or reconciliation fell due to its claim. Those of imports that have"
    " ended, whose jobs continue, are not observed.",
    buckets=_DELAY_SECONDS,
)
CALLS: Final = Metric(
    "imports_aws_calls_total",
    Type.COUNTER,
    "HTTP requests to AWS.",
    ("call", "status", "lane"),
)
CALL_SECONDS: Final = Metric(
    "imports_aws_call_seconds",
    Type.HISTOGRAM,
    "Duration of HTTP requests to AWS, including the time to find credentials and to connect.",
    ("call",),
    _CALL_SECONDS,
)
THROTTLED: Final = Metric(
    "imports_throttled_total",
    Type.COUNTER,
    "Claims that AWS answered with a 429.",
    ("lane", "limit_type"),
)
PAUSES: Final = Metric(
    "imports_lane_pauses_total",
    Type.COUNTER,
    "Times that an answer to this worker paused a lane automatically.",
    ("lane",),
)
RESUMES: Final = Metric(
    "imports_lane_resumes_total",
    Type.COUNTER,
    "Times that an answer to this worker's probe resumed a lane.",
    ("lane",),
)
CLAIMS: Final = Metric(
    "imports_claims_total", Type.COUNTER, "Claims that this worker made.", ("call",)
)
EXPIRED_LEASES: Final = Metric(
    "imports_expired_leases_total",
    Type.COUNTER,
    "Claims of any worker whose lease ended without an answer, and which this worker took over.",
)
LOST_CLAIMS: Final = Metric(
    "imports_lost_claims_total",
    Type.COUNTER,
    "Answers that this worker could not record, because its claim had ended.",
)
RECONCILIATIONS: Final = Metric(
    "imports_reconciliations_total",
    Type.COUNTER,
    "Claims to list a target's jobs that were carried out, also those before a first start.",
)
ADOPTIONS: Final = Metric(
    "imports_adoptions_total",
    Type.COUNTER,
    "Jobs that were found in a list and taken for an import's own.",
)
SCRIPT_SECONDS: Final = Metric(
    "imports_script_seconds",
    Type.HISTOGRAM,
    "Duration of the store's scripts that replied, including the round trip and the time to wait"
    " for a connection or for replicas.",
    ("script",),
    _SCRIPT_SECONDS,
)
SQS_CALLS: Final = Metric(
    "imports_sqs_calls_total",
    Type.COUNTER,
    "Calls to the queue in `IMPORTS_SQS_REQUESTS_URL`.",
    ("method", "status"),
)
SQS_MESSAGES: Final = Metric(
    "imports_sqs_received_total",
    Type.COUNTER,
    "Messages that this worker received from that queue, also those that were delivered again.",
)
SQS_FAILING: Final = Metric(
    "imports_sqs_failing_seconds",
    Type.GAUGE,
    "For how long calls to that queue have failed; 0 if they succeed. Absent without a queue.",
)
ANNOUNCEMENT_FAILURES: Final = Metric(
    "imports_announcement_failures_total",
    Type.COUNTER,
    "Announcements to Celery that failed. Ends are announced again until the task has finished.",
    ("step",),
)
LOST_MEASUREMENTS: Final = Metric(
    "imports_lost_measurements_total",
    Type.COUNTER,
    "Measurements of pool processes that did not reach the main process, which serves the metrics.",
)
IN_FLIGHT: Final = Metric(
    "imports_calls_in_flight", Type.GAUGE, "Claims that this worker is carrying out."
)
IN_FLIGHT_LIMIT: Final = Metric(
    "imports_calls_in_flight_limit", Type.GAUGE, "How many it may carry out at once."
)
LOOP_LAG: Final = Metric(
    "imports_event_loop_lag_seconds",
    Type.GAUGE,
    "How late the event loop ran its last timer, or how late the next one is. One timer is due"
    " each second.",
)
SILENCE: Final = Metric(
    "imports_progress_age_seconds",
    Type.GAUGE,
    "Time since a part made progress. The worker ends itself when this reaches two leases, and 90"
    " seconds at least.",
    ("part",),
)
CONTACT: Final = Metric(
    "imports_store_contact_age_seconds",
    Type.GAUGE,
    "Time since the store answered a script of this worker. Absent until the first answer.",
)

WORKER: Final = (
    ACCEPTED,
    ENDED,
    DURATION,
    JOB_DURATION,
    POLL_DELAY,
    CALLS,
    CALL_SECONDS,
    THROTTLED,
    PAUSES,
    RESUMES,
    CLAIMS,
    EXPIRED_LEASES,
    LOST_CLAIMS,
    RECONCILIATIONS,
    ADOPTIONS,
    SCRIPT_SECONDS,
    SQS_CALLS,
    SQS_MESSAGES,
    SQS_FAILING,
    ANNOUNCEMENT_FAILURES,
    LOST_MEASUREMENTS,
    IN_FLIGHT,
    IN_FLIGHT_LIMIT,
    LOOP_LAG,
    SILENCE,
    CONTACT,
)
"""What each worker counts and measures itself."""

BY_NAME: Final = {metric.name: metric for metric in WORKER}
