"""The end of an import's task: taken over after a crash, and independent of other tasks' ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from celery import chord
from celery.events.state import State
from celery.exceptions import ChordError

from tests.support import (
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    environment_for,
    members,
    wait_until,
)

CrashingWorker = Callable[[str], Worker]


@pytest.fixture
def start_crashing(sandbox: Sandbox, store_url: str, tmp_path: Path) -> Iterator[CrashingWorker]:
    """A function that starts a worker that is killed at a crash boundary."""
    workers: list[Worker] = []

    def start(boundary: str) -> Worker:
        environment = environment_for(sandbox, store_url, CRASH_AT=boundary)
        worker = Worker(environment, tmp_path / "crash.log", "tests.chaos.crash_points")
        workers.append(worker)
        return worker.wait_until_ready()

    yield start
    for worker in workers:
        worker.kill()


@pytest.mark.parametrize(
    "boundary",
    [
        "before:announce.complete",
        "before:publish.imports.import_backend_auth",
        "before:result.SUCCESS",
        "after:announce.complete",
    ],
)
def test_a_task_of_a_producer_is_ended_by_another_worker_after_a_crash(
    start_crashing: CrashingWorker,
    start_worker: StartWorker,
    producer: Producer,
    boundary: str,
) -> None:
    crashing = start_crashing(boundary)
    linked = producer.app.signature(
        "imports.import_backend_auth", kwargs=members("dlinked"), queue="imports", immutable=True
    )
    task = producer.send(members("dfirst"), link=linked)
    wait_until(lambda: crashing.process.poll() is not None, "the worker dies")
    assert len(producer.events("import.succeeded", import_id=task.id)) == 1
    start_worker()
    assert task.get(timeout=60)["outcome"] == "succeeded"
    producer.wait_for_event("import.succeeded", appId="dlinked")
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")
    assert len(producer.events("import.succeeded", import_id=task.id)) == 1


@pytest.mark.parametrize("boundary", ["before:results.end", "before:note_tasks_done"])
def test_a_result_without_a_task_is_stored_by_another_worker_after_a_crash(
    start_crashing: CrashingWorker, start_worker: StartWorker, producer: Producer, boundary: str
) -> None:
    crashing = start_crashing(boundary)
    producer.add({"importId": "by-stream", **members("dstream")})
    wait_until(lambda: crashing.process.poll() is not None, "the worker dies")
    start_worker()
    assert producer.app.AsyncResult("by-stream").get(timeout=60)["outcome"] == "succeeded"
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")


def test_a_task_that_can_not_end_stops_no_other_and_ends_later(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    for name in ("dstuck", "dlate"):
        sandbox.script(name, duration_seconds=1)
    worker = start_worker()
    stuck = producer.send(members("dstuck"))
    wait_until(lambda: stuck.state == "RUNNING", "it runs")
    key = f"celery-task-meta-{stuck.id}"
    producer.redis.delete(key)
    producer.redis.rpush(key, "not a result")  # the result backend refuses the state of this task
    others = [producer.send(members("dlate")), producer.send(members("dother"))]
    producer.wait_for_event("import.succeeded", appId="dstuck")
    wait_until(lambda: "announcement.failed" in worker.log, "its end can't be stored")
    assert [each.get(timeout=60)["outcome"] for each in others] == ["succeeded"] * 2
    wait_until(
        lambda: producer.redis.zrange("imports:unfinished", 0, -1) == [stuck.id],
        "only its own task is unfinished",
    )
    producer.redis.delete(key)
    assert stuck.get(timeout=60)["outcome"] == "succeeded"


def test_a_chord_fails_with_the_import_that_failed(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    start_worker()
    header = [
        producer.app.signature(
            "imports.import_backend_auth", kwargs=members(name), queue="imports", app=producer.app
        )
        for name in ("dgood", "dbad")
    ]
    body = producer.app.signature("celery.accumulate", queue="imports", app=producer.app)
    chorded: Any = chord(header, body=body, app=producer.app).apply_async()
    failure = chorded.get(timeout=60, propagate=False)
    assert isinstance(failure, ChordError)
    assert "dbad/staging" in str(failure)
    good, bad = chorded.parent.get(timeout=60, propagate=False)
    assert (good["outcome"], type(bad).__name__) == ("succeeded", "ImportFailed")
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")


def test_the_finish_message_of_a_worker_of_the_previous_release_is_answered(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker()
    producer.add({"importId": "ended", **members("dended")})
    result = producer.app.AsyncResult("ended").get(timeout=60)
    again = producer.app.send_task(
        "imports.import_backend_auth",
        kwargs=members("dended"),
        queue="imports.finish",
        headers={"imports_finish": "ended", "imports_format": 2},
    )
    assert again.get(timeout=60) == result


@contextmanager
def watching(producer: Producer) -> Iterator[Any]:
    """Receive Celery's events, as Flower does."""
    state: Any = State()
    is_over = Event()
    with producer.app.connection() as connection:
        receiver = producer.app.events.Receiver(connection, handlers={"*": state.event})

        def receive() -> None:
            with receiver.consumer_context() as (open_connection, _, _):
                ready.set()
                while not is_over.is_set():
                    try:
                        open_connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

        ready = Event()
        thread = Thread(target=receive)
        thread.start()
        assert ready.wait(60)
        try:
            yield state
        finally:
            is_over.set()
            thread.join()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_flower_gets_one_row_for_each_import_with_its_true_times(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, pool: str
) -> None:
    sandbox.script("dbad", outcome="fail", duration_seconds=0.2)
    sandbox.script("drun", duration_seconds=60)
    with watching(producer) as state:
        start_worker(IMPORTS_WORKER_POOL=pool)
        running = producer.send(members("drun"))
        wait_until(lambda: running.state == "RUNNING", "it runs")
        waiting = producer.send(members("drun"))
        good, bad = producer.send(members("dgood")), producer.send(members("dbad"))
        invalid = producer.send(members("Not-An-App"))
        batch = producer.send_batch("nightly", [{"importId": "in-batch", **members("dbatch")}])
        producer.add({"importId": "by-stream", **members("dstream")})
        expected = {
            running.id: ("RUNNING", "drun/staging"),
            waiting.id: ("WAITING", "drun/staging"),
            good.id: ("SUCCESS", "dgood/staging"),
            bad.id: ("FAILURE", "dbad/staging"),
            invalid.id: ("FAILURE", "Not-An-App/staging"),
            "in-batch": ("SUCCESS", "dbatch/staging"),
            "by-stream": ("SUCCESS", "dstream/staging"),
            batch.id: ("SUCCESS", "nightly"),
        }

        def rows() -> dict[str, Any]:
            return dict(state.tasks.items())

        def is_shown() -> bool:
            shown = {task_id: row.state for task_id, row in rows().items()}
            return shown == {task_id: each[0] for task_id, each in expected.items()}

        wait_until(is_shown, f"the rows are {expected}")
        found = rows()
        assert {each.hostname for each in state.workers.values()} == set(state.workers)
        assert len(state.workers) == 1, "no row belongs to an unknown worker"
    for task_id, (_, target) in expected.items():
        assert target in found[task_id].kwargs
        assert found[task_id].received
    for task_id in (good.id, bad.id, "in-batch", "by-stream"):
        (end,) = producer.events("import.succeeded", "import.failed", import_id=task_id)
        row = found[task_id]
        assert row.runtime == pytest.approx(seconds_between(end["data"]), abs=0.002)
        assert "'lane': 'default/us-east-1'" in row.kwargs
    assert found[good.id].runtime > 0
    assert "'batchId': 'nightly'" in found["in-batch"].kwargs
    assert "ImportFailed" in found[bad.id].exception
    assert "job " in found[running.id].result


def seconds_between(data: dict[str, Any]) -> float:
    """Return how long an import ran, according to its terminal event."""
    began, ended = (datetime.fromisoformat(data[name]) for name in ("startedAt", "finishedAt"))
    return (ended - began).total_seconds()
