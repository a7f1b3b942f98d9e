"""Metrics and health without servers: labels, names, hooks, health, and the pipe of a pool."""

import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus

import pytest

from tests.support import free_port, wait_until
from tests.support.scraping import Scraper
from worker.domain.claims import Call, Claim
from worker.domain.decisions import NO_JOB, Decision, End, Requeue, Run, Throttle
from worker.domain.imports import Import
from worker.domain.outcomes import Ended, Verdict
from worker.domain.recording import Recorded
from worker.domain.requests import DEFAULT_OPERATION
from worker.domain.states import TERMINAL, State
from worker.engine.tracing import carrying_out
from worker.local.workers import store_environment
from worker.metrics.catalogue import (
    ACCEPTED,
    CALLS,
    KNOWN_VALUES,
    LABELS,
    LANES_SHOWN,
    LIMIT_TYPES_SHOWN,
    LOST_MEASUREMENTS,
    OTHER,
    PAUSES,
    SCRIPT_SECONDS,
    THROTTLED,
    WORKER,
    Metric,
    Type,
)
from worker.metrics.health import READY_SECONDS, Health
from worker.metrics.http_catalogue import HTTP
from worker.metrics.labels import Cap
from worker.metrics.measurements import Measurements, status_class
from worker.metrics.registry import Forwarder, take_in
from worker.metrics.relay_catalogue import RELAY
from worker.metrics.server import Page, PageServer, health_page
from worker.metrics.store_catalogue import BATCHES, POLL_LAG, STORE, STORE_UP, WAITING
from worker.metrics.store_samples import StoreSamples, samples_of
from worker.metrics.values import Values
from worker.store.laneview import LaneView
from worker.store.overview import Group, LaneReading, Overview
from worker.watchdog import CHECK_SECONDS, Watchdog

ITEM = Import(
    id="i1",
    state=State.SUCCEEDED,
    app_id="d1",
    backend_environment_name="staging",
    account="acme",
    region="eu-west-1",
    accepted_at_ms=1000,
    finished_at_ms=4500,
)
JOB = replace(NO_JOB, job_id="j1")
ENDED = Recorded(is_current=True, ended=Ended(ITEM))
KEPT = Recorded(is_current=True)


class Added:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, tuple[str, ...]]] = []
        self.exemplars: list[tuple[str, Mapping[str, str]]] = []

    def add(
        self,
        metric: Metric,
        value: float,
        *labels: str,
        exemplar: Mapping[str, str] | None = None,
    ) -> None:
        assert len(labels) == len(metric.labels)
        if exemplar:
            self.exemplars.append((metric.name, exemplar))
        name = metric.name.removeprefix("imports_").removesuffix("_total")
        self.rows.append((name, value, labels))

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.rows]


ALL = [*dict.fromkeys((*WORKER, *RELAY, *HTTP)), *STORE, *BATCHES]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_recommends(metric: Metric) -> None:
    assert re.fullmatch(r"imports_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type is Type.COUNTER)
    assert metric.name.endswith("_seconds") or metric.type is not Type.HISTOGRAM
    assert bool(metric.buckets) == (metric.type is Type.HISTOGRAM)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert set(metric.labels) <= set(LABELS)
    assert metric.help.endswith(".")


def test_every_label_is_used_and_no_metric_appears_twice() -> None:
    assert {label for metric in ALL for label in metric.labels} == set(LABELS)
    assert len({metric.name for metric in ALL}) == len(ALL)


def test_a_cap_lets_the_first_values_pass() -> None:
    cap = Cap(2)
    assert [cap.label(each) for each in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert Cap(9).label("x" * 129) == Cap(9).label("a\nb") == OTHER


def test_after_200_lanes_the_label_is_other() -> None:
    values = Values()
    for number in range(LANES_SHOWN + 5):
        values.add(PAUSES, 1, f"account{number}/us-east-1")
        values.add(CALLS, 1, "poll", "2xx", f"account{number}/us-east-1")
        values.add(THROTTLED, 1, "account0/us-east-1", f"LIMIT_{number}")
    text = values.text()[0].decode()
    assert text.count("\nimports_lane_pauses_total{") == LANES_SHOWN + 1
    assert 'imports_lane_pauses_total{lane="other"} 5.0' in text
    assert 'imports_aws_calls_total{call="poll",lane="other",status="2xx"} 5.0' in text
    assert text.count("\nimports_throttled_total{") == LIMIT_TYPES_SHOWN + 1


def test_counters_whose_labels_are_known_exist_from_the_beginning() -> None:
    text = Values().text()[0].decode()
    for outcome in KNOWN_VALUES["outcome"]:
        assert f'outcome="{outcome}"}} 0.0' in text
    assert "imports_adoptions_total 0.0" in text
    assert "_created" not in text


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (200, "2xx"),
        (302, "3xx"),
        (404, "4xx"),
        (429, "429"),
        (503, "5xx"),
        (0, "none"),
        (999, "none"),
    ],
)
def test_a_status_becomes_a_class(status: int, label: str) -> None:
    assert status_class(status) == label


@pytest.mark.parametrize(
    ("call", "decision", "recorded", "names"),
    [
        (Call.START, Run(JOB, 1.0), KEPT, []),
        (Call.POLL, End(State.SUCCEEDED, job=JOB), ENDED, ["ended", "duration_seconds"]),
        (Call.RECONCILE, Run(JOB, 1.0), KEPT, ["reconciliations", "adoptions"]),
        (Call.RECONCILE, Requeue(), KEPT, ["reconciliations"]),
        (
            Call.RECONCILE,
            End(State.SUCCEEDED, job=JOB),
            ENDED,
            ["reconciliations", "adoptions", "ended", "duration_seconds"],
        ),
        (
            Call.RECONCILE,
            Run(JOB, 1.0),
            Recorded(is_current=False),
            ["reconciliations", "lost_claims"],
        ),
        (
            Call.POLL,
            Throttle(1.0, ""),
            Recorded(is_current=True, paused=True),
            ["throttled", "lane_pauses"],
        ),
        (Call.POLL, Requeue(), Recorded(is_current=True, resumed=True), ["lane_resumes"]),
    ],
)
def test_what_is_recorded_is_counted(
    call: Call, decision: Decision, recorded: Recorded, names: list[str]
) -> None:
    added = Added()
    item = replace(ITEM, state=State.STARTING, finished_at_ms=0)
    claim = Claim(call=call, lease="1", item=item, age_seconds=0)
    Measurements(added).recorded(claim, decision, recorded)
    assert added.names == names
    if recorded.ended:
        assert added.rows[-2:] == [
            ("ended", 1, ("succeeded", DEFAULT_OPERATION)),
            ("duration_seconds", 3.5, ("succeeded",)),
        ]
    if "throttled" in names:
        assert added.rows[0] == ("throttled", 1, ("acme/eu-west-1", "none"))


@pytest.mark.parametrize(("flags", "is_kept"), [("01", True), ("00", False)])
def test_a_call_names_the_trace_that_it_belongs_to(flags: str, *, is_kept: bool) -> None:
    added = Added()
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    item = replace(ITEM, traceparent=f"00-{trace_id}-00f067aa0ba902b7-{flags}")
    with carrying_out(Claim(call=Call.POLL, lease="1", item=item, age_seconds=0)):
        Measurements(added).called("acme", "eu-west-1", "get_backend_job", 200, 0.25)
    Measurements(added).called("acme", "eu-west-1", "get_backend_job", 200, 0.25)
    named = [("imports_aws_call_seconds", {"trace_id": trace_id})]
    assert added.exemplars == (named if is_kept else [])


def test_an_import_that_was_started_shows_how_long_it_ran() -> None:
    added = Added()
    started = replace(ITEM, state=State.CANCELLED, first_start_at_ms=2500)
    Measurements(added).learned_of_end(started)
    assert added.rows[1:] == [
        ("duration_seconds", 3.5, ("cancelled",)),
        ("job_duration_seconds", 2.0, ("cancelled",)),
    ]


def test_a_poll_shows_how_late_it_was_claimed() -> None:
    added = Added()
    running = replace(ITEM, state=State.RUNNING)
    claims = [
        Claim(call=Call.START, lease="1", item=running, age_seconds=0),
        Claim(call=Call.POLL, lease="2", item=running, age_seconds=9, overdue_seconds=1.5),
        Claim(call=Call.POLL, lease="3", item=ITEM, age_seconds=9, overdue_seconds=600),
    ]
    Measurements(added).claimed(claims, 0)
    delays = [row for row in added.rows if row[0] == "poll_delay_seconds"]
    assert delays == [("poll_delay_seconds", 1.5, ())]


def test_only_the_first_admission_is_counted() -> None:
    added = Added()
    for verdict in Verdict:
        Measurements(added).admitted(verdict, DEFAULT_OPERATION)
    assert added.rows == [
        ("accepted", 1, (DEFAULT_OPERATION,)),
        ("ended", 1, ("rejected", DEFAULT_OPERATION)),
    ]


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_an_import_that_a_command_ended_is_counted_however_it_ended(state: State) -> None:
    added = Added()
    Measurements(added).learned_of_end(replace(ITEM, state=state))
    assert added.rows[0] == ("ended", 1, (state, DEFAULT_OPERATION))


def test_failed_announcements_are_counted_by_step() -> None:
    added = Added()
    measurements = Measurements(added)
    for step in ("_show_waiting", "_show_running", "_finish", "new"):
        measurements.announcement_failed(step)
    steps = [labels for _, _, labels in added.rows]
    assert steps == [("waiting",), ("running",), ("ended",), ("other",)]


def test_the_methods_of_aws_are_calls() -> None:
    added = Added()
    measurements = Measurements(added)
    for method in ("import_backend_auth", "get_backend_job", "list_backend_jobs"):
        measurements.called("acme", "eu-west-1", method, 0, 1.5)
    calls = [labels for name, _, labels in added.rows if name == "aws_calls"]
    assert calls == [(c, "none", "acme/eu-west-1") for c in ("start", "poll", "reconcile")]


def test_a_script_of_the_broker_is_no_contact_with_the_store() -> None:
    measurements = Measurements(Added())
    measurements.ran("take_messages", 0.1)
    assert measurements.store_answered_at is None
    measurements.ran("claim", 0.1)
    assert measurements.store_answered_at == pytest.approx(time.monotonic(), abs=5)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_forked_process_measures_through_the_pipe() -> None:
    reading, writing = os.pipe()
    forwarder = Forwarder(writing)
    os.write(writing, b'["no_such_metric", 1]\nnonsense\n')
    forwarder.add(ACCEPTED, 1, DEFAULT_OPERATION)
    forwarder.add(SCRIPT_SECONDS, 0.25, "admit")
    os.close(writing)
    values = Values()
    take_in(reading, values)
    text = values.text()[0].decode()
    assert f'imports_accepted_total{{operation="{DEFAULT_OPERATION}"}} 1.0' in text
    assert 'imports_script_seconds_sum{script="admit"} 0.25' in text
    forwarder.add(ACCEPTED, 1, DEFAULT_OPERATION)  # it does not raise when nobody reads


def test_a_full_pipe_loses_measurements_and_counts_them(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    forwarder = Forwarder(writing)
    for _ in range(10_000):
        forwarder.add(ACCEPTED, 1, DEFAULT_OPERATION)
    kept = os.read(reading, 2**20).decode().splitlines()
    forwarder.add(ACCEPTED, 1, DEFAULT_OPERATION)
    lost, last = os.read(reading, 2**20).decode().splitlines()
    assert lost == f'["{LOST_MEASUREMENTS.name}", {10_000 - len(kept)}]'
    assert last == kept[0]


def test_a_line_that_is_not_atomic_is_not_written(pipe: tuple[int, int]) -> None:
    forwarder = Forwarder(pipe[1])
    forwarder.add(SCRIPT_SECONDS, 1, "x" * 600)
    forwarder.add(SCRIPT_SECONDS, 1, "short")
    lines = os.read(pipe[0], 2**20).decode().splitlines()
    assert lines == [f'["{LOST_MEASUREMENTS.name}", 1]', f'["{SCRIPT_SECONDS.name}", 1, "short"]']


def test_health_says_what_is_wrong() -> None:
    stuck: dict[str, float] = {}
    moments: dict[str, float | None] = {"answered": None, "now": 100.0}
    health = Health(lambda: stuck, lambda: moments["answered"], lambda: moments["now"] or 0)
    assert health.live() == []
    assert health.ready() == health.started() == ["store: has not answered yet"]
    moments["answered"] = 100.0
    assert health.ready() == health.started() == []
    moments["now"] = 101 + READY_SECONDS
    assert health.ready() == ["store: no answer for 16 s"]
    assert health.started() == []
    health.note_stopping()
    assert health.ready()[0] == "worker: is stopping"
    stuck.update(conductor=95.0, queues=91.2)
    assert health.live() == ["conductor: no progress for 95 s", "queues: no progress for 91 s"]


def test_health_names_a_queue_whose_calls_fail_for_longer_than_a_minute() -> None:
    failing: dict[str, float | None] = {"since": 40.0}
    health = Health(dict, lambda: 99.0, lambda: 100.0, queue_failing_since=lambda: failing["since"])
    assert health.ready() == []
    failing["since"] = 39.0
    assert health.ready() == ["queue of requests: calls have failed for 61 s"]
    assert health.live() == []
    failing["since"] = None
    assert health.ready() == []


def test_a_watchdog_says_which_part_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.watchdog.PATIENCE_MIN_SECONDS", 3 * CHECK_SECONDS)
    monkeypatch.setattr("worker.watchdog._end", lambda *_: None)
    monkeypatch.setattr("worker.watchdog.CHECK_SECONDS", 0.01)
    beats = iter(range(10**9))
    watchdog = Watchdog({"stuck": lambda: 7, "well": lambda: next(beats)}, 0.05)
    assert watchdog.silence() == watchdog.stuck() == {}
    monkeypatch.setattr(watchdog, "_patience_seconds", 0.05)
    watchdog.start()
    wait_until(lambda: "stuck" in watchdog.stuck(), "the part is silent for too long")
    assert set(watchdog.silence()) == {"stuck", "well"}
    assert "well" not in watchdog.stuck()
    watchdog.stop()
    assert watchdog.silence() == watchdog.stuck() == {}


def test_a_watchdog_whose_thread_has_ended_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.watchdog.CHECK_SECONDS", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    watchdog = Watchdog({"broken": lambda: 1 / 0}, 90)
    monkeypatch.setattr(watchdog, "_patience_seconds", 0.1)
    watchdog.start()
    wait_until(lambda: "watchdog" in watchdog.stuck(), "its silence is noticed")


@pytest.fixture
def scraper() -> Scraper:
    return Scraper(free_port())


@pytest.fixture
def server(scraper: Scraper) -> Iterator[PageServer]:
    server = PageServer("127.0.0.1", int(scraper.port))
    yield server
    server.close()


def test_the_server_answers_with_pages(server: PageServer, scraper: Scraper) -> None:
    def broken(_: str) -> Page:
        raise ValueError("a secret")

    server.start(
        {
            "/well": lambda accept: Page(accept.encode()),
            "/ill": lambda _: health_page(["a: no", "b: no"]),
            "/broken": broken,
        }
    )
    assert scraper.get("/well?x=1", "text/x").text == "text/x"
    assert scraper.get("/ill").text == "a: no\nb: no\n"
    assert scraper.probe("/ill") == HTTPStatus.SERVICE_UNAVAILABLE
    assert scraper.get("/broken").text == "failed; see the log\n"
    assert scraper.probe("/broken") == HTTPStatus.INTERNAL_SERVER_ERROR
    assert scraper.get("/else").text == "not found; there are /well, /ill, /broken\n"
    assert scraper.probe("/else") == HTTPStatus.NOT_FOUND
    assert scraper.get("/ill", method="HEAD").text == ""
    assert scraper.get("/well", method="POST").status == HTTPStatus.NOT_IMPLEMENTED


def test_a_server_that_answers_nothing_yet_can_be_closed(scraper: Scraper) -> None:
    server = PageServer("localhost", int(scraper.port))
    assert server.port == int(scraper.port)
    server.close()


def test_a_port_that_is_taken_is_an_error(server: PageServer) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        PageServer("127.0.0.1", server.port)


def test_local_workers_serve_no_metrics_and_take_no_requests_of_the_service() -> None:
    given = {
        "IMPORTS_METRICS_PORT": "9464",
        "IMPORTS_SQS_REQUESTS_URL": "https://sqs.eu-west-1.amazonaws.com/1/q",
        "IMPORTS_LEASE_SECONDS": "9",
    }
    kept = store_environment(given, "redis://127.0.0.1:1/0")
    assert "IMPORTS_METRICS_PORT" not in kept
    assert "IMPORTS_SQS_REQUESTS_URL" not in kept
    assert kept["IMPORTS_LEASE_SECONDS"] == "9"


def lane(name: str, waiting: int, poll_lag: float, **fields: str) -> LaneReading:
    view = LaneView(
        name=name,
        waiting=waiting,
        running=1,
        paused_reason=fields.get("paused_reason", ""),
        paused_seconds=0,
        fields=fields,
    )
    return LaneReading(view, 0, poll_lag)


OVERVIEW = Overview(
    lanes=(lane("a/r", 1, 5), lane("b/r", 2, 7, held="1", paused_reason="x"), lane("c/r", 3, 6)),
    events=4,
    groups=(Group("readers", None, 2),),
    undelivered=1,
    unadmitted=2,
    unfinished=3,
)


def test_lanes_beyond_the_cap_are_united() -> None:
    samples = {(m.name, labels): v for m, labels, v in samples_of(OVERVIEW, Cap(1))}
    assert samples["imports_delayed", ("a/r",)] == 1
    assert samples["imports_delayed", (OTHER,)] == 5
    assert samples["imports_running", (OTHER,)] == 2
    assert samples[POLL_LAG.name, (OTHER,)] == 7
    assert samples["imports_lane_paused", (OTHER, "operator")] == 1
    assert samples["imports_lane_paused", (OTHER, "worker")] == 0
    assert ("imports_lane_start_pace_per_second", (OTHER,)) not in samples
    assert ("imports_lane_running_limit", (OTHER,)) not in samples
    assert samples["imports_events_group_pending", ("readers",)] == 2
    assert "imports_events_group_lag" not in {name for name, _ in samples}
    assert (WAITING.name, ("a/r", "normal")) not in samples


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, math.inf),
        ({"ceiling": "7.5"}, 7),
        ({"ceiling": "7", "hand_max_running": "3"}, 3),
    ],
)
def test_the_lower_of_two_limits_of_running_imports_is_shown(
    fields: dict[str, str], limit: float
) -> None:
    overview = replace(OVERVIEW, lanes=(lane("a/r", 1, 5, **fields),))
    samples = {m.name: v for m, _, v in samples_of(overview, Cap(1))}
    assert samples["imports_lane_running_limit"] == limit


def test_a_store_that_can_not_be_read_is_down() -> None:
    def fail() -> Overview:
        raise TimeoutError

    assert StoreSamples(fail, Cap(1))() == [(STORE_UP, (), 0)]
    assert (STORE_UP, (), 1) in StoreSamples(lambda: OVERVIEW, Cap(1))()
