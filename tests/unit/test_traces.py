"""Traces without a collector: what is read of headers, which spans are written, what is logged."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from worker.domain.claims import Call, Claim
from worker.domain.events import EventType
from worker.domain.imports import Import
from worker.domain.states import State
from worker.domain.traces import TraceContext, own_span_id, read_trace
from worker.engine.tracing import carrying_out, trace_fields
from worker.tracing import switch
from worker.tracing.export import SAID_AGAIN_SECONDS, Seldom
from worker.tracing.spans import Ids, Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"
ITEM = Import(
    id="i1",
    state=State.SUCCEEDED,
    app_id="d1",
    backend_environment_name="staging",
    account="acme",
    region="eu-west-1",
    accepted_at_ms=1_000,
    first_start_at_ms=3_000,
    finished_at_ms=9_000,
    traceparent=GIVEN,
)


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (GIVEN, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
    ],
)
def test_a_traceparent_is_read(header: str, flags: int) -> None:
    trace = read_trace(header)
    assert trace == TraceContext(trace_id=TRACE, span_id=SPAN, flags=flags)
    assert trace.traceparent == f"00-{TRACE}-{SPAN}-{flags:02x}"
    assert trace.is_sampled == bool(flags & 1)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        7,
        [GIVEN],
        GIVEN.encode(),
        GIVEN.upper(),
        f" {GIVEN}",
        f"{GIVEN}\n",
        f"{GIVEN}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        "x" * 100_000,
    ],
)
def test_an_invalid_traceparent_is_ignored(header: object) -> None:
    assert read_trace(header, "a=b") is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("vendor=value", True),
        ("a=1, b=2 ,,c=x y", True),
        ("tenant@system=1,t/z_-*=1", True),
        ("", False),
        (None, False),
        (["a=1"], False),
        (",", False),
        ("novalue", False),
        ("a=", False),
        ("A=1", False),
        ("a=ü", False),
        ("a=1=2", False),
        ("a=1\r\nb=2", False),
        (",".join(f"k{n}=1" for n in range(33)), False),
        (f"a={'x' * 512}", False),
    ],
)
def test_an_invalid_tracestate_counts_as_missing(state: object, *, kept: bool) -> None:
    trace = read_trace(GIVEN, state)
    assert trace
    assert trace.state == (state if kept else "")


def test_a_record_carries_its_trace() -> None:
    fields = {
        "state": "waiting",
        "app_id": "d1",
        "traceparent": GIVEN,
        "tracestate": "a=1",
        "parent_span": "aa",
    }
    trace = Import.from_fields("i1", fields).trace
    assert trace == TraceContext(trace_id=TRACE, span_id=SPAN, flags=1, state="a=1", parent_id="aa")
    assert trace_fields(ITEM) == {"trace_id": TRACE, "span_id": SPAN}
    assert trace_fields(replace(ITEM, traceparent="")) == {}


class Written:
    """Spans that are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._ids = Ids()
        self._provider = TracerProvider(id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(self._provider.get_tracer("tests"), self._ids, "tests")

    def all(self) -> dict[str, ReadableSpan]:
        """Return what was written since the last call, by name."""
        found = {span.name: span for span in self._exporter.get_finished_spans()}
        self._exporter.clear()
        return found


@pytest.fixture
def written() -> Written:
    return Written()


def parent_of(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def stored(trace: TraceContext | None, item: Import = ITEM) -> Import:
    """Return an import with a trace as its record has it."""
    assert trace
    return replace(
        item,
        traceparent=trace.traceparent,
        tracestate=trace.state,
        parent_span=trace.parent_id,
    )


def test_a_new_import_has_a_span_of_its_own_below_the_producers(written: Written) -> None:
    trace = written.spans.begin("i1", read_trace(GIVEN, "a=1"))
    assert (trace.trace_id, trace.span_id, trace.parent_id) == (TRACE, own_span_id("i1"), SPAN)
    assert (trace.is_sampled, trace.state) == (True, "a=1")
    assert written.all() == {}, "its span is written at its end"
    written.spans.ended(stored(trace))
    spans = written.all()
    own, wait = spans["import"], spans["wait"]
    assert own.context
    assert (f"{own.context.span_id:016x}", parent_of(own)) == (trace.span_id, SPAN)
    assert (own.start_time, own.end_time) == (1_000_000_000, 9_000_000_000)
    assert parent_of(wait) == trace.span_id
    assert (wait.start_time, wait.end_time) == (1_000_000_000, 3_000_000_000)


def test_without_a_producers_trace_an_import_begins_one(written: Written) -> None:
    first, second = (written.spans.begin(each, None) for each in ("i1", "i2"))
    assert first.trace_id != second.trace_id
    written.spans.ended(stored(first))
    own = written.all()["import"]
    assert own.context
    assert f"{own.context.trace_id:032x}" == first.trace_id
    assert own.parent is None


def test_a_retry_belongs_to_the_trace_of_the_import_it_retries(written: Written) -> None:
    first = written.spans.begin("i1", read_trace(GIVEN))
    assert first
    copied = replace(ITEM, id="i1:retry-1", retry_of="i1", traceparent=first.traceparent)
    written.spans.ended(copied)
    own = written.all()["import"]
    assert own.context
    assert f"{own.context.span_id:016x}" == own_span_id("i1:retry-1")
    assert parent_of(own) == first.span_id


@pytest.mark.parametrize(
    ("state", "error", "status"),
    [
        (State.SUCCEEDED, "", StatusCode.UNSET),
        (State.CANCELLED, "wrong pool", StatusCode.UNSET),
        (State.FAILED, "no such pool; password=hunter2", StatusCode.ERROR),
        (State.TIMED_OUT, "", StatusCode.ERROR),
        (State.REJECTED, "appId: is required", StatusCode.ERROR),
    ],
)
def test_an_import_that_failed_says_so_without_secrets(
    written: Written, state: State, error: str, status: StatusCode
) -> None:
    written.spans.ended(replace(ITEM, state=state, error=error))
    own = written.all()["import"]
    assert own.status.status_code is status
    assert "hunter2" not in str(own.status.description)


def test_an_import_that_never_started_waited_until_its_end(written: Written) -> None:
    written.spans.ended(replace(ITEM, first_start_at_ms=0, state=State.CANCELLED))
    assert written.all()["wait"].end_time == 9_000_000_000
    written.spans.ended(replace(ITEM, first_start_at_ms=0, finished_at_ms=1_000))
    assert set(written.all()) == {"import"}, "it was over at once"
    written.spans.ended(replace(ITEM, first_start_at_ms=500, finished_at_ms=900))
    own = written.all()["import"]
    assert own.start_time == own.end_time, "the store's clock was set back, or its store was lost"


@pytest.mark.parametrize(
    ("status", "failed", "kind"),
    [(200, False, None), (429, True, "429"), (503, True, "503"), (0, True, "no_answer")],
)
def test_a_call_is_a_span_of_the_import_it_is_made_for(
    written: Written, status: int, kind: str | None, *, failed: bool
) -> None:
    claim = Claim(call=Call.POLL, lease="1", item=ITEM, age_seconds=0)
    with carrying_out(claim):
        written.spans.called("acme", "eu-west-1", "get_backend_job", status, 0.25)
    (span,) = written.all().values()
    assert (span.name, parent_of(span)) == ("AmplifyBackend.GetBackendJob", own_span_id("i1"))
    assert span.start_time
    assert span.end_time
    assert span.end_time - span.start_time == 250_000_000
    attributes = dict(span.attributes or {})
    assert (attributes["imports.lane"], attributes["cloud.region"]) == (
        "acme/eu-west-1",
        "eu-west-1",
    )
    assert attributes.get("error.type") == kind
    assert (span.status.status_code is StatusCode.ERROR) is failed


def test_nothing_is_written_for_traces_that_are_not_kept(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    for header in ("", f"00-{TRACE}-{SPAN}-00"):
        item = replace(ITEM, traceparent=header)
        written.spans.ended(item)
        written.spans.appended("i1", item.trace, EventType.STARTED, 1)
        with carrying_out(Claim(call=Call.POLL, lease="1", item=item, age_seconds=0)):
            written.spans.called("acme", "eu-west-1", "get_backend_job", 200, 0.25)
    written.spans.called("acme", "eu-west-1", "get_backend_job", 200, 0.25)  # for no import
    assert written.all() == {}
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    trace = Written().spans.begin("i1", read_trace(GIVEN))
    assert not trace.is_sampled
    assert trace.trace_id == TRACE


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in (*switch.ENDPOINTS, *switch.PROTOCOLS, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    logging.getLogger("opentelemetry").handlers.clear()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_tracing_is_off_unless_a_collector_is_named(
    environment: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    with capture_logs() as lines:
        assert switch.open_tracing("w1", "tests") is switch.OFF
    assert lines == []


def test_a_protocol_that_is_not_supported_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")
    environment.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with capture_logs() as lines:
        assert switch.open_tracing("w1", "tests") is switch.OFF
    assert lines[0]["error"] == "grpc is not supported, http/protobuf is"


def test_a_wrong_variable_does_not_stop_a_worker(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with capture_logs() as lines:
        assert switch.open_tracing("w1", "tests") is switch.OFF
    (line,) = lines
    assert line["event"] == "tracing.unavailable"
    assert line["error"] == "max_queue_size must be a positive integer."


def test_without_the_extra_a_worker_says_how_to_get_it(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces")
    environment.delitem(sys.modules, "worker.tracing.export", raising=False)
    environment.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with capture_logs() as lines:
        assert switch.open_tracing("w1", "tests") is switch.OFF
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("tracing.unavailable", "warning")
    assert "otel" in line["remedy"]


def test_complaints_of_opentelemetry_are_logged_now_and_then() -> None:
    now = [0.0]
    logger = logging.getLogger("complaints")
    logger.addHandler(Seldom(lambda: now[0]))
    with capture_logs() as lines:
        for _ in range(3):
            logger.error("Failed to export %s", "spans")
        now[0] = SAID_AGAIN_SECONDS
        logger.warning("Queue full")
        logger.debug("not a complaint")
    assert [(line["error"], line["unsaid"]) for line in lines] == [
        ("Failed to export spans", 0),
        ("Queue full", 2),
    ]
    assert json.dumps(lines)
