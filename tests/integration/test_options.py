"""Celery's options and remote control, given to a real worker."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartWorker
from tests.support import (
    BIN,
    PROJECT,
    Producer,
    Sandbox,
    Worker,
    environment_for,
    members,
    wait_until,
)


@pytest.mark.parametrize(
    ("options", "settings", "sentence"),
    [
        ("--autoscale 4,1", {}, "--autoscale needs a pool that can grow, and thread can't"),
        ("--autoscale 2 -P solo", {}, "--autoscale needs a pool that can grow, and solo can't"),
        ("-P custom", {}, "the pool ailing can't run here, threads, prefork and solo can"),
        ("", {"IMPORTS_WORKER_POOL": "gevent"}, "IMPORTS_WORKER_POOL: Input should be 'threads'"),
        ("-Q other", {}, "-Q and -X leave out imports and imports.finish"),
        ("-Q imports", {}, "-Q and -X leave out imports.finish"),
        ("-X imports.finish", {}, "-Q and -X leave out imports.finish"),
        ("-X imports", {"IMPORTS_BROKER_URL": "amqp://nobody"}, "-Q and -X leave out imports:"),
    ],
)
def test_an_option_that_can_not_work_is_refused_in_one_sentence(
    sandbox: Sandbox, store_url: str, options: str, settings: dict[str, str], sentence: str
) -> None:
    environment = {
        **os.environ,
        **environment_for(sandbox, store_url, **settings),
        "CELERY_CUSTOM_WORKER_POOL": "tests.integration.ailing:Green",
    }
    done = subprocess.run(
        [str(BIN / "celery"), "-A", "worker", "worker", *options.split()],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"amplify-import-worker: {sentence}")
    assert "Traceback" not in done.stderr


def test_a_pool_of_processes_grows_with_its_work(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker(options=("--autoscale=4,1",), IMPORTS_WORKER_POOL="prefork")
    tasks = [producer.send(members(f"d{n}")) for n in range(10)]
    assert {task.get(timeout=20)["outcome"] for task in tasks} == {"succeeded"}


@pytest.mark.parametrize(
    "broker_url", ["store", "rabbitmq"], indirect=True, ids=["store", "rabbitmq"]
)
def test_a_fault_of_the_worker_is_no_fault_of_the_message(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    store_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    environment = environment_for(sandbox, store_url, IMPORTS_BROKER_URL=broker_url)
    ailing = Worker(environment, tmp_path / "ailing.log", app="tests.integration.ailing")
    try:
        ailing.wait_until_ready()
        tasks = [producer.send(members(f"d{n}")) for n in range(3)]
        wait_until(lambda: ailing.log.count("message.unhandled") >= 3, "it fails on all of them")
        assert ailing.process.poll() is None
        assert not producer.events()
    finally:
        ailing.kill()
    start_worker()
    assert {task.get(timeout=40)["outcome"] for task in tasks} == {"succeeded"}
