"""Problems stay contained: lanes that get no answers, hidden quotas, too many jobs."""

import re
from typing import Any

import pytest

from tests.support import ACCESS_KEY, Producer, Sandbox, StartWorker, members, wait_until
from worker.sandbox.scenario import Scenario

LANE = "default/us-east-1"
SKEWED = "tests.chaos.skewed_clock"
CALM: dict[str, Any] = {"jobs": {"min_seconds": 0.2, "max_seconds": 0.3}}
FAULTS = {
    "an outage": {"error_504_before": 1.0},
    "a region that hangs": {"hang": 1.0},
    "resets": {"reset_before": 1.0},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_lane_without_answers_pauses_uses_no_attempts_and_reopens(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, fault: dict[str, float]
) -> None:
    faults = {"ImportBackendAuth": fault, "ListBackendJobs": fault}
    settings = {"hang_seconds": 60}
    sandbox.reset(Scenario.model_validate({**CALM, "faults": faults, "fault_settings": settings}))
    start_worker(IMPORTS_MAX_ATTEMPTS="2", IMPORTS_START_BURST="12", IMPORTS_START_RATE="20")
    tasks = [producer.send(members(f"dlost{n}")) for n in range(40)]
    paused = producer.wait_for_event("lane.paused", lane=LANE)
    assert paused["data"]["reason"]
    calls = len(sandbox.calls())
    assert calls <= 40
    sandbox.reset(Scenario.model_validate(CALM))
    producer.wait_for_event("lane.resumed", lane=LANE)
    results = [task.get(timeout=60) for task in tasks]
    assert {result["outcome"] for result in results} == {"succeeded"}
    assert len(producer.events("lane.paused")) == 1
    assert len(sandbox.jobs()) == 40


def test_a_hanging_region_does_not_delay_another(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    """Fifty imports hang, with slots for twenty calls; imports of another lane succeed
    meanwhile."""
    for n in range(50):
        sandbox.script(f"dhang{n}", faults=[{"kind": "hang"}])
    worker = start_worker(IMPORTS_MAX_IN_FLIGHT="20", IMPORTS_LEASE_SECONDS="40")
    producer.send(members("dknown")).get(timeout=60)  # a lane whose facts are unknown is slower
    for n in range(50):
        producer.send(members(f"dhang{n}"))
    wait_until(lambda: len(sandbox.calls(app="dhang")) >= 8, "calls hang")
    tasks = [producer.send(members(f"dfine{n}", region="eu-west-1")) for n in range(20)]
    for task in tasks:
        assert task.get(timeout=15)["outcome"] == "succeeded"
    assert len(sandbox.calls(app="dhang")) <= 15
    worker.kill()  # a normal stop would wait for the calls that hang


@pytest.mark.parametrize("limit_type", ["CONCURRENT_JOBS", ""], ids=["named", "not named"])
def test_more_jobs_than_aws_allows_wait_for_the_others_to_end(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, limit_type: str
) -> None:
    quota = {"max_running": 4, "running_limit_type": limit_type}
    jobs = {"min_seconds": 1, "max_seconds": 1.5}
    sandbox.reset(Scenario.model_validate({"jobs": jobs, "quota": quota}))
    start_worker(IMPORTS_START_RATE="", IMPORTS_START_BURST="")
    tasks = [producer.send(members(f"dmany{n}")) for n in range(24)]
    results = [task.get(timeout=60) for task in tasks]
    assert {result["attempts"] for result in results} == {1}
    throttled = [call for call in sandbox.calls() if call["status"] == 429]
    assert len(throttled) <= 12
    if limit_type:
        assert producer.redis.hget(f"imports:lane:{LANE}", "ceiling")


def test_a_hidden_quota_is_learned_by_a_real_worker(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    quota = {"starts": {"rate": 3, "burst": 3}}  # slow enough for a busy machine
    sandbox.reset(Scenario.model_validate({**CALM, "quota": quota}))
    start_worker(IMPORTS_START_RATE="", IMPORTS_START_BURST="")
    tasks = [producer.send(members(f"dquota{n}")) for n in range(40)]
    for task in tasks:
        assert task.get(timeout=60)["outcome"] == "succeeded"
    statuses = [call["status"] for call in sandbox.calls()]
    assert statuses.count(429) <= 8
    limiter: Any = producer.redis.hgetall(f"imports:limiter:{LANE}:start")
    assert limiter["learned"] == "1"
    assert float(limiter["rate"]) == pytest.approx(3, rel=0.15)
    assert sandbox.snapshot()["max_concurrent"][f"{ACCESS_KEY}/us-east-1/starts"] <= 4


def test_a_worker_whose_clock_is_wrong_stands_down_and_leaves_the_lane_to_others(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.reset(Scenario.model_validate(CALM))
    wrong = start_worker(SKEWED, CLOCK_SKEW_SECONDS="3655")
    producer.send(members("dfirst"))
    wait_until(lambda: "clock.wrong" in wrong.log, "the worker logs that its clock is wrong")
    assert re.search(r"this machine's clock is 365\d s ahead of AWS", wrong.log)
    start_worker()
    tasks = [producer.send(members(f"dclock{n}")) for n in range(20)]
    for task in tasks:
        assert task.get(timeout=60)["outcome"] == "succeeded"
    assert producer.events("lane.paused") == []
    assert len([call for call in sandbox.snapshot()["calls"] if call["status"] == 403]) == 1
    assert len(sandbox.jobs()) == 21


def test_a_lane_that_only_workers_with_wrong_clocks_serve_pauses_and_says_why(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    workers = [start_worker(SKEWED, CLOCK_SKEW_SECONDS=skew) for skew in ("-3655", "3655")]
    producer.send(members("dnobody"))
    paused = producer.wait_for_event("lane.paused", lane=LANE)
    assert "this machine's clock is 365" in paused["data"]["reason"]
    for worker in workers:
        worker.kill()
    start_worker()
    producer.wait_for_event("lane.resumed", lane=LANE)
    wait_until(
        lambda: producer.events("import.succeeded"),
        "the import succeeds once a worker with a right clock runs",
        60,
    )
    assert len(sandbox.jobs()) == 1
