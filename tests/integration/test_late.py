"""Jobs that end after their import timed out or was cancelled: recorded, without other changes."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    recording,
    wait_until,
)
from tests.support.stores import MakeStore
from worker.domain.claims import Call, Claim
from worker.domain.outcomes import Envelope, LaneLimits
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.sandbox.scenario import Scenario
from worker.store.store import ImportStore

LANE = "default/us-east-1"
TIGHT = LaneLimits(start_rate=1000, start_burst=1000, poll_rate=0.001, poll_burst=2, max_running=1)


async def admit(store: ImportStore, import_id: str) -> None:
    request = OPERATIONS.parse(members(f"d{import_id}"))
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    (claim,) = (await store.claim(10))[0]
    return replace(claim, answered=True)


async def run(store: ImportStore, claim: Claim) -> None:
    assert await recording.run(store, claim, job_id="j1", operation="", status="", delay_seconds=0)


async def cancelled_while_running(store: ImportStore, redis: Any, import_id: str = "i1") -> None:
    """Cancel an import whose job runs, and let time pass until the next poll."""
    await admit(store, import_id)
    await run(store, await claim_one(store))
    await store.cancel(import_id, "not wanted")
    await redis.zadd(f"imports:late:{LANE}", {import_id: 0})
    await redis.zadd("imports:lanes", {LANE: 0})


async def test_the_job_of_a_cancelled_import_is_followed_until_its_end_is_noted(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await cancelled_while_running(store, redis)
    claim = await claim_one(store)
    assert claim.call is Call.POLL
    assert claim.item.state is State.CANCELLED
    assert await recording.poll_again(store, claim, delay_seconds=0, status="IN_PROGRESS")
    claim = await claim_one(store)
    assert await recording.note_late(
        store, claim, outcome="succeeded", status="COMPLETED", error=""
    )

    item = await store.load("i1")
    assert item is not None
    assert (item.state, item.late_outcome, item.late_status) == (
        State.CANCELLED,
        "succeeded",
        "COMPLETED",
    )
    assert (await store.claim(10))[0] == []
    await store.note_task_done("i1", "i1")
    assert await redis.keys("imports:late:*") == []
    types = [fields["event"] for _, fields in await redis.xrange("imports:events")]
    assert sum('"import.cancelled"' in event for event in types) == 1
    assert len(types) == 3, "accepted, started, cancelled, and none for the late end"


async def test_a_late_answer_to_another_workers_claim_records_nothing(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await cancelled_while_running(store, redis)
    claim = await claim_one(store)
    stranger = replace(claim, lease="0")
    assert not await recording.note_late(
        store, stranger, outcome="failed", status="FAILED", error=""
    )
    assert await recording.note_late(
        store, claim, outcome="succeeded", status="COMPLETED", error=""
    )


async def test_an_unanswered_claim_of_a_late_job_is_taken_over(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(lease_seconds=0)
    await cancelled_while_running(store, redis)
    first = await claim_one(store)
    again = await claim_one(store)
    assert again.lease != first.lease
    assert again.item.state is State.CANCELLED
    assert not await recording.note_late(store, first, outcome="failed", status="FAILED", error="")


async def test_late_jobs_use_no_place_under_max_running_and_only_spare_polls(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(TIGHT)
    await cancelled_while_running(store, redis, "late")
    await admit(store, "i2")
    claims, _ = await store.claim(10)
    by_id = {claim.item.id: claim for claim in claims}
    assert by_id["i2"].call is Call.START, "max_running is 1, and the late job does not count"
    await recording.poll_again(store, by_id["late"], delay_seconds=0)
    await run(store, by_id["i2"])
    (claim,) = (await store.claim(10))[0]
    assert claim.item.id == "i2", "the last token is for the import that has not ended"


async def test_a_late_job_is_not_followed_after_its_record_has_expired(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await cancelled_while_running(store, redis)
    await redis.delete("imports:import:i1")
    claims, wait = await store.claim(10)
    assert claims == []
    assert wait is None
    assert await redis.keys("imports:late:*") == []


@pytest.mark.parametrize(
    ("outcome", "late_outcome"),
    [(None, "succeeded"), ("fail", "failed")],
    ids=["succeeds", "fails"],
)
def test_status_shows_a_late_finish_and_nothing_is_reported_twice(
    start_worker: StartWorker,
    sandbox: Sandbox,
    producer: Producer,
    command: CommandLine,
    outcome: str | None,
    late_outcome: str,
) -> None:
    sandbox.script("d1", outcome=outcome, duration_seconds=3)
    start_worker()
    producer.add({"importId": "i1", **members("d1", deadlineSeconds=1)})
    producer.wait_for_event("import.timed_out", importId="i1")
    wait_until(
        lambda: producer.redis.hget("imports:import:i1", "late_outcome") == late_outcome,
        "the late end is recorded",
    )
    shown = command("status", "i1").stdout
    assert f"job ended  {late_outcome}, " in shown
    assert "state      timed_out" in shown
    assert len(sandbox.jobs()) == 1
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "its task has finished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert_nothing_left_behind(producer.redis)
    assert len(producer.events(import_id="i1")) == 3


def test_a_job_that_aws_forgets_is_followed_no_longer(
    start_worker: StartWorker, sandbox: Sandbox, producer: Producer, command: CommandLine
) -> None:
    sandbox.script("d1", outcome="never")
    start_worker(IMPORTS_MISSING_GRACE_SECONDS="1")
    producer.add({"importId": "i1", **members("d1", deadlineSeconds=1)})
    producer.wait_for_event("import.timed_out", importId="i1")
    sandbox.reset(Scenario())
    wait_until(
        lambda: producer.redis.hget("imports:import:i1", "late_outcome") == "unknown",
        "the late end is recorded",
    )
    assert "job ended  unknown: HTTP 404" in command("status", "i1").stdout
