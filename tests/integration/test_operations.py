"""More operations: through every entry point, next to the first one, and with unknown outcomes."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    storage_members,
    wait_until,
)
from worker.sandbox.scenario import Scenario

STORAGE = "ImportBackendStorage"
STORAGE_TASK = "imports.import_backend_storage"


def storage(app: str = "d1", **more: Any) -> dict[str, Any]:
    """Return the members of a storage request for an entry point that implies the operation."""
    request = storage_members(app, **more)
    del request["operation"]
    return request


def send(producer: Producer, request: dict[str, Any]) -> Any:
    return producer.app.send_task(STORAGE_TASK, kwargs=request, queue="imports")


def spans(sandbox: Sandbox, app: str) -> list[tuple[float, float]]:
    """Return when each job of an app began and ended, in order."""
    return sorted((job["created"], job["finished"]) for job in sandbox.jobs(app))


def test_storage_requests_arrive_through_each_entry_point_and_end_natively(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    start_worker()
    task = send(producer, storage("dtask", metadata={"team": "blue"}))
    batch = producer.send_batch(
        "nightly",
        [storage_members("dbatch"), members("dauth"), storage_members("x")],
    )
    producer.add({"import_id": "by-stream", **storage_members("dstream")})

    result = task.get(timeout=60)
    assert (result["appId"], result["outcome"]) == ("dtask", "succeeded")
    assert "torage" in result["operation"].lower()
    assert producer.app.AsyncResult("by-stream").get(timeout=60)["outcome"] == "succeeded"
    assert batch.get(timeout=60)["rejected"] == 1
    assert producer.wait_for_event("batch.completed", batchId="nightly")["data"]["succeeded"] == 2
    ended = producer.wait_for_event("import.succeeded", importId=task.id)["data"]
    assert ended["metadata"] == {"team": "blue"}
    assert {(job["target"], job["operation"]) for job in sandbox.jobs()} == {
        ("dtask/staging", STORAGE),
        ("dbatch/staging", STORAGE),
        ("dstream/staging", STORAGE),
        ("dauth/staging", "ImportBackendAuth"),
    }
    assert sandbox.jobs("dtask")[0]["request"] == {"bucketName": "uploads", "serviceName": "S3"}
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert_nothing_left_behind(producer.redis)


def test_imports_of_one_environment_wait_for_each_other_whatever_they_import(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dboth", duration_seconds=0.7)
    start_worker()
    tasks = [
        task
        for _ in range(2)
        for task in (producer.send(members("dboth")), send(producer, storage("dboth")))
    ]
    assert [task.get(timeout=60)["outcome"] for task in tasks] == ["succeeded"] * 4
    ran = spans(sandbox, "dboth")
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ran))
    assert {call["status"] for call in sandbox.calls() + sandbox.calls(STORAGE)} == {200}


@pytest.mark.parametrize("fault", ["error_504_after", "reset_after", "no_job_id"])
def test_a_lost_answer_starts_no_second_job(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, fault: str
) -> None:
    """The job that an earlier import of the environment started is not adopted either."""
    sandbox.reset(Scenario.model_validate({"jobs": {"min_seconds": 0.2, "max_seconds": 0.4}}))
    lost = {"kind": fault, "operation": STORAGE, "times": 1}
    sandbox.script("dlost", faults=[lost], duration_seconds=0.3)
    start_worker(IMPORTS_SETTLE_SECONDS="0.3")
    first = producer.send(members("dlost"))
    assert first.get(timeout=60)["outcome"] == "succeeded"
    second = send(producer, storage("dlost"))
    result = second.get(timeout=60)
    auth, bucket = sorted(sandbox.jobs("dlost"), key=lambda job: job["created"])
    assert (auth["operation"], bucket["operation"]) == ("ImportBackendAuth", STORAGE)
    assert result["jobId"] == bucket["jobId"]


@pytest.mark.parametrize(
    ("task", "request_", "message"),
    [
        (STORAGE_TASK, members("d1"), "userPoolId: is a member of ImportBackendAuth"),
        (STORAGE_TASK, storage(bucketName="A bucket"), "bucketName: must look like my-app-uploads"),
        (STORAGE_TASK, storage(serviceName="Drive"), "serviceName: must be 'S3', got 'Drive'"),
        (STORAGE_TASK, members("d1", operation="ImportBackendAuth"), "operation: differs from"),
        ("imports.import_backend_auth", storage(), "bucketName: is a member of ImportBackendSto"),
        ("imports.import_backend_auth", storage_members(), "operation: differs from that"),
    ],
    ids=["members", "bucket", "service", "other", "of auth", "of auth by name"],
)
def test_a_task_names_what_is_wrong(
    start_worker: StartWorker, producer: Producer, task: str, request_: Any, message: str
) -> None:
    start_worker()
    sent = producer.app.send_task(task, kwargs=request_, queue="imports")
    with pytest.raises(Exception, match="rejected") as caught:
        sent.get(timeout=60)
    assert message in str(caught.value)


def test_a_file_may_mix_operations_and_a_retry_keeps_the_operation(
    command: CommandLine,
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    start_worker()
    path = tmp_path / "apps.csv"
    path.write_text(
        "Operation,appId,backendEnvironmentName,userPoolId,webClientId,nativeClientId,bucketName\n"
        ",d1,staging,us-east-1_AbCdEf123,web,native,\n"
        f"{STORAGE},d1,staging,,,,uploads\n"
        f"{STORAGE},dbad,staging,,,,uploads\n"
    )
    done = command("submit", path, "--batch-id", "both")
    assert done.returncode == 0, done.stderr
    completed = producer.wait_for_event("batch.completed", batchId="both")["data"]
    assert (completed["succeeded"], completed["failed"]) == (2, 1)
    (failed,) = producer.events("import.failed")
    import_id = failed["data"]["importId"]
    assert (
        json.loads(command("status", import_id, "--json").stdout)["requestedOperation"] == STORAGE
    )
    assert f"{STORAGE} of dbad/staging" in command("explain", import_id).stdout

    sandbox.script("dbad", outcome="succeed", duration_seconds=0.1)
    assert command("retry", import_id, "--yes").returncode == 0
    producer.wait_for_event("import.succeeded", importId=f"{import_id}:retry-1")
    assert [job["operation"] for job in sandbox.jobs("dbad")] == [STORAGE] * 2
    audit = command("audit")
    assert audit.returncode == 0, audit.stdout


def test_a_file_without_a_column_for_the_operation_contains_auth_requests(
    command: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "buckets.csv"
    path.write_text("appId,backendEnvironmentName,bucketName\nd1,staging,uploads\n")
    done = command("submit", path)
    assert done.returncode == 2
    assert "the header lacks userPoolId, webClientId, nativeClientId" in done.stderr
