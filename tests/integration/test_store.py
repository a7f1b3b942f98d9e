"""The scripts, on a real server: each transition of the state machine, each promise of the
store."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from tests.support import assert_nothing_left_behind, members, recording
from tests.support.stores import GENEROUS, MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.decisions import PauseLane
from worker.domain.outcomes import Envelope, LaneLimits, Verdict
from worker.domain.recording import Observed
from worker.domain.states import EDGES, State
from worker.operations.registry import OPERATIONS
from worker.store.scripts import script_texts, with_library
from worker.store.store import ImportStore

pytestmark = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)

LANE = "default/us-east-1"


async def admit(store: ImportStore, import_id: str = "i1", app: str = "d1", **more: Any) -> Any:
    request = OPERATIONS.parse(members(app, **more))
    return await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_one(store: ImportStore) -> Claim:
    claims, _ = await store.claim(1)
    assert len(claims) == 1, "exactly one call is due"
    return claims[0]


async def start(store: ImportStore, claim: Claim, delay_seconds: float = 0) -> bool:
    return await recording.run(
        store, claim, job_id="j1", operation="Op", status="IN_PROGRESS", delay_seconds=delay_seconds
    )


async def doubt(store: ImportStore, claim: Claim) -> bool:
    return await recording.doubt(
        store, claim, Doubt.UNKNOWN, error="HTTP 504", delay_seconds=0, in_outage=False
    )


async def end(store: ImportStore, claim: Claim, state: State, error: str = "") -> Any:
    return await recording.finish(
        store, claim, state, error=error, job_id="", operation="", status=""
    )


async def events(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]


async def types(redis: Any) -> list[str]:
    return [event["type"] for event in await events(redis)]


async def state_of(store: ImportStore, import_id: str = "i1") -> State:
    item = await store.load(import_id)
    assert item is not None
    return item.state


Walk = Callable[[ImportStore], Awaitable[object]]


async def _to_waiting(store: ImportStore) -> None:
    await admit(store)


async def _rejected(store: ImportStore) -> None:
    await store.reject(Envelope(import_id="i1", task_id="i1"), ("-", "-"), ("-", "-"), "appId: no")


async def _to_starting(store: ImportStore) -> Claim:
    await admit(store)
    return await claim_one(store)


async def _to_running(store: ImportStore) -> Claim:
    await start(store, await _to_starting(store))
    return await claim_one(store)


async def _back_to_waiting(store: ImportStore) -> None:
    await recording.retry(store, await _to_starting(store), delay_seconds=30)


def _end_from(reach: Callable[[ImportStore], Awaitable[Claim]], state: State) -> Walk:
    async def walk(store: ImportStore) -> None:
        assert await end(store, await reach(store), state, "because")

    return walk


WALKS: dict[str, Walk] = {
    "a": _to_waiting,
    "b": _rejected,
    "c": _to_starting,
    "d": _back_to_waiting,
    "e": _to_running,
    "f": _end_from(_to_starting, State.SUCCEEDED),
    "g": _end_from(_to_starting, State.FAILED),
    "h": _end_from(_to_starting, State.REJECTED),
    "i": _end_from(_to_starting, State.TIMED_OUT),
    "j": _end_from(_to_running, State.SUCCEEDED),
    "k": _end_from(_to_running, State.FAILED),
    "l": _end_from(_to_running, State.TIMED_OUT),
    "n": _end_from(_to_running, State.CANCELLED),
}


@pytest.mark.parametrize("letter", sorted(WALKS))
async def test_each_transition_is_made_by_a_script(make_store: MakeStore, letter: str) -> None:
    store = await make_store()
    await WALKS[letter](store)
    (edge,) = (edge for edge in EDGES if edge.letter == letter)
    assert await state_of(store) is edge.target


@pytest.mark.parametrize("state", [State.REJECTED])
async def test_a_transition_that_is_not_in_the_table_is_refused(
    make_store: MakeStore, state: State
) -> None:
    store = await make_store()
    claim = await _to_running(store)
    assert await end(store, claim, state) is None
    assert await state_of(store) is State.RUNNING


async def test_the_same_import_id_is_admitted_once(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    admissions = await asyncio.gather(*(admit(store) for _ in range(50)))
    verdicts = [admission.verdict for admission in admissions]
    assert verdicts.count(Verdict.ACCEPTED) == 1
    assert verdicts.count(Verdict.KNOWN) == 49
    assert await types(redis) == ["import.accepted"]


async def test_an_idempotency_key_makes_two_ids_one_import(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, "first", idempotencyKey="k")
    again = await admit(store, "second", idempotencyKey="k")
    other = await admit(store, "third", app="d2", idempotencyKey="k")
    assert (again.verdict, again.import_id) == (Verdict.KNOWN, "first")
    assert other.verdict is Verdict.REJECTED
    assert "idempotencyKey" in other.item.error
    ended = await end(store, await claim_one(store), State.SUCCEEDED)
    assert set(ended.tasks) == {"first", "second"}
    assert sorted(await types(redis)) == [
        "import.accepted",
        "import.rejected",
        "import.succeeded",
    ]


async def test_an_import_id_that_is_taken_by_another_request_is_reported(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, "i1", app="d1")
    assert (await admit(store, "i1", app="d2")).verdict is Verdict.REUSED
    envelope = Envelope(import_id="i1", task_id="i1")
    for _ in range(2):
        refused = await store.reject(envelope, ("-", "-"), ("-", "-"), "appId: no")
        assert refused.verdict is Verdict.REUSED
    assert await types(redis) == ["import.accepted"]


async def test_a_later_task_with_the_same_key_gets_the_end_that_was_reached(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, "first", idempotencyKey="k")
    await end(store, await claim_one(store), State.SUCCEEDED)
    await store.note_task_done("first", "first")
    await admit(store, "second", idempotencyKey="k")
    await redis.advance(31)
    (overdue,) = await store.overdue(10, 60)
    assert (overdue.item.id, overdue.tasks) == ("first", {"second": ""})


async def _reject_invalid(store: ImportStore) -> None:
    envelope = Envelope(import_id="i1", task_id="i1")
    await store.reject(envelope, ("-", "-"), ("-", "-"), "appId: no")


async def _to_failed(store: ImportStore) -> None:
    await end(store, await _to_starting(store), State.FAILED)


@pytest.mark.parametrize(
    ("reach", "again"), [(_to_failed, _to_waiting), (_reject_invalid, _reject_invalid)]
)
async def test_a_task_repeated_after_the_end_gets_the_end_again(
    make_store: MakeStore, redis: Any, reach: Walk, again: Walk
) -> None:
    """A repeated task is shown as waiting first, and the worker may die before it shows the end."""
    store = await make_store()
    await reach(store)
    await store.note_task_done("i1", "i1")
    assert await store.overdue(10, 60) == []
    await again(store)
    await redis.advance(31)
    (overdue,) = await store.overdue(10, 60)
    assert (overdue.item.id, overdue.tasks) == ("i1", {"i1": ""})


async def test_a_repeated_task_keeps_what_it_was_first_sent_with(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    request = OPERATIONS.parse(members("d1"))
    await store.admit(
        Envelope(import_id="i1", task_id="i1", signature="{its chain}"), request, "us-east-1"
    )
    await end(store, await claim_one(store), State.FAILED)
    await admit(store)
    await redis.advance(31)
    (overdue,) = await store.overdue(10, 60)
    assert overdue.tasks == {"i1": "{its chain}"}


async def test_high_priority_goes_first_and_low_last(make_store: MakeStore) -> None:
    store = await make_store()
    for n, priority in enumerate(["low", "normal", "high", "normal"]):
        await admit(store, f"i{n}", app=f"d{n}", priority=priority)
    claims, _ = await store.claim(10)
    assert [claim.item.id for claim in claims] == ["i2", "i1", "i3", "i0"]


async def test_a_hundred_racing_claimers_get_exactly_the_bucket(make_store: MakeStore) -> None:
    store = await make_store(LaneLimits(start_rate=0.001, start_burst=7))
    for n in range(50):
        await admit(store, f"i{n}", app=f"d{n}")
    claimed = await asyncio.gather(*(store.claim(100) for _ in range(100)))
    ids = [claim.item.id for claims, _ in claimed for claim in claims]
    assert len(ids) == len(set(ids)) == 7


async def test_a_bucket_refills_at_its_rate_and_reports_when(make_store: MakeStore) -> None:
    store = await make_store(LaneLimits(start_rate=20, start_burst=1))
    for n in range(5):
        await admit(store, f"i{n}", app=f"d{n}")
    began = asyncio.get_running_loop().time()
    claimed = 0
    while claimed < 5:
        claims, wait_seconds = await store.claim(100)
        claimed += len(claims)
        assert wait_seconds is not None
        assert wait_seconds <= 0.055 or claimed == 5
        await asyncio.sleep(wait_seconds if claimed < 5 else 0)
    assert asyncio.get_running_loop().time() - began >= 4 / 20


async def test_max_running_delays_starts_until_a_job_is_over(make_store: MakeStore) -> None:
    store = await make_store()
    await store.configure(GENEROUS, {LANE: LaneLimits(max_running=2)}, by="the test")
    for n in range(3):
        await admit(store, f"i{n}", app=f"d{n}")
    claims, _ = await store.claim(10)
    assert len(claims) == 2
    await start(store, claims[0], delay_seconds=60)
    assert (await store.claim(10))[0] == []
    await end(store, claims[1], State.FAILED)
    assert [claim.item.id for claim in (await store.claim(10))[0]] == ["i2"]


async def test_a_postponed_start_frees_its_place_under_max_running(
    make_store: MakeStore,
) -> None:
    store = await make_store()
    await store.configure(GENEROUS, {LANE: LaneLimits(max_running=1)}, by="the test")
    for n in range(2):
        await admit(store, f"i{n}", app=f"d{n}")
    await recording.retry(store, await claim_one(store), delay_seconds=20)
    assert (await claim_one(store)).item.id == "i1"


async def test_an_import_with_an_earlier_unknown_outcome_keeps_its_target_while_it_waits_to_retry(
    make_store: MakeStore, redis: Any
) -> None:
    """Otherwise another import's job there could be taken for its own."""
    store = await make_store()
    for n in range(2):
        await admit(store, f"i{n}", app="dsame")
    claim = (await store.claim(10))[0][0]
    await doubt(store, claim)
    await recording.retry(store, await claim_one(store), delay_seconds=5)
    assert (await store.claim(10))[0] == []
    await redis.advance(6)
    assert (await claim_one(store)).item.id == "i0"


async def test_one_import_per_target_at_a_time_in_order_of_admission(
    make_store: MakeStore,
) -> None:
    store = await make_store()
    for n in range(3):
        await admit(store, f"i{n}", app="dsame")
    for n in range(3):
        claims, _ = await store.claim(10)
        assert [claim.item.id for claim in claims] == [f"i{n}"]
        await start(store, claims[0])
        (poll,) = (await store.claim(10))[0]
        assert poll.item.id == f"i{n}"
        await end(store, poll, State.SUCCEEDED)


async def test_an_unanswered_start_has_an_unknown_outcome_and_its_late_answer_does_not_count(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store)
    late = await claim_one(store)
    await redis.advance(31)
    taken_over = await claim_one(store)
    assert taken_over.call is Call.RECONCILE
    assert taken_over.item.doubt == Doubt.UNKNOWN
    assert not await start(store, late)
    assert await end(store, late, State.FAILED) is None
    assert not await recording.requeue(store, late)
    assert not await doubt(store, late)
    assert await start(store, taken_over)


async def test_an_unanswered_start_is_reconciled_once_no_list_can_lag_behind_it(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(settle_seconds=60)
    await admit(store)
    await claim_one(store)
    await redis.advance(31)
    claims, wait_seconds = await store.claim(1)
    assert not claims
    assert wait_seconds == pytest.approx(60, abs=5)


async def test_an_unanswered_poll_is_simply_due_again(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    late = await _to_running(store)
    await redis.advance(31)
    again = await claim_one(store)
    assert again.call is Call.POLL
    assert not await recording.poll_again(store, late)
    assert await recording.poll_again(store, again)


async def test_an_import_with_an_unknown_outcome_keeps_its_target(make_store: MakeStore) -> None:
    store = await make_store()
    await admit(store, "i1", app="dsame")
    await admit(store, "i2", app="dsame")
    claim = (await store.claim(10))[0][0]
    await doubt(store, claim)
    (inquiry,) = (await store.claim(10))[0]
    assert (inquiry.call, inquiry.item.id) == (Call.RECONCILE, "i1")
    assert inquiry.item.doubts == 1


async def test_a_deleted_record_does_not_stop_its_lane(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    await admit(store, "gone", app="d1")
    await admit(store, "there", app="d2")
    await redis.delete("imports:import:gone")
    claims, _ = await store.claim(10)
    assert [claim.item.id for claim in claims] == ["there"]


async def throttle(
    store: ImportStore, claim: Claim, retry_after: float | None = None
) -> tuple[bool, str]:
    return await recording.throttle(
        store, claim, retry_after_seconds=retry_after, limit_type="RATE", concurrent=False
    )


async def test_a_throttled_import_returns_to_the_head_without_a_counted_attempt(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, "first", app="d1")
    claim = await claim_one(store)
    await admit(store, "second", app="d2")
    assert (await throttle(store, claim, retry_after=10))[0]
    claims, wait_seconds = await store.claim(10)
    assert claims == []
    assert wait_seconds == pytest.approx(10, abs=5)
    await redis.advance(11)
    claims, _ = await store.claim(1)
    assert [(claim.item.id, claim.item.attempts) for claim in claims] == [("first", 1)]


@pytest.mark.parametrize("start_rate", [0.01, 1000], ids=["busy", "rested"])
async def test_many_late_429s_count_once(make_store: MakeStore, start_rate: float) -> None:
    """This holds even if the bucket was full again before the first of them came."""
    store = await make_store(LaneLimits(start_rate=start_rate, start_burst=1000))
    for n in range(20):
        await admit(store, f"i{n}", app=f"d{n}")
    claims, _ = await store.claim(20)
    await asyncio.sleep(0.05)
    counted = [(await throttle(store, claim))[0] for claim in claims]
    assert counted == [True] + [False] * 19


async def test_a_429_on_polls_leaves_starts_alone(make_store: MakeStore) -> None:
    store = await make_store()
    await throttle(store, await _to_running(store), retry_after=60)
    await admit(store, "i2", app="d2")
    assert (await claim_one(store)).call is Call.START


async def pause(store: ImportStore, *, probe: bool = False) -> bool:
    return await recording.pause_lane(
        store, LANE, "expired", probe=probe, delay_seconds=5, delay_max_seconds=100
    )


async def refuse(store: ImportStore, probe: Claim, delay_seconds: float = 300) -> None:
    assert probe.probe
    observed = Observed(probe_seconds=5, probe_max_seconds=100)
    await store.record(probe, PauseLane("expired", delay_seconds), observed)


async def test_a_paused_lane_lets_one_probe_through_and_is_reported_once(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    for n in range(3):
        await admit(store, f"i{n}", app=f"d{n}")
    claim = await claim_one(store)
    assert await pause(store)
    assert not await pause(store)
    await recording.requeue(store, claim)
    assert (await store.claim(10))[0] == []
    await redis.advance(6)
    (probe,) = (await store.claim(10))[0]
    assert probe.probe
    assert (await store.claim(10))[0] == [], "one probe at a time"
    await recording.resume_lane(store, LANE)
    assert len((await store.claim(10))[0]) == 2
    assert [type_ for type_ in await types(redis) if type_.startswith("lane.")] == [
        "lane.paused",
        "lane.resumed",
    ]


async def test_a_failed_probe_makes_the_next_one_wait_longer(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store)
    await pause(store)
    await redis.advance(6)
    probe = await claim_one(store)
    await refuse(store, probe, delay_seconds=0)
    claims, wait_seconds = await store.claim(10)
    assert claims == []
    assert wait_seconds == pytest.approx(10, abs=3)


async def test_an_import_that_failed_as_a_probe_lets_others_go_first(
    make_store: MakeStore, redis: Any
) -> None:
    """A single app whose calls are refused must not keep the whole lane paused."""
    store = await make_store()
    for n in range(2):
        await admit(store, f"i{n}", app=f"d{n}")
    await pause(store)
    await redis.advance(6)
    refused = await claim_one(store)
    await refuse(store, refused)
    await redis.advance(11)
    other = await claim_one(store)
    assert (refused.item.id, other.item.id) == ("i0", "i1")
    assert other.probe


async def test_an_import_that_failed_as_a_probe_is_the_next_probe_if_it_is_alone(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store)
    await pause(store)
    for _ in range(2):
        await redis.advance(11)
        probe = await claim_one(store)
        assert probe.probe
        await refuse(store, probe)


async def test_a_batch_is_complete_when_all_that_was_announced_is_over(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await store.announce_batch("b", 3)
    envelope = Envelope(import_id="bad", task_id="bad", batch_id="b")
    await store.reject(envelope, ("-", "-"), ("-", "-"), "appId: is required")
    await admit(store, "i1", app="d1", batchId="b")
    await end(store, await claim_one(store), State.FAILED)
    assert "batch.completed" not in await types(redis)
    await admit(store, "i2", app="d2", batchId="b")
    await end(store, await claim_one(store), State.SUCCEEDED)
    completed = [event for event in await events(redis) if event["type"] == "batch.completed"]
    assert [event["data"] for event in completed] == [
        {
            "batchId": "b",
            "total": 3,
            "known": 0,
            "succeeded": 1,
            "failed": 1,
            "rejected": 1,
            "timed_out": 0,
            "cancelled": 0,
        }
    ]
    counts = await redis.hgetall("imports:batch:b")
    assert (counts["waiting"], counts["starting"], counts["accepted"]) == ("0", "0", "3")


async def test_a_batch_does_not_wait_for_what_is_already_an_import_of_another(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, "mine", app="d1", idempotencyKey="k", batchId="one")
    await store.announce_batch("two", 3)
    for _ in range(2):  # a message may be delivered twice
        await admit(store, "mine", app="d1", idempotencyKey="k", batchId="two")
        await admit(store, "alias", app="d1", idempotencyKey="other", batchId="two")
        await admit(store, "again", app="d1", idempotencyKey="other", batchId="two")
    mine, alias = (await store.claim(1))[0][0], None
    await end(store, mine, State.SUCCEEDED)
    alias = await claim_one(store)
    assert alias.item.id == "alias"
    await end(store, alias, State.SUCCEEDED)
    completed = {
        event["subject"]: event["data"]
        for event in await events(redis)
        if event["type"] == "batch.completed"
    }
    assert (completed["one"]["total"], completed["one"]["known"]) == (1, 0)
    assert (completed["two"]["total"], completed["two"]["known"]) == (3, 2)
    assert completed["two"]["succeeded"] == 1


async def test_an_event_is_a_cloudevent_with_the_members_of_the_result(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await admit(store, metadata={"équipe": "a/b €"}, batchId="b")
    await start(store, await claim_one(store))
    event = next(event for event in await events(redis) if event["type"] == "import.started")
    item = await store.load("i1")
    assert item is not None
    assert event.pop("time") == event["data"]["startedAt"]
    assert event == {
        "specversion": "1.0",
        "id": "i1/started",
        "source": "amplify-import-worker",
        "type": "import.started",
        "subject": "d1/staging",
        "datacontenttype": "application/json",
        "dataschema": "urn:amplify-import-worker:import.started:1",
        "data": {
            **item.result(),
            "account": "default",
            "region": "us-east-1",
            "batchId": "b",
            "metadata": {"équipe": "a/b €"},
        },
    }


async def test_a_stuck_import_is_reported_once(make_store: MakeStore, redis: Any) -> None:
    store = await make_store()
    await recording.poll_again(store, await _to_running(store), stuck=True)
    await recording.poll_again(store, await claim_one(store), stuck=True)
    assert (await types(redis)).count("import.stuck") == 1


async def test_nothing_is_left_behind_except_what_the_catalog_allows(
    make_store: MakeStore, store_url: str
) -> None:
    """Every script has run; each key that remains is cataloged, and expires or is kept."""
    store = await make_store()
    await admit(store, "i1", app="dsame", idempotencyKey="k", batchId="b")
    await admit(store, "i2", app="dsame", batchId="b")
    await store.reject(
        Envelope(import_id="i3", task_id="i3", batch_id="b"), ("-", "-"), ("-", "-"), "no"
    )
    claim = (await store.claim(10))[0][0]
    assert await store.grant_more(claim) == 0
    await throttle(store, claim)
    await asyncio.sleep(0.1)  # the bucket fills
    for import_id in ("i1", "i2"):
        claim = await claim_one(store)
        await doubt(store, claim)
        await start(store, await claim_one(store))
        (claim,) = (await store.claim(10))[0]  # the import behind it must wait for the target
        ended = await end(store, claim, State.SUCCEEDED)
        assert ended.item.id == import_id
    for import_id in ("i1", "i2", "i3"):
        await store.note_task_done(import_id, import_id)
    await pause(store)
    await recording.resume_lane(store, LANE)
    await recording.count_failure(store, LANE, 1)
    await store.sweep()
    await store.claim(10)
    await store.wait_for_hint(0.01)

    with Redis.from_url(store_url, decode_responses=True) as client:
        assert_nothing_left_behind(client)


async def test_ended_imports_whose_tasks_did_not_finish_are_taken_again(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await end(store, await _to_starting(store), State.SUCCEEDED)
    await redis.advance(31)
    (overdue,) = await store.overdue(10, 60)
    assert (overdue.item.id, overdue.tasks) == ("i1", {"i1": ""})
    assert await store.overdue(10, 60) == []
    assert not overdue.is_new, "the worker that ended it knows of its end"


async def test_a_worker_learns_once_of_an_end_that_no_worker_recorded(
    make_store: MakeStore, redis: Any
) -> None:
    store = await make_store()
    await _to_waiting(store)
    await store.cancel("i1", "wrong pool")
    (first,) = await store.overdue(10, 60)
    await redis.advance(61)
    (second,) = await store.overdue(10, 60)
    assert (first.is_new, second.is_new) == (True, False)


async def test_a_task_that_a_producer_sent_is_not_done_when_only_its_result_is_stored(
    make_store: MakeStore,
) -> None:
    store = await make_store(lease_seconds=0)
    request = OPERATIONS.parse(members())
    await store.admit(Envelope(import_id="i1", task_id="i1", signature="{}"), request, "us-east-1")
    await store.cancel("i1", "no")
    await store.note_tasks_done([("i1", "i1", True)])
    (overdue,) = await store.overdue(10, 0)
    assert overdue.tasks == {"i1": "{}"}
    await store.note_tasks_done([("i1", "i1", False)])
    assert await store.overdue(10, 0) == []


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ms=st.integers(min_value=0, max_value=253_402_300_799_999))
async def test_times_are_written_as_python_would_write_them(redis: Any, ms: int) -> None:
    script = with_library("-- needs: base\nreturn base.iso_time(tonumber(ARGV[1]))")
    written = await redis.eval(script, 0, ms)
    moment = datetime.fromtimestamp(ms // 1000, tz=UTC)
    assert written == f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z".rjust(24, "0")


@pytest.mark.usefixtures("store_url")
def test_every_script_says_what_it_is_for() -> None:
    for name, text in script_texts().items():
        assert text.startswith("-- "), name
        assert "-- Atomic" in text, name
