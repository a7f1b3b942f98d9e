"""Celery's options and remote control commands, with a real worker."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    BIN,
    PROJECT,
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    environment_for,
    members,
    wait_until,
)
from worker.store.records import SHORT


@pytest.mark.parametrize(
    ("options", "settings", "sentence"),
    [
        ("--autoscale 4,1", {}, "--autoscale needs a pool that can grow, and thread can't"),
        ("--autoscale 2 -P solo", {}, "--autoscale needs a pool that can grow, and solo can't"),
        ("-P custom", {}, "the pool failing_worker can't run here, threads, prefork and solo can"),
        ("", {"IMPORTS_WORKER_POOL": "gevent"}, "IMPORTS_WORKER_POOL: Input should be 'threads'"),
        ("-Q other", {}, "-Q and -X leave out imports and imports.finish"),
        ("-Q imports", {}, "-Q and -X leave out imports.finish"),
        ("-X imports.finish", {}, "-Q and -X leave out imports.finish"),
        ("-D", {}, "-D needs --logfile"),
        ("-X imports", {"IMPORTS_BROKER_URL": "amqp://nobody"}, "-Q and -X leave out imports:"),
    ],
)
def test_an_option_that_can_not_work_is_refused_in_one_sentence(
    sandbox: Sandbox,
    store_url: str,
    tmp_path: Path,
    options: str,
    settings: dict[str, str],
    sentence: str,
) -> None:
    environment = {
        **environment_for(sandbox, store_url, **settings),
        "CELERY_CUSTOM_WORKER_POOL": "tests.integration.failing_worker:GreenPool",
    }
    is_real = "custom" in options  # Celery reads the variable while it is imported
    worker = Worker(environment, tmp_path / "out.log", options=options.split(), is_real=is_real)
    assert worker.process.wait(90) == 1
    assert worker.log.splitlines()[-1].startswith(f"amplify-import-worker: {sentence}")
    assert "Traceback" not in worker.log


def test_a_pool_of_processes_grows_with_its_work(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker(options=("--autoscale=4,1",), IMPORTS_WORKER_POOL="prefork")
    tasks = [producer.send(members(f"d{n}")) for n in range(10)]
    assert {task.get(timeout=60)["outcome"] for task in tasks} == {"succeeded"}


@pytest.mark.parametrize(
    "broker_url", ["store", "rabbitmq"], indirect=True, ids=["store", "rabbitmq"]
)
def test_a_defect_of_the_worker_does_not_reject_the_message(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    store_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    environment = environment_for(sandbox, store_url, IMPORTS_BROKER_URL=broker_url)
    failing = Worker(environment, tmp_path / "failing.log", app="tests.integration.failing_worker")
    try:
        failing.wait_until_ready()
        tasks = [producer.send(members(f"d{n}")) for n in range(3)]
        wait_until(lambda: failing.log.count("message.unhandled") >= 3, "it fails on all of them")
        assert failing.process.poll() is None
        assert not producer.events()
    finally:
        failing.kill()
    start_worker()
    assert {task.get(timeout=60)["outcome"] for task in tasks} == {"succeeded"}


def control(producer: Producer, command: str, **arguments: Any) -> Any:
    """Give a command to the one worker; return its answer."""
    # On Redis, a worker subscribes to commands only as its loop begins, after it says "ready".
    wait_until(lambda: producer.app.control.ping(timeout=1, limit=1), "the worker hears commands")
    replies = producer.app.control.broadcast(
        command, arguments=arguments, reply=True, timeout=60, limit=1
    )
    ((answer,),) = (reply.values() for reply in replies or [])
    return answer


def consumed(producer: Producer) -> set[str]:
    """Return the names of the queues that the one worker consumes."""
    return {queue["name"] for queue in control(producer, "active_queues")}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_unsuitable_command_is_refused_with_the_way_that_works(
    start_worker: StartWorker, producer: Producer, pool: str
) -> None:
    worker = start_worker(IMPORTS_WORKER_POOL=pool)
    imports = {"task_name": "imports.import_backend_auth"}
    refused = {
        "lanes set-rate": control(producer, "rate_limit", **imports, rate_limit="1/h"),
        "deadlineSeconds": control(producer, "time_limit", **imports, hard=1.0),
        "shutdown": control(producer, "cancel_consumer", queue="imports.finish"),
    }
    if pool == "threads":
        refused["IMPORTS_WORKER_CONCURRENCY"] = control(producer, "pool_grow", n=2)
        refused["MAX_IN_FLIGHT"] = control(producer, "pool_shrink", n=1)
    else:
        assert control(producer, "pool_grow", n=1) == {"ok": "pool will grow"}
    for way, answer in refused.items():
        assert way in answer["error"]
    limited = control(producer, "rate_limit", task_name="celery.accumulate", rate_limit="5/s")
    assert limited == {"ok": "new rate limit set successfully"}
    tasks = [producer.send(members(f"d{n}")) for n in range(3)]
    assert {task.get(timeout=60)["outcome"] for task in tasks} == {"succeeded"}
    assert "Traceback" not in worker.log


@pytest.mark.parametrize(
    "broker_url", ["store", "rabbitmq"], indirect=True, ids=["store", "rabbitmq"]
)
def test_a_worker_that_no_longer_consumes_takes_no_message_and_finishes_its_work(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dbefore", duration_seconds=3)
    start_worker()
    before = producer.send(members("dbefore"))
    wait_until(lambda: before.state == "RUNNING", "it runs")
    control(producer, "cancel_consumer", queue="imports")
    # Celery answers before it tells RabbitMQ: what is sent at once may still be delivered.
    wait_until(lambda: "imports" not in consumed(producer), "it consumes no longer")
    behind = producer.send(members("dbehind"))
    assert before.get(timeout=60)["outcome"] == "succeeded"
    assert behind.state == "PENDING"
    control(producer, "add_consumer", queue="imports")
    assert behind.get(timeout=60)["outcome"] == "succeeded"


def test_a_worker_is_drained_by_a_command(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dlast", faults=[{"kind": "slow"}])
    worker = start_worker(IMPORTS_LEASE_SECONDS="10")
    task = producer.send(members("dlast"))
    record = f"imports:import:{task.id}"
    wait_until(
        lambda: producer.redis.hget(record, SHORT["attempts"]) == "1", "its start is in progress"
    )
    producer.app.control.shutdown()
    assert worker.process.wait(90) == 0
    assert producer.redis.hget(record, SHORT["job_id"])


@pytest.mark.parametrize(
    ("options", "pool", "expected"),
    [
        ((), "threads", {"info"}),
        (("-l", "WARNING"), "threads", set()),
        (("-l", "DEBUG"), "prefork", {"info", "debug"}),
    ],
    ids=["by default", "less", "more"],
)
def test_the_log_goes_where_it_is_sent_at_the_level_asked_for(
    sandbox: Sandbox,
    store_url: str,
    producer: Producer,
    tmp_path: Path,
    options: tuple[str, ...],
    pool: str,
    expected: set[str],
) -> None:
    environment = environment_for(sandbox, store_url, IMPORTS_WORKER_POOL=pool)
    where = f"--logfile={tmp_path}/to-%n.log"
    worker = Worker(environment, tmp_path / "out.log", options=(where, *options))
    try:
        assert producer.send(members()).get(timeout=60)["outcome"] == "succeeded"
    finally:
        assert worker.stop() == 0
    lines = (tmp_path / "to-out.log").read_text().splitlines()
    levels = {json.loads(line)["level"] for line in lines}
    assert levels - {"warning", "error"} == expected
    if expected:
        assert any("import.accepted" in line for line in lines)
    assert '"event"' not in worker.log


def test_a_worker_that_detaches_from_its_terminal_keeps_its_log(
    sandbox: Sandbox, store_url: str, producer: Producer, tmp_path: Path
) -> None:
    pid_file, log = tmp_path / "worker.pid", tmp_path / "worker.log"
    options = ["-D", f"--pidfile={pid_file}", f"--logfile={log}"]
    started = subprocess.run(
        [str(BIN / "celery"), "-A", "worker", "worker", *options],
        cwd=PROJECT,
        env={**os.environ, **environment_for(sandbox, store_url)},
        timeout=90,
        check=False,
    )
    assert started.returncode == 0
    wait_until(pid_file.exists, "it runs")
    pid = int(pid_file.read_text())
    try:
        assert producer.send(members()).get(timeout=60)["outcome"] == "succeeded"
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not pid_file.exists(), "it has ended")
    assert "import.accepted" in log.read_text()
