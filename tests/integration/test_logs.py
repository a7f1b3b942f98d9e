"""The log of a worker: one line for each import that ended, and every line is JSON."""

import json
from itertools import dropwhile
from typing import Any

import pytest

from tests.support import (
    ACCESS_KEY,
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    members,
    wait_until,
)
from worker.sandbox.scenario import Scenario

LINE_OF_AN_END = {
    *("event", "level", "timestamp", "import_id", "batch_id", "target", "lane", "operation"),
    *("priority", "job_id", "outcome", "waited_seconds", "ran_seconds", "attempts", "polls"),
    *("conflicts", "doubts", "throttled", "retry_of", "error"),
}


def lines_of(worker: Worker) -> list[dict[str, Any]]:
    """Return every complete line of a worker's log. Each of them must be a JSON object.

    Before the first of them, Celery prints its banner.
    """
    text, _, _ = worker.log.rpartition("\n")
    lines = text.splitlines()
    return [json.loads(line) for line in dropwhile(lambda each: each[:1] != "{", lines)]


def end_of(worker: Worker, import_id: str) -> dict[str, Any]:
    """Wait for the line about the end of an import, and return it."""

    def found() -> list[dict[str, Any]]:
        return [
            line
            for line in lines_of(worker)
            if line.get("import_id") == import_id and "outcome" in line
        ]

    wait_until(found, f"the end of {import_id} is logged")
    (line,) = found()
    assert set(line) == LINE_OF_AN_END
    assert line["event"] == f"import.{line['outcome']}"
    return line


def test_an_import_that_succeeded_is_told_in_one_line(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dgood", duration_seconds=0.1)
    worker = start_worker()
    producer.send_batch("b", [members("dgood", importId="good", priority="high")])
    line = end_of(worker, "good")
    (job,) = sandbox.jobs("dgood")
    assert line | {"timestamp": "", "waited_seconds": 0, "ran_seconds": 0, "polls": 0} == {
        "event": "import.succeeded",
        "level": "info",
        "timestamp": "",
        "import_id": "good",
        "batch_id": "b",
        "target": "dgood/staging",
        "lane": "default/us-east-1",
        "operation": "ImportBackendAuth",
        "priority": "high",
        "job_id": job["jobId"],
        "outcome": "succeeded",
        "waited_seconds": 0,
        "ran_seconds": 0,
        "attempts": 1,
        "polls": 0,
        "conflicts": 0,
        "doubts": 0,
        "throttled": 0,
        "retry_of": None,
        "error": None,
    }
    assert line["waited_seconds"] >= 0
    assert line["ran_seconds"] >= 0.1


@pytest.mark.parametrize(
    ("target", "request_", "outcome", "level"),
    [
        ({"outcome": "fail"}, {}, "failed", "info"),
        ({"outcome": "reject"}, {}, "rejected", "info"),
        ({"outcome": "never"}, {"deadlineSeconds": 1}, "timed_out", "info"),
        ({}, {"appId": "no id"}, "rejected", "warning"),
    ],
    ids=["failed", "rejected by AWS", "timed out", "rejected at admission"],
)
def test_an_import_that_did_not_succeed_is_told_in_one_line(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    target: dict[str, Any],
    request_: dict[str, Any],
    outcome: str,
    level: str,
) -> None:
    sandbox.script("dbad", duration_seconds=0.1, **target)
    worker = start_worker()
    task = producer.send(members("dbad") | request_)
    line = end_of(worker, task.id)
    assert (line["outcome"], line["level"]) == (outcome, level)
    assert line["error"]
    was_started = level == "info"
    assert (line["ran_seconds"] is not None) is was_started


def test_an_import_cancelled_by_a_command_is_told_in_one_line(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    sandbox.script("dslow", duration_seconds=60)
    worker = start_worker()
    task = producer.send(members("dslow"))
    wait_until(lambda: producer.events("import.started", import_id=task.id), "it runs")
    assert command("cancel", task.id, "--reason", "wrong pool").returncode == 0
    line = end_of(worker, task.id)
    assert (line["outcome"], line["error"], line["attempts"]) == ("cancelled", "wrong pool", 1)
    assert line["job_id"]


def test_the_line_counts_calls_that_aws_throttled(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    jobs = {"min_seconds": 0.5, "max_seconds": 0.5}
    sandbox.reset(Scenario.model_validate({"jobs": jobs, "quota": {"max_running": 2}}))
    worker = start_worker(IMPORTS_START_RATE="", IMPORTS_START_BURST="")
    tasks = [producer.send(members(f"dmany{n}")) for n in range(12)]
    counted = [end_of(worker, task.id)["throttled"] for task in tasks]
    refused = [
        call
        for operation in ("ImportBackendAuth", "GetBackendJob", "ListBackendJobs")
        for call in sandbox.calls(operation)
        if call["status"] == 429
    ]
    assert sum(counted) == len(refused) > 0


def test_every_line_of_a_worker_is_a_json_object_without_secrets(
    start_worker: StartWorker, producer: Producer
) -> None:
    worker = start_worker()
    producer.app.send_task("no.such.task", args=["password=hunter2"], queue="imports")
    task = producer.send(members("dgood"))
    end_of(worker, task.id)
    for line in lines_of(worker):
        assert {"event", "level", "timestamp"} <= set(line), line
    for secret in (ACCESS_KEY, "not-a-secret", "hunter2"):
        assert secret not in worker.log
