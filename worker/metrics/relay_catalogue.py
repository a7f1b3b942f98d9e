"""The catalogue's third part: the metrics of a relay."""

from typing import Final

from worker.metrics.catalogue import CONTACT, SCRIPT_SECONDS, Metric, Type

SENT: Final = Metric(
    "imports_relay_events_total",
    Type.COUNTER,
    "Events that this relay has settled: the sink has them, or does not want them by its"
    " configuration, or they were parked.",
    ("sink", "result"),
)
FAILURES: Final = Metric(
    "imports_relay_failures_total",
    Type.COUNTER,
    "Attempts to send an event that failed. Each is made again, or the event is parked.",
    ("sink", "fault"),
)
SEND_SECONDS: Final = Metric(
    "imports_relay_send_seconds",
    Type.HISTOGRAM,
    "Duration of calls to the sink, each with one event or several.",
    ("sink",),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
LOST: Final = Metric(
    "imports_relay_lost_events_total",
    Type.COUNTER,
    "Events that were trimmed off the stream before they were sent, noticed by this relay.",
    ("sink",),
)
SERVED: Final = Metric(
    "imports_relay_serves", Type.GAUGE, "1 for each sink that this relay serves now.", ("sink",)
)

RELAY: Final = (SENT, FAILURES, SEND_SECONDS, LOST, SERVED, SCRIPT_SECONDS, CONTACT)
"""What each relay counts and measures itself."""
