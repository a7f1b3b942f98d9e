"""The catalogue's fourth part: the metrics of an HTTP server."""

from typing import Final

from worker.metrics.catalogue import Metric, Type

ANSWERS: Final = Metric(
    "imports_http_answers_total",
    Type.COUNTER,
    "Requests that this server answered, except for probes. Streams count when they end.",
    ("route", "code"),
)
ANSWER_SECONDS: Final = Metric(
    "imports_http_answer_seconds",
    Type.HISTOGRAM,
    "Time from the header of a request to the end of its answer. Streams are not observed.",
    ("route",),
    (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STREAMS: Final = Metric("imports_http_streams", Type.GAUGE, "Event streams that are open.")

HTTP: Final = (ANSWERS, ANSWER_SECONDS, STREAMS)
"""What each HTTP server counts and measures itself."""
