"""A real worker process, configured only by environment variables, and a separate producer."""

import signal
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from tests.support import (
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    wait_until,
)
from worker.sandbox.scenario import Credentials, Scenario
from worker.store.records import SHORT

EVERYWHERE = pytest.mark.parametrize(
    ("store_url", "broker_url"),
    [("valkey", "store"), ("redis", "store"), ("redis", "rabbitmq")],
    indirect=True,
    ids=["valkey", "redis", "rabbitmq"],
)
RESULT_MEMBERS = {
    "importId",
    "appId",
    "backendEnvironmentName",
    "jobId",
    "operation",
    "status",
    "error",
    "outcome",
    "attempts",
    "acceptedAt",
    "startedAt",
    "finishedAt",
}


@EVERYWHERE
def test_an_import_through_each_entry_point_succeeds_natively(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    start_worker()
    task = producer.send(members("dtask", metadata={"team": "blue"}))
    batch = producer.send_batch("nightly", [members("dbatch"), members("x")])
    producer.add({"importId": "by-stream", **members("dstream")})

    result = task.get(timeout=60)
    assert set(result) == RESULT_MEMBERS
    assert result["importId"] == task.id
    assert result["outcome"] == "succeeded"
    assert result["jobId"] == sandbox.jobs("dtask")[0]["jobId"]
    assert producer.app.AsyncResult("by-stream").get(timeout=60)["appId"] == "dstream"
    assert batch.get(timeout=60) == {
        "batchId": "nightly",
        "accepted": 1,
        "known": 0,
        "rejected": 1,
    }
    completed = producer.wait_for_event("batch.completed", batchId="nightly")
    assert completed["data"]["succeeded"] == 1
    assert completed["data"]["rejected"] == 1
    started = producer.events("import.started", import_id=task.id)
    assert [event["data"]["metadata"] for event in started] == [{"team": "blue"}]
    assert [call["status"] for call in sandbox.calls(app="d")] == [200, 200, 200]
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "all tasks have finished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert_nothing_left_behind(producer.redis)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_non_final_states_are_visible(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, pool: str
) -> None:
    sandbox.script("dslow", duration_seconds=3)
    start_worker(is_real=True, IMPORTS_WORKER_POOL=pool)
    first = producer.send(members("dslow"))
    wait_until(lambda: first.state == "RUNNING", "the first import runs")
    second = producer.send(members("dslow"))
    assert first.info["jobId"] == sandbox.jobs("dslow")[0]["jobId"]
    wait_until(lambda: second.state == "WAITING", "the second waits for the same target")
    assert len(sandbox.jobs("dslow")) == 1
    assert first.get(timeout=60)["outcome"] == "succeeded"
    assert second.get(timeout=60)["outcome"] == "succeeded"
    jobs = sorted(sandbox.jobs("dslow"), key=lambda job: job["created"])
    assert jobs[0]["finished"] <= jobs[1]["created"]


def test_groups_chords_chains_and_links_work_as_for_any_task(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    start_worker()
    app = producer.app

    def importing(name: str) -> Any:
        return app.signature(
            "imports.import_backend_auth", kwargs=members(name), queue="imports", app=app
        )

    grouped = group([importing(f"dgroup{n}") for n in range(5)], app=app).apply_async()
    assert [r["outcome"] for r in grouped.get(timeout=60)] == ["succeeded"] * 5

    chained = chain(importing("dfirst"), importing("dsecond"), app=app).apply_async()
    assert chained.get(timeout=60)["appId"] == "dsecond"
    parent: Any = chained.parent
    assert parent.get(timeout=60)["appId"] == "dfirst"
    first, second = (sandbox.jobs(name)[0] for name in ("dfirst", "dsecond"))
    assert first["finished"] <= second["created"]

    collecting = app.signature("celery.accumulate", queue="imports", app=app)
    header = [importing(f"dchord{n}") for n in range(5)]
    chorded = chord(header, body=collecting, app=app).apply_async()
    (results,) = chorded.get(timeout=60)
    assert [result["outcome"] for result in results] == ["succeeded"] * 5

    importing("dlink").apply_async(
        link=importing("dlinked").set(immutable=True), link_error=importing("dnever")
    )
    producer.wait_for_event("import.succeeded", appId="dlinked")
    importing("dbad").apply_async(
        link=importing("dnever"), link_error=importing("dcleanup").set(immutable=True)
    )
    producer.wait_for_event("import.succeeded", appId="dcleanup")
    assert not sandbox.calls(app="dnever")


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ({"outcome": "fail", "duration_seconds": 0.1}, "ImportFailed", "job "),
        ({"outcome": "not_found"}, "ImportRejected", "NotFoundException"),
        ({"outcome": "reject"}, "ImportRejected", "BadRequestException"),
        ({"outcome": "never"}, "ImportTimedOut", "not finished within 1 s"),
    ],
    ids=["failed", "not found", "refused", "timed out"],
)
def test_an_unsuccessful_import_fails_its_task(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    target: dict[str, Any],
    error: str,
    text: str,
) -> None:
    sandbox.script("dbad", **target)
    worker = start_worker()
    deadline = {"deadlineSeconds": 1} if error == "ImportTimedOut" else {}
    task = producer.send(members("dbad", **deadline))
    with pytest.raises(Exception, match="dbad/staging") as raised:
        task.get(timeout=60)
    assert type(raised.value).__name__ == error
    assert text in str(raised.value)
    assert "Traceback" not in worker.log


def test_every_invalid_request_is_answered_and_none_stops_the_worker(
    start_worker: StartWorker, producer: Producer
) -> None:
    worker = start_worker()
    bad = {
        "nonsense": producer.send(members("d1", nonsense=1)),
        "appId": producer.send(members("Not-An-App")),
        "self": producer.send(members("d1", self=1)),
        "metadata": producer.send(members("d1", metadata={"k": "x" * 1_000_000})),
        "arguments": producer.app.send_task(
            "imports.import_backend_auth", args=["d1"], kwargs=members("d1"), queue="imports"
        ),
    }
    for member, task in bad.items():
        with pytest.raises(Exception, match=rf"\b{member}[.a-z]*: ") as raised:
            task.get(timeout=60)
        assert type(raised.value).__name__ == "ImportRejected"
        assert len(producer.events("import.rejected", import_id=task.id)) == 1
    for junk in (b"\xff\xfe\x00", "not json", "[]", "{}", '"' * 20_000, "[" * 10_000, "x" * 2**20):
        producer.add(junk)
    producer.redis.xadd("imports:requests", {"something": "else"})
    wait_until(lambda: len(producer.events("import.rejected")) == 13, "all junk is rejected")
    wait_until(lambda: producer.redis.xlen("imports:requests") == 0, "the stream is empty again")
    for kwargs in ({}, {"batchId": "b", "requests": [{}] * 1001}, {"batchId": "b", "more": 1}):
        with pytest.raises(Exception, match=r"batchId|requests|more"):
            producer.app.send_task("imports.import_batch", kwargs=kwargs, queue="imports").get(20)
    assert producer.send(members("dgood")).get(timeout=60)["outcome"] == "succeeded"
    assert "Traceback" not in worker.log


def test_an_invalid_import_id_is_named_and_reported_as_it_was_sent(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker()
    given = {"a\nb": r"'a\nb'", "*": "'*'", "": "''", "\ud800": r"'\ud800'", 7: "7", True: "True"}
    for import_id in given:
        producer.add({"importId": import_id, **members(batchId="nightly")})
    producer.add({"import_id": ["x"], **members(batchId="nightly")})
    producer.add({"importId": "x" * 129, **members(batchId="nightly")})
    producer.send_batch("nightly", [{"importId": "*", **members()}]).get(timeout=60)
    looks = "importId: must look like an id of letters, digits and ._:@+=-, got"
    expected = {
        *(f"{looks} {shown}" for shown in given.values()),
        f"{looks} ['x']",
        f"importId: is longer than 128 characters, got '{'x' * 63}…",
    }
    wait_until(lambda: len(producer.events("import.rejected")) == 9, "each of them is rejected")
    rejected = [event["data"] for event in producer.events("import.rejected")]
    assert {data["error"] for data in rejected} == expected
    assert {(data["appId"], data["batchId"]) for data in rejected} == {("d1", "nightly")}


def test_a_request_with_a_taken_id_does_not_get_the_end_of_the_other_import(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dslow", duration_seconds=3)
    start_worker()
    producer.add({"importId": "taken", **members("dslow")})
    producer.wait_for_event("import.started", importId="taken")
    producer.add({"importId": "taken", **members("dother")})
    refused = producer.wait_for_event("import.rejected", appId="dother")["data"]["importId"]
    with pytest.raises(Exception, match="is another request already"):
        producer.app.AsyncResult(refused).get(timeout=60)
    assert producer.app.AsyncResult("taken").get(timeout=60)["outcome"] == "succeeded"


def test_no_request_is_lost_because_its_id_is_taken(
    start_worker: StartWorker, producer: Producer
) -> None:
    """A batch's second message has no offset; a stream entry has an id that is taken."""
    start_worker()
    first = producer.send_batch("nightly", [members("da"), members("db")])
    assert first.get(timeout=60)["accepted"] == 2
    second = producer.send_batch("nightly", [members("dc"), members("da")])
    assert second.get(timeout=60)["rejected"] == 2
    again = producer.send_batch("nightly", [members("da"), members("db")])
    assert again.get(timeout=60)["known"] == 2
    producer.add({"importId": "taken", **members("dd")})
    producer.add({"importId": "taken", **members("de")})
    for app in ("dc", "da", "de"):
        refused = producer.wait_for_event("import.rejected", appId=app)
        assert "is another request already" in refused["data"]["error"]
    producer.add({**members("Not-An-App", batchId="b")})
    assert producer.wait_for_event("import.rejected", batchId="b")
    oversized = producer.send_batch("big", [members("da")] * 1001)
    producer.wait_for_event("import.rejected", importId=oversized.id)


def test_all_tasks_with_the_same_key_get_the_same_end(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker()
    for name in ("early", "late"):
        producer.add({"importId": name, **members("dkey", idempotencyKey="once")})
        assert producer.app.AsyncResult(name).get(timeout=60)["importId"] == "early"


def test_the_imports_own_job_is_found_in_a_slow_list(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.reset(Scenario.model_validate({"fault_settings": {"slow_seconds": 4}}))
    faults = [
        {"kind": "error_504_after", "times": 1},
        {"kind": "slow", "operation": "ListBackendJobs"},
    ]
    sandbox.script("dslow", duration_seconds=1, faults=faults)
    start_worker(IMPORTS_LEASE_SECONDS="20")
    assert producer.send(members("dslow")).get(timeout=60)["attempts"] == 1
    assert len(sandbox.jobs("dslow")) == 1


@pytest.mark.parametrize("process", ["/nowhere/to/be/found", "echo junk"])
def test_unavailable_credentials_pause_the_lane(
    start_worker: StartWorker, producer: Producer, tmp_path: Path, process: str
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[profile broken]\ncredential_process = {process}\n")
    start_worker(AWS_CONFIG_FILE=str(config))
    producer.send(members("dbroken", account="broken"))
    producer.wait_for_event("lane.paused", lane="broken/us-east-1")
    assert producer.send(members("dgood")).get(timeout=60)["outcome"] == "succeeded"


def test_one_idempotency_key_is_one_import_for_all_requests(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dkey", duration_seconds=1)
    start_worker()
    tasks = [producer.send(members("dkey", idempotencyKey="once")) for _ in range(3)]
    results = [task.get(timeout=60) for task in tasks]
    assert len({result["importId"] for result in results}) == 1
    assert len(sandbox.calls(app="dkey")) == 1
    with pytest.raises(
        Exception, match=r"idempotencyKey: import .* has used it for another request"
    ):
        producer.send(members("dother", idempotencyKey="once")).get(timeout=60)


@pytest.mark.parametrize("fault", ["error_504_after", "reset_after", "truncated", "no_job_id"])
def test_a_call_that_took_effect_unseen_is_not_made_again(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, fault: str
) -> None:
    sandbox.script("ddoubt", duration_seconds=1, faults=[{"kind": fault, "times": 1}])
    start_worker()
    result = producer.send(members("ddoubt")).get(timeout=60)
    assert result["outcome"] == "succeeded"
    assert result["attempts"] == 1
    assert [job["jobId"] for job in sandbox.jobs("ddoubt")] == [result["jobId"]]


def test_a_call_that_had_no_effect_is_made_again(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    faults = [{"kind": "error_504_before", "times": 1}, {"kind": "reset_before", "times": 1}]
    sandbox.script("dagain", faults=faults)
    start_worker()
    result = producer.send(members("dagain")).get(timeout=60)
    assert result["outcome"] == "succeeded"
    assert result["attempts"] == 3
    assert len(sandbox.jobs("dagain")) == 1


def test_bad_credentials_pause_the_lane_and_use_no_attempts(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.set_credentials("AKIATESTDEFAULT00000", Credentials.EXPIRED)
    start_worker()
    tasks = [producer.send(members(f"dpaused{n}")) for n in range(20)]
    paused = producer.wait_for_event("lane.paused", lane="default/us-east-1")
    assert "ExpiredToken" in paused["data"]["reason"]
    sandbox.set_credentials("AKIATESTDEFAULT00000", Credentials.OK)
    assert {task.get(timeout=60)["attempts"] for task in tasks} == {1}
    producer.wait_for_event("lane.resumed", lane="default/us-east-1")
    assert len(producer.events("lane.paused")) == 1


def test_a_hanging_job_is_reported_once_as_stuck(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dstuck", duration_seconds=3)
    start_worker(IMPORTS_STUCK_SECONDS="1")
    task = producer.send(members("dstuck"))
    assert task.get(timeout=60)["outcome"] == "succeeded"
    assert len(producer.events("import.stuck", import_id=task.id)) == 1


def test_a_killed_worker_loses_and_repeats_nothing(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    """The worker dies during starts; another one takes over after the lease."""
    for n in range(10):
        sandbox.script(f"dkill{n}", faults=[{"kind": "slow", "times": 1}], duration_seconds=1)
    first = start_worker()
    tasks = [producer.send(members(f"dkill{n}")) for n in range(10)]
    # Not earlier: a Redis broker may lose what it has just handed to a worker that dies.
    wait_until(lambda: len(producer.events("import.accepted")) == 10, "all are accepted")
    wait_until(lambda: len(sandbox.calls(app="dkill")) >= 3, "a few starts have been made")
    first.kill()
    start_worker()
    assert {task.get(timeout=60)["outcome"] for task in tasks} == {"succeeded"}
    for n in range(10):
        assert len(sandbox.jobs(f"dkill{n}")) == 1
    terminal = [event["data"]["importId"] for event in producer.events("import.succeeded")]
    assert sorted(terminal) == sorted(task.id for task in tasks)


def test_sigterm_finishes_calls_in_progress_and_claims_no_more(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.script("dlast", faults=[{"kind": "slow"}])
    worker = start_worker(IMPORTS_LEASE_SECONDS="10")
    task = producer.send(members("dlast"))
    # The list before a lane's first starts does not count: it does not start the import.
    is_starting = lambda: producer.redis.hget(f"imports:import:{task.id}", SHORT["attempts"])  # noqa: E731
    wait_until(is_starting, "the start is made")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(90) == 0
    assert producer.redis.hget(f"imports:import:{task.id}", SHORT["job_id"])
    assert producer.redis.zcard("imports:leases:default/us-east-1") == 0
    start_worker()
    assert task.get(timeout=60)["outcome"] == "succeeded"
    assert len(sandbox.calls(app="dlast")) == 1
