"""Metrics and health: real workers and commands, scraped and probed over HTTP."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.client import Pipeline

from tests.support import (
    ACCESS_KEY,
    BIN,
    PROJECT,
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    environment_for,
    free_port,
    members,
    recording,
    storage_members,
    wait_until,
)
from tests.support.scraping import OPEN_METRICS, Scraper
from tests.support.servers import Server
from worker.domain.claims import Claim, Doubt
from worker.domain.imports import Import
from worker.domain.outcomes import Action, Envelope
from worker.domain.states import State
from worker.metrics.catalogue import WORKER
from worker.metrics.health import READY_SECONDS
from worker.metrics.store_catalogue import STORE
from worker.operations.registry import OPERATIONS
from worker.sandbox.scenario import Credentials, Scenario
from worker.store.config import StoreConfig
from worker.store.control import BatchControl
from worker.store.overview import read_overview
from worker.store.store import ImportStore
from worker.watchdog import EXIT_CODE

LANE = "default/us-east-1"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=100, lease_seconds=60, settle_seconds=60
)
THROTTLING = {
    "quota": {"starts": {"rate": 2, "burst": 1}, "retry_after": "seconds"},
    "jobs": {"min_seconds": 0.1, "max_seconds": 0.2},
}


@pytest.fixture
def scraper() -> Scraper:
    return Scraper(free_port())


@contextmanager
def worker_at(url: str, sandbox: Sandbox, tmp_path: Path, **settings: str) -> Iterator[Worker]:
    """Start a worker without waiting until it is ready."""
    environment = environment_for(sandbox, url, **settings)
    worker = Worker(environment, tmp_path / f"worker-{uuid.uuid4().hex[:6]}.log")
    try:
        yield worker
    finally:
        worker.kill()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_counts_what_it_does(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, scraper: Scraper, pool: str
) -> None:
    sandbox.reset(Scenario.model_validate(THROTTLING))
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    start_worker(IMPORTS_METRICS_PORT=scraper.port, IMPORTS_WORKER_POOL=pool)
    tasks = [producer.send(members(app)) for app in ("d1", "d2", "dbad")]
    tasks += [producer.send(storage_members("d3")), producer.send(members("Not-An-App"))]
    producer.add({"importId": "by-stream", **members("d4")})

    wait_until(
        lambda: scraper.samples().value("imports_ended_total") == 6, "all imports have ended"
    )
    samples = scraper.samples()
    auth, storage = {"operation": "ImportBackendAuth"}, {"operation": "ImportBackendStorage"}
    assert samples.value("imports_accepted_total", **auth) == 4
    assert samples.value("imports_accepted_total", **storage) == 1
    assert samples.value("imports_ended_total", outcome="succeeded", **auth) == 3
    assert samples.value("imports_ended_total", outcome="succeeded", **storage) == 1
    assert samples.value("imports_ended_total", outcome="failed", **auth) == 1
    assert samples.value("imports_ended_total", outcome="rejected", **auth) == 1
    assert samples.value("imports_ended_total", outcome="cancelled") == 0
    assert samples.value("imports_duration_seconds_count") == 5
    assert 0 < samples.value("imports_duration_seconds_sum") < 300

    starts = [c["status"] for name in OPERATIONS.operations for c in sandbox.calls(name)]
    refused = starts.count(429)
    assert refused
    calls = {"lane": LANE, "call": "start"}
    assert samples.value("imports_aws_calls_total", status="429", **calls) == refused
    assert samples.value("imports_aws_calls_total", status="2xx", **calls) == 5
    assert samples.value("imports_aws_call_seconds_count", call="start") == len(starts)
    limit = {"lane": LANE, "limit_type": "REQUESTS_PER_SECOND"}
    assert samples.value("imports_throttled_total", **limit) == refused
    assert samples.value("imports_claims_total", call="start") == len(starts)
    # the five tasks in groups, and the entry of the stream
    assert 2 <= samples.value("imports_script_seconds_count", script="admit") <= 6
    assert samples.value("imports_script_seconds_count", script="claim") > 5
    assert samples.value("imports_calls_in_flight_limit") == 100
    assert samples.value("imports_lost_measurements_total") == 0
    assert 0 <= samples.value("imports_event_loop_lag_seconds") < 5
    assert samples.value("imports_progress_age_seconds", part="conductor") < 30
    for task in tasks:
        wait_until(task.ready, "the task has finished")


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
def test_the_output_holds_what_the_catalogue_says_and_nothing_private(
    start_worker: StartWorker, producer: Producer, scraper: Scraper, accept: str
) -> None:
    start_worker(
        IMPORTS_METRICS_PORT=scraper.port,
        IMPORTS_METRICS_STORE="true",
        IMPORTS_SQS_REQUESTS_URL=f"http://127.0.0.1:{free_port()}/0/absent",
    )
    task = producer.send(members("dprivate", batchId="night", metadata={"team": "blue"}))
    producer.redis.xgroup_create("imports:events", "readers", "0", mkstream=True)
    task.get(timeout=60)
    wait_until(
        lambda: scraper.samples().value("imports_sqs_failing_seconds") > 0, "the queue has failed"
    )
    reply = scraper.get("/metrics", accept)
    assert reply.content_type.startswith(accept or "text/plain")
    samples = scraper.samples(accept)
    of_sinks = {metric for metric in STORE if "sink" in metric.labels}
    documented = {
        metric.name.removesuffix("_total") for metric in (*WORKER, *STORE) if metric not in of_sinks
    }
    optional = {
        "imports_lane_pauses",
        "imports_lane_resumes",
        "imports_throttled",
    }
    assert {name.removesuffix("_total") for name in samples.families} | optional >= documented
    assert all(name.startswith("imports_") for name in samples.families)
    job = sandbox_ids(producer, task.id)
    for secret in (task.id, job, "dprivate", "night", "blue", ACCESS_KEY, "not-a-secret", "redis"):
        assert secret not in reply.text


def sandbox_ids(producer: Producer, import_id: str) -> str:
    """Return the job id of an import."""
    (event,) = producer.events("import.succeeded", import_id=import_id)
    return str(event["data"]["jobId"])


def test_pauses_resumes_and_adoptions_are_counted(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, scraper: Scraper
) -> None:
    sandbox.set_credentials(ACCESS_KEY, Credentials.EXPIRED)
    sandbox.script("ddoubt", duration_seconds=1, faults=[{"kind": "error_504_after", "times": 1}])
    start_worker(IMPORTS_METRICS_PORT=scraper.port, IMPORTS_METRICS_STORE="true")
    task = producer.send(members("ddoubt"))
    producer.wait_for_event("lane.paused", lane=LANE)
    samples = scraper.samples()
    assert samples.value("imports_lane_paused", lane=LANE, by="worker") == 1
    assert samples.value("imports_lane_paused", lane=LANE, by="operator") == 0
    assert samples.value("imports_lane_start_pace_per_second", lane=LANE) == 0
    sandbox.set_credentials(ACCESS_KEY, Credentials.OK)
    assert task.get(timeout=60)["attempts"] == 1
    samples = scraper.samples()
    assert samples.value("imports_lane_pauses_total", lane=LANE) == 1
    assert samples.value("imports_lane_resumes_total", lane=LANE) == 1
    assert samples.value("imports_aws_calls_total", status="5xx", call="start") == 1
    assert samples.value("imports_aws_calls_total", status="4xx") >= 1
    assert samples.value("imports_reconciliations_total") >= 1
    assert samples.value("imports_adoptions_total") == 1
    assert samples.value("imports_lane_paused") == 0


def test_cancelled_imports_are_counted_once(
    start_worker: StartWorker, producer: Producer, command: CommandLine, scraper: Scraper
) -> None:
    start_worker(IMPORTS_METRICS_PORT=scraper.port)
    producer.send(members("dlater"), task_id="later", countdown=3600)
    producer.wait_for_event("import.accepted", importId="later")
    assert command("cancel", "later").returncode == 0
    wait_until(
        lambda: scraper.samples().value("imports_ended_total", outcome="cancelled"), "it is counted"
    )
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "its task has finished")
    assert scraper.samples().value("imports_ended_total", outcome="cancelled") == 1


def test_health_follows_the_store(sandbox: Sandbox, tmp_path: Path, scraper: Scraper) -> None:
    settings = {"IMPORTS_METRICS_PORT": scraper.port, "IMPORTS_METRICS_STORE": "true"}
    server = Server(tmp_path / "server")
    with worker_at(server.url, sandbox, tmp_path, **settings):
        wait_until(lambda: scraper.probe("/livez") == 200, "the worker answers")
        reply = scraper.get("/startupz")
        assert (reply.status, reply.text) == (503, "store: has not answered yet\n")
        assert scraper.get("/readyz").text == "store: has not answered yet\n"
        with server:
            wait_until(lambda: scraper.probe("/startupz") == 200, "the worker has started")
            wait_until(lambda: scraper.probe("/readyz") == 200, "the worker is ready")
            assert scraper.get("/livez").text == "ok\n"
            assert scraper.samples().value("imports_store_up") == 1

            server.kill()
            wait_until(
                lambda: scraper.probe("/readyz") == 503, "it is not ready", READY_SECONDS + 20
            )
            assert scraper.get("/readyz").text.startswith("store: no answer for 1")
            assert scraper.probe("/livez") == scraper.probe("/startupz") == 200
            samples = scraper.samples()
            assert samples.value("imports_store_contact_age_seconds") > READY_SECONDS
            assert samples.labels("imports_store_up") == [{}]
            assert samples.value("imports_store_up") == 0
            assert samples.value("imports_claims_total") == 0

            server.start()
            wait_until(lambda: scraper.probe("/readyz") == 200, "it is ready again")


def test_a_worker_whose_event_loop_hangs_still_answers(
    sandbox: Sandbox, store_url: str, tmp_path: Path, scraper: Scraper
) -> None:
    """The watchdog of `tests.chaos.stuck` ends the worker after ten seconds."""
    environment = environment_for(
        sandbox, store_url, IMPORTS_METRICS_PORT=scraper.port, STUCK="conductor"
    )
    worker = Worker(environment, tmp_path / "stuck.log", app="tests.chaos.stuck")
    try:
        wait_until(lambda: scraper.probe("/livez") == 200, "the worker answers")
        wait_until(
            lambda: scraper.samples().value("imports_event_loop_lag_seconds") > 3, "the lag shows"
        )
        wait_until(
            lambda: scraper.samples().value("imports_progress_age_seconds", part="conductor") > 3,
            "the silence shows",
        )
        wait_until(lambda: worker.process.poll() == EXIT_CODE, "the watchdog ends the worker")
    finally:
        worker.kill()


def test_a_worker_that_stops_is_live_but_not_ready(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, scraper: Scraper
) -> None:
    sandbox.reset(Scenario.model_validate({"fault_settings": {"slow_seconds": 4}}))
    sandbox.script("dslow", faults=[{"kind": "slow"}])
    worker = start_worker(IMPORTS_METRICS_PORT=scraper.port, IMPORTS_LEASE_SECONDS="20")
    producer.send(members("dslow"))
    wait_until(lambda: scraper.samples().value("imports_calls_in_flight") == 1, "a call is made")
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: scraper.probe("/readyz") == 503, "it is not ready")
    assert scraper.get("/readyz").text == "worker: is stopping\n"
    assert scraper.probe("/livez") == 200
    assert worker.stop() == 0
    assert scraper.probe("/livez") == 0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_without_its_port_does_not_start(
    start_worker: StartWorker, sandbox: Sandbox, store_url: str, scraper: Scraper, pool: str
) -> None:
    settings = {"IMPORTS_METRICS_PORT": scraper.port, "IMPORTS_WORKER_POOL": pool}
    first = start_worker(**settings)
    done = started(sandbox, store_url, **settings)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "amplify-import-worker: IMPORTS_METRICS_PORT: cannot listen on"
        f" 127.0.0.1:{scraper.port}: Address already in use; each worker of a machine needs a port"
        " of its own, or 0 for none"
    )
    assert "Traceback" not in done.stderr
    first.kill()
    start_worker(**settings)  # no pool process keeps the port
    wait_until(lambda: scraper.probe("/readyz") == 200, "the next worker has the port")


def test_an_address_of_another_machine_is_refused(
    sandbox: Sandbox, store_url: str, scraper: Scraper
) -> None:
    where = {"IMPORTS_METRICS_PORT": scraper.port, "IMPORTS_METRICS_HOST": "192.0.2.1"}
    done = started(sandbox, store_url, **where)
    assert done.returncode == 1
    assert "IMPORTS_METRICS_PORT: cannot listen on 192.0.2.1" in done.stderr


def started(
    sandbox: Sandbox, store_url: str, **settings: str
) -> "subprocess.CompletedProcess[str]":
    """Start a worker that is expected to end at once."""
    return subprocess.run(
        [str(BIN / "celery"), "-A", "worker", "worker"],
        cwd=PROJECT,
        env={**os.environ, **environment_for(sandbox, store_url, **settings)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_without_a_port_a_worker_listens_nowhere(start_worker: StartWorker) -> None:
    worker = start_worker()
    listening = Path(f"/proc/{worker.process.pid}/net/tcp")
    if not listening.exists():
        pytest.skip("this system has no /proc")
    inodes = {
        fields[9]
        for fields in map(str.split, listening.read_text().splitlines()[1:])
        if fields[3] == "0A"
    }
    files = Path(f"/proc/{worker.process.pid}/fd").iterdir()
    assert not [f for f in files if f.is_symlink() and str(f.readlink())[8:-1] in inodes]


def test_the_command_prints_the_metrics_of_the_store(
    producer: Producer, command: CommandLine
) -> None:
    done = command("metrics")
    assert done.returncode == 0
    assert "imports_store_up 1.0" in done.stdout
    producer.add(members("d1"))
    producer.add(members("d2"))
    assert "imports_requests_undelivered 2.0" in command("metrics").stdout


def test_the_command_shows_as_many_batches_as_it_is_told_to(
    start_worker: StartWorker, producer: Producer, command: CommandLine
) -> None:
    start_worker()
    for name in ("first", "second"):
        producer.send(members(f"d{name}", batchId=name), task_id=name, countdown=3600)
        producer.wait_for_event("import.accepted", importId=name)
    assert 'batch="' not in command("metrics").stdout
    shown = command("metrics", "--batches", "1").stdout
    assert 'imports_batch_imports{batch="second",state="waiting"} 1.0' in shown
    assert 'imports_batch_left{batch="second"} 1.0' in shown
    assert 'imports_batch_paused{batch="second"} 0.0' in shown
    assert 'imports_batch_held{batch="second"} 0.0' in shown
    assert "first" not in shown


def test_the_command_serves_the_metrics_of_the_store(
    tmp_path: Path, command: CommandLine, scraper: Scraper
) -> None:
    with Server(tmp_path / "server") as server:
        exporter = CommandLine(server.url)
        with exporter.running("metrics", "--port", scraper.port) as process:
            wait_until(lambda: scraper.probe("/livez") == 200, "the exporter answers")
            assert scraper.samples(OPEN_METRICS).value("imports_store_up") == 1
            taken = command("metrics", "--port", scraper.port)
            assert taken.returncode == 3
            assert f"Cannot listen on 127.0.0.1:{scraper.port}" in taken.stderr
            server.kill()
            gone = exporter("metrics")
            assert gone.returncode == 3
            assert "can't be reached" in gone.stderr
            assert scraper.samples().labels("imports_store_up") == [{}]
            assert scraper.samples().value("imports_store_up") == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0


async def test_the_overview_shows_lanes_streams_and_tasks(make_store: Any, redis: Any) -> None:
    store: ImportStore = await make_store()
    await admit(store, "d1")
    await admit(store, "d2")
    await admit(store, "dlow", priority="low")
    await admit(store, "dlater", not_before_ms=2**42)
    (claim,), _ = await store.claim(1)
    await recording.run(store, claim, job_id="j", operation="o", status="s", delay_seconds=-7)
    await redis.xgroup_create("imports:events", "readers", "0")
    await redis.xreadgroup("readers", "one", {"imports:events": ">"}, count=2)
    await redis.xgroup_create("imports:requests", "workers", "0", mkstream=True)
    for _ in range(3):
        await redis.xadd("imports:requests", {"request": "{}"})
    await redis.xreadgroup("workers", "one", {"imports:requests": ">"}, count=1)

    overview = await read_overview(redis)
    (lane,) = overview.lanes
    assert (lane.view.name, lane.view.running, lane.view.delayed) == (LANE, 1, 1)
    assert {str(p): n for p, n in lane.view.queued.items() if n} == {"normal": 1, "low": 1}
    assert 0 < lane.oldest_waiting_seconds < 60
    assert 7 <= lane.poll_lag_seconds < 60
    assert overview.events == 5
    assert [(g.name, g.pending) for g in overview.groups] == [("readers", 2)]
    assert overview.groups[0].lag in (3, None)  # None before Redis 7
    assert (overview.undelivered, overview.unadmitted, overview.unfinished) == (2, 1, 0)


async def test_the_overview_shows_the_newest_batches_that_are_not_over(
    make_store: Any, redis: Any
) -> None:
    store: ImportStore = await make_store()
    await admit(store, "d1", batchId="over")
    await admit(store, "d2", batchId="old")
    await redis.advance(1)
    await store.announce_batch("new", 3)
    for app in ("d3", "d4"):
        await admit(store, app, batchId="new")
    await store.cancel("import-d1", "no longer wanted")
    await BatchControl(redis, CONFIG).pause("old", "an operator looks")

    batches = (await read_overview(redis, batches=9)).batches
    assert [(b.batch_id, b.left, b.is_paused) for b in batches] == [
        ("new", 3, False),
        ("old", 1, True),
    ]
    (newest,) = (await read_overview(redis, batches=1)).batches
    assert newest.by_state[State.WAITING] == 2
    assert (await read_overview(redis)).batches == ()
    for app in ("d2", "d3", "d4"):
        await store.cancel(f"import-{app}", "no longer wanted")
    (incomplete,) = (await read_overview(redis, batches=9)).batches
    assert (incomplete.batch_id, incomplete.left) == ("new", 1)


async def test_a_claim_of_a_poll_says_how_late_it_is(make_store: Any) -> None:
    store: ImportStore = await make_store()
    await admit(store, "d1")
    (start,), _ = await store.claim(1)
    await recording.run(store, start, job_id="j", operation="o", status="s", delay_seconds=-7)
    (poll,), _ = await store.claim(1)
    assert start.overdue_seconds == 0
    assert 7 <= poll.overdue_seconds < 60


@pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
async def test_reading_the_store_takes_four_round_trips_however_many_lanes(
    make_store: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: ImportStore = await make_store()
    for number in range(250):
        await admit(store, "d1", account=f"account{number}")
    executed: list[Pipeline] = []
    execute = Pipeline.execute

    async def counted(pipeline: Pipeline, **more: Any) -> Any:
        executed.append(pipeline)
        return await execute(pipeline, **more)

    monkeypatch.setattr(Pipeline, "execute", counted)
    overview = await read_overview(redis)
    assert len(overview.lanes) == 250
    assert len(executed) == 4


async def test_an_empty_store_can_be_read(redis: Any) -> None:
    overview = await read_overview(redis)
    assert (overview.lanes, overview.groups, overview.events) == ((), (), 0)


class Notes:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.expired: list[int] = []
        self.claims: list[int] = []
        self.ends: list[tuple[str, State]] = []

    def ran(self, script: str, seconds: float) -> None:
        assert 0 < seconds < 60
        self.scripts.append(script)

    def claimed(self, claims: Sequence[Claim], expired_leases: int) -> None:
        self.expired.append(expired_leases)
        self.claims.append(len(claims))

    def learned_of_end(self, item: Import) -> None:
        self.ends.append((item.id, item.state))


async def test_an_expired_lease_is_reported_by_the_next_claim(redis: Any) -> None:
    notes = Notes()
    store = ImportStore(redis, CONFIG, notes)
    await admit(store, "d1")
    await store.claim(1)
    await redis.zadd("imports:leases:" + LANE, {"import-d1": 1})
    await redis.zadd("imports:lanes", {LANE: 1})
    await store.claim(1)
    assert notes.expired == [0, 1]
    assert notes.claims == [1, 0]
    assert notes.scripts == ["admit", "claim", "claim"]


async def test_each_end_that_no_worker_recorded_is_learned_of_once(redis: Any) -> None:
    notes = Notes()
    store = ImportStore(redis, CONFIG, notes)
    for app in ("dcancelled", "dagain", "dresolved"):
        await admit(store, app)
    await admit(store, "dexpired", expires_at_ms=1)
    for app in ("dcancelled", "dagain"):
        await store.cancel(f"import-{app}", "wrong pool")
    await admit(store, "dagain")  # a producer's message that comes twice
    (claim,), _ = await store.claim(9)
    await recording.doubt(
        store,
        claim,
        Doubt.UNKNOWN,
        error="HTTP 504",
        delay_seconds=600,
        in_outage=False,
        undecided="AWS does not tell",
    )
    await store.resolve("import-dresolved", Action.SUCCEED)
    for _ in range(3):  # their tasks fail to finish
        await store.overdue(10, delay_seconds=0)
        await admit(store, "dcancelled")
    assert sorted(notes.ends) == [
        ("import-dagain", State.CANCELLED),
        ("import-dcancelled", State.CANCELLED),
        ("import-dexpired", State.CANCELLED),
        ("import-dresolved", State.SUCCEEDED),
    ]


async def admit(
    store: ImportStore, app: str, not_before_ms: int = 0, expires_at_ms: int = 0, **more: Any
) -> None:
    envelope = Envelope(
        import_id=f"import-{app}{more.get('account', '')}",
        task_id=app,
        not_before_ms=not_before_ms,
        expires_at_ms=expires_at_ms,
    )
    await store.admit(envelope, OPERATIONS.parse(members(app, **more)), "us-east-1")
