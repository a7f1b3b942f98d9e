"""The catalogue's second part: the metrics of the whole store. They are read at each scrape."""

from typing import Final

from worker.metrics.catalogue import Metric, Type

STORE_UP: Final = Metric(
    "imports_store_up",
    Type.GAUGE,
    "1 if the store answered this scrape, else 0; the other metrics of the store are absent then.",
)
WAITING: Final = Metric(
    "imports_waiting",
    Type.GAUGE,
    "Imports that wait for their turn in the lane. Imports that wait for another import of their"
    " target, or that their batch holds back, are not counted.",
    ("lane", "priority"),
)
DELAYED: Final = Metric(
    "imports_delayed",
    Type.GAUGE,
    "Imports that may not start before a certain time: after a failed start, or by `eta`.",
    ("lane",),
)
OLDEST_WAITING: Final = Metric(
    "imports_oldest_waiting_seconds",
    Type.GAUGE,
    "Time since the admission of the oldest of the imports that are next to start; 0 if none"
    " waits.",
    ("lane",),
)
RUNNING: Final = Metric(
    "imports_running",
    Type.GAUGE,
    "Imports that are being started, that run, or whose start has an unknown outcome.",
    ("lane",),
)
RUNNING_LIMIT: Final = Metric(
    "imports_lane_running_limit",
    Type.GAUGE,
    "How many imports may run in the lane at once: the configured `max_running` or AWS's ceiling"
    " of unfinished jobs, whichever is lower. `+Inf` if neither is known.",
    ("lane",),
)
POLL_LAG: Final = Metric(
    "imports_poll_lag_seconds",
    Type.GAUGE,
    "For how long the most overdue poll or reconciliation of the lane has been due.",
    ("lane",),
)
PAUSED: Final = Metric(
    "imports_lane_paused",
    Type.GAUGE,
    "1 if the lane is paused, else 0. Of `other`, the number of paused lanes.",
    ("lane", "by"),
)
START_LIMIT: Final = Metric(
    "imports_lane_start_limit_per_second",
    Type.GAUGE,
    "The limit of the lane's starts: set by an operator, configured, or learned. Absent if it is"
    " unknown. In a lane with one limit for all calls, that limit.",
    ("lane",),
)
START_PACE: Final = Metric(
    "imports_lane_start_pace_per_second",
    Type.GAUGE,
    "The rate at which the lane allows starts now.",
    ("lane",),
)
EVENTS: Final = Metric("imports_events_stream_length", Type.GAUGE, "Entries in the event stream.")
GROUP_LAG: Final = Metric(
    "imports_events_group_lag",
    Type.GAUGE,
    "Events that were not delivered to the consumer group. Absent if the server does not know.",
    ("group",),
)
GROUP_PENDING: Final = Metric(
    "imports_events_group_pending",
    Type.GAUGE,
    "Events that were delivered to the consumer group and not acknowledged.",
    ("group",),
)
UNDELIVERED: Final = Metric(
    "imports_requests_undelivered",
    Type.GAUGE,
    "Requests in the requests stream that no worker has read.",
)
UNADMITTED: Final = Metric(
    "imports_requests_pending",
    Type.GAUGE,
    "Requests in the requests stream that a worker has read and not admitted yet.",
)
UNFINISHED: Final = Metric(
    "imports_tasks_unfinished",
    Type.GAUGE,
    "Ended imports whose Celery tasks have not finished.",
)
BATCH_IMPORTS: Final = Metric(
    "imports_batch_imports", Type.GAUGE, "Imports of the batch.", ("batch", "state")
)
BATCH_HELD: Final = Metric(
    "imports_batch_held",
    Type.GAUGE,
    "Imports of the batch that wait for its canaries, its schedule or its resume.",
    ("batch",),
)
BATCH_LEFT: Final = Metric(
    "imports_batch_left",
    Type.GAUGE,
    "Requests of the batch that are not over, or that were announced and have not arrived.",
    ("batch",),
)
BATCH_PAUSED: Final = Metric(
    "imports_batch_paused",
    Type.GAUGE,
    "1 if a stop rule or an operator paused the batch, else 0.",
    ("batch",),
)
BATCH_SCHEDULED: Final = Metric(
    "imports_batch_scheduled",
    Type.GAUGE,
    "1 while imports of the batch wait for a time at which its schedule lets them start, else 0.",
    ("batch",),
)
SINK_WAITING: Final = Metric(
    "imports_sink_waiting",
    Type.GAUGE,
    "Events in the stream that have not been settled for the sink.",
    ("sink",),
)
SINK_OLDEST: Final = Metric(
    "imports_sink_oldest_waiting_seconds",
    Type.GAUGE,
    "Age of the oldest event that has not been settled for the sink; 0 if there is none.",
    ("sink",),
)
SINK_PARKED: Final = Metric(
    "imports_sink_parked", Type.GAUGE, "Events that the sink has refused and that wait.", ("sink",)
)
SINK_LOST: Final = Metric(
    "imports_sink_lost",
    Type.GAUGE,
    "Events that were lost to the sink since it was first served: trimmed off the stream before"
    " they were sent, or dropped because too many were parked.",
    ("sink",),
)
SINK_DISABLED: Final = Metric(
    "imports_sink_disabled",
    Type.GAUGE,
    "1 if the sink wants no more events and waits for `amplify-import sinks enable`, else 0.",
    ("sink",),
)
SINK_SERVED: Final = Metric(
    "imports_sink_served", Type.GAUGE, "1 if a relay serves the sink, else 0.", ("sink",)
)

STORE: Final = (
    STORE_UP,
    WAITING,
    DELAYED,
    OLDEST_WAITING,
    RUNNING,
    RUNNING_LIMIT,
    POLL_LAG,
    PAUSED,
    START_LIMIT,
    START_PACE,
    EVENTS,
    GROUP_LAG,
    GROUP_PENDING,
    UNDELIVERED,
    UNADMITTED,
    UNFINISHED,
    SINK_WAITING,
    SINK_OLDEST,
    SINK_PARKED,
    SINK_LOST,
    SINK_DISABLED,
    SINK_SERVED,
)

BATCHES: Final = (BATCH_IMPORTS, BATCH_HELD, BATCH_LEFT, BATCH_PAUSED, BATCH_SCHEDULED)
"""The metrics of single batches. Only `amplify-import metrics --batches` shows them."""
