"""Traces of imports: real workers, and a collector that takes their spans over HTTP."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    free_port,
    members,
    wait_until,
)
from tests.support.collector import Collector, Span
from tests.support.scraping import OPEN_METRICS, Scraper
from worker.domain.traces import own_span_id
from worker.operations.registry import OPERATIONS

PRODUCER_SPAN = "00f067aa0ba902b7"
METHODS = ("ImportBackendAuth", "GetBackendJob", "ListBackendJobs")
STATE = "vendor=blue,other=1"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def traceparent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{PRODUCER_SPAN}-{flags}"


def trace_ids(count: int) -> list[str]:
    return [f"{n + 1:032x}" for n in range(count)]


def assert_is_one_trace(spans: list[Span], import_id: str, trace_id: str, parent_id: str) -> Span:
    """Check how the spans of an import hang together; return the import's own span."""
    (own,) = [span for span in spans if span.name == "import"]
    assert (own.trace_id, own.span_id, own.parent_id) == (
        trace_id,
        own_span_id(import_id),
        parent_id,
    )
    below = [span for span in spans if span is not own]
    assert {(span.trace_id, span.parent_id) for span in below} <= {(trace_id, own.span_id)}
    assert len({span.span_id for span in spans}) == len(spans)
    return own


def test_an_import_is_one_trace_whichever_way_it_comes_in(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    collector: Collector,
    command: CommandLine,
) -> None:
    scraper = Scraper(free_port())
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    worker = start_worker(IMPORTS_METRICS_PORT=scraper.port, **collector.environment)
    ids = trace_ids(6)
    headers = [{"traceparent": traceparent(each), "tracestate": STATE} for each in ids]
    producer.send(members("dtask"), task_id="task", headers=headers[0])
    own = {"importId": "own", "traceparent": headers[2]["traceparent"]}
    batch = {
        "batchId": "b",
        "requests": [members("dbatch", importId="batch"), members("down", **own)],
    }
    producer.app.send_task(
        "imports.import_batch", kwargs=batch, queue="imports", headers=headers[1]
    )
    entry: Any = {"request": json.dumps(members("dstream", importId="stream")), **headers[3]}
    producer.redis.xadd("imports:requests", entry)
    producer.send(members("dbad"), task_id="bad", headers=headers[4])
    producer.send(members("dlater"), task_id="later", countdown=3600, headers=headers[5])
    producer.send(members("dalone"), task_id="alone")
    producer.send({"appId": "no id"}, task_id="rejected")
    producer.wait_for_event("import.accepted", importId="later")
    assert command("cancel", "later", "--reason", "wrong pool").returncode == 0

    with_parent = zip(("task", "batch", "own", "stream", "bad", "later"), ids, strict=True)
    outcomes = {}
    for import_id, trace_id in with_parent:
        spans = collector.of_import(import_id)
        span = assert_is_one_trace(spans, import_id, trace_id, PRODUCER_SPAN)
        assert span.state == ("" if import_id == "own" else STATE)
        outcomes[import_id] = span.attributes["imports.outcome"]
        for event in producer.events(import_id=import_id):
            assert event["traceparent"] == f"00-{trace_id}-{span.span_id}-01"
            assert event.get("tracestate", "") == span.state
    assert outcomes == {
        **dict.fromkeys(("task", "batch", "own", "stream"), "succeeded"),
        "bad": "failed",
        "later": "cancelled",
    }
    for import_id in ("alone", "rejected"):
        spans = collector.of_import(import_id)
        assert_is_one_trace(spans, import_id, spans[0].trace_id, "")
    assert spans[0].trace_id not in ids

    assert_tells_what_happened(collector.of_import("task"), sandbox)
    (failed,) = [span for span in collector.of_import("bad") if span.error is not None]
    assert failed.name == "import"
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    told = {(line["event"], line.get("trace_id")) for line in lines if line.get("import_id")}
    assert {("import.started", ids[0]), ("import.succeeded", ids[0])} <= told
    assert ("import.accepted", ids[3]) in told
    exemplars = {
        sample.exemplar.labels["trace_id"]
        for family in scraper.samples(OPEN_METRICS).families.values()
        for sample in family.samples
        if sample.exemplar
    }
    assert exemplars
    assert exemplars <= {span.trace_id for span in collector.spans}


def assert_tells_what_happened(spans: list[Span], sandbox: Sandbox) -> None:
    """Check the spans of the import `task`, which succeeded."""
    (own,) = [span for span in spans if span.name == "import"]
    assert (own.kind, own.error) == ("CONSUMER", None)
    assert own.attributes["imports.operation"] in OPERATIONS.operations
    assert own.resource["service.name"] == "amplify-import-worker"
    assert "@" in own.resource["service.instance.id"]
    (wait,) = [span for span in spans if span.name == "wait"]
    assert own.began == wait.began < wait.ended < own.ended
    calls = [span for span in spans if span.kind == "CLIENT"]
    assert [call.error for call in calls] == [None] * len(calls)
    assert {call.attributes["http.response.status_code"] for call in calls} == {200}
    named = sorted(call.attributes["rpc.method"] for call in calls)
    made = [op for op in METHODS for _ in sandbox.calls(op, "dtask/")]
    assert named == sorted(made)
    assert {f"AmplifyBackend.{name}" for name in named} == {call.name for call in calls}
    (start,) = [call for call in calls if call.attributes["imports.call"] == "start"]
    assert (start.attributes["imports.attempt"], start.attributes["rpc.system"]) == (1, "aws-api")
    appended = [span for span in spans if span.kind == "PRODUCER"]
    assert [span.attributes["cloudevents.event_id"] for span in appended] == [
        "task/accepted",
        "task/started",
        "task/succeeded",
    ]


def test_a_trace_outlives_a_deferral_and_a_worker_that_is_killed(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, collector: Collector
) -> None:
    sandbox.script("dslow", duration_seconds=3)
    first = start_worker(**collector.environment)
    (trace_id,) = trace_ids(1)
    sent_at = time.time()
    producer.send(
        members("dslow"),
        task_id="slow",
        countdown=1,
        headers={"traceparent": traceparent(trace_id)},
    )
    producer.wait_for_event("import.started", importId="slow")
    wait_until(lambda: len(collector.spans) >= 3, "the first worker has sent spans")
    first.kill()
    second = start_worker(**collector.environment)
    spans = collector.of_import("slow")
    own = assert_is_one_trace(spans, "slow", trace_id, PRODUCER_SPAN)
    workers = {span.resource["service.instance.id"] for span in spans}
    assert len(workers) == 2
    (wait,) = [span for span in spans if span.name == "wait"]
    assert wait.ended >= sent_at + 1, "it was deferred"
    assert own.ended - wait.ended >= 3, "its job ran"
    assert second.stop() == 0


def test_the_processes_of_a_pool_send_their_spans_too(
    start_worker: StartWorker, producer: Producer, collector: Collector
) -> None:
    worker = start_worker(IMPORTS_WORKER_POOL="prefork", **collector.environment)
    producer.send(members("dpool"), task_id="pool")
    spans = collector.of_import("pool")
    accepted = "pool/accepted"  # a process of the pool admits it
    assert accepted in {span.attributes.get("cloudevents.event_id") for span in spans}
    assert_is_one_trace(spans, "pool", spans[0].trace_id, "")
    assert worker.stop() == 0


def test_a_collector_that_is_away_holds_nothing_up(
    start_worker: StartWorker, producer: Producer
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    worker = start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=nobody, OTEL_BSP_SCHEDULE_DELAY="20")
    for n in range(2):
        assert producer.send(members(f"d{n}")).get(timeout=60)["outcome"] == "succeeded"
    wait_until(lambda: "tracing.failed" in worker.log, "it is said")
    assert worker.stop() == 0
    assert worker.log.count("tracing.failed") == 1
    assert "Traceback" not in worker.log
