"""Admission of many requests at once: what it costs, and that a request harms no other."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import members
from tests.support.contract import problems_of_event
from tests.support.counting import CommandCounter
from tests.world import AnyAccount, NoAnnouncer, SingleRegion
from worker.domain.batches import BatchMessage
from worker.domain.outcomes import Admission, Envelope, InvalidRequest, ValidRequest, Verdict
from worker.domain.requests import derive_import_id
from worker.domain.traces import read_trace
from worker.engine.admit import Admitter
from worker.engine.checking import Parcel
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.store import ImportStore

ROWS = 1000
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=2, settle_seconds=0
)


@pytest.fixture
def store(redis: Any) -> ImportStore:
    return ImportStore(redis, CONFIG)


@pytest.fixture
def admitter(store: ImportStore) -> Admitter:
    return Admitter(OPERATIONS, store, AnyAccount(), SingleRegion(), NoAnnouncer())


def batch(requests: list[Any], **more: Any) -> BatchMessage:
    return BatchMessage.parse({"batchId": "b", "requests": requests, **more})


async def test_a_thousand_requests_of_a_batch_take_twenty_one_round_trips(
    admitter: Admitter, store_url: str
) -> None:
    await admitter.admit_batch(batch([members("dfirst")]))  # loads the scripts
    requests = [members(f"d{n}") for n in range(ROWS)]
    with CommandCounter(store_url) as counter:
        admissions = await admitter.admit_batch(batch(requests, offset=1))
    assert Counter(each.verdict for each in admissions) == {Verdict.ACCEPTED: ROWS}
    assert counter.without_connecting() == {"EVALSHA": 21}


async def test_a_thousand_entries_of_the_stream_take_twenty_round_trips(
    admitter: Admitter, store_url: str
) -> None:
    await admitter.admit_entries([("0-1", json.dumps(members("dfirst")), None)])
    entries = [(f"1-{n}", json.dumps(members(f"d{n}")), None) for n in range(ROWS)]
    with CommandCounter(store_url) as counter:
        admissions = await admitter.admit_entries(entries)
    assert Counter(each.verdict for each in admissions) == {Verdict.ACCEPTED: ROWS}
    assert counter.without_connecting() == {"EVALSHA": 20}


async def test_invalid_requests_cost_as_little(admitter: Admitter, store_url: str) -> None:
    await admitter.admit_batch(batch([members("dfirst")]))
    with CommandCounter(store_url) as counter:
        admissions = await admitter.admit_batch(batch([members("No-App")] * ROWS, offset=1))
    assert Counter(each.verdict for each in admissions) == {Verdict.REJECTED: ROWS}
    assert counter.without_connecting() == {"EVALSHA": 21}


async def test_imports_have_the_order_of_their_requests(admitter: Admitter, redis: Any) -> None:
    requests = [members(f"d{n}", importId=f"i{n:03}") for n in range(160)]
    await admitter.admit_batch(batch(requests))
    ids = [f"i{n:03}" for n in range(160)]
    assert await redis.zrange("imports:members:b", 0, -1) == ids
    assert await redis.zrange("imports:waiting:default/us-east-1:normal", 0, -1) == ids


async def test_a_request_that_is_not_accepted_harms_none_beside_it(
    admitter: Admitter, redis: Any
) -> None:
    earlier = [members(f"dearlier{n}", importId=f"earlier{n}") for n in range(2)]
    await admitter.admit_batch(batch(earlier))
    requests: list[Any] = [
        members("d1", importId="one"),
        members("dother", importId="earlier0"),  # the id belongs to another request
        "no object",
        members("d2", importId="one"),  # the id is given twice
        earlier[1],
        members("d3", importId="three", idempotencyKey="key"),
        members("d3", importId="four", idempotencyKey="key"),
        members("d4", importId="five", idempotencyKey="key"),
        members("d5", importId="six", batchId="another"),
        members("d6", importId="last"),
    ]
    admissions = await admitter.admit_batch(batch(requests, offset=2, total=12))
    verdicts = [each.verdict for each in admissions]
    accepted, rejected, known = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.KNOWN
    assert verdicts == [
        *(accepted, rejected, rejected, rejected, known, accepted, known, rejected, rejected),
        accepted,
    ]
    assert admissions[6].import_id == "three"
    ids = [each.import_id for each in admissions]
    assert ids[3] == derive_import_id("b", 5)
    assert ids[1] not in {"earlier0", derive_import_id("b", 3)}
    errors = {n: each.item.error for n, each in enumerate(admissions) if each.item}
    assert errors[1].startswith("importId: earlier0 is another request already; give each")
    assert errors[2] == "request: must be an object, got 'no object'"
    assert errors[3] == "importId: appears twice in this message"
    assert errors[7].startswith("idempotencyKey: ")
    assert errors[8] == "batchId: differs from that of the message, b"
    counts = await redis.hmget("imports:batch:b", "waiting", "rejected", "accepted", "known")
    assert counts == ["5", "5", "10", "1"]
    again = await admitter.admit_batch(batch(requests, offset=2, total=12))
    assert Counter(each.verdict for each in again) == {known: 10}
    assert [each.import_id for each in again] == ids
    assert await redis.hmget("imports:batch:b", "accepted", "known") == ["10", "1"]


class CountingStore(ImportStore):
    """Counts the calls that admit requests, and how many of them were made at once."""

    calls = 0
    under_way = 0
    most_under_way = 0

    async def admit_all(self, received: Sequence[ValidRequest | InvalidRequest]) -> list[Admission]:
        """Count the call."""
        self.calls += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await super().admit_all(received)
        finally:
            self.under_way -= 1


async def test_messages_that_arrive_together_take_turns(redis: Any) -> None:
    store = CountingStore(redis, CONFIG)
    admitter = Admitter(OPERATIONS, store, AnyAccount(), SingleRegion(), NoAnnouncer())
    requests = {f"b{n}": [members(f"db{n}x{m}") for m in range(120)] for n in range(4)}
    messages = [BatchMessage(batchId=name, requests=each) for name, each in requests.items()]
    await asyncio.gather(*map(admitter.admit_batch, messages))
    assert store.calls == 4 * 3
    assert store.most_under_way == 1


async def test_the_trace_of_a_request_is_passed_on_to_every_event_of_its_import(
    admitter: Admitter, store: ImportStore, redis: Any
) -> None:
    given, own = (f"00-{n:032x}-00f067aa0ba902b7-01" for n in (1, 2))
    traced = {"traceparent": own, "tracestate": "vendor=blue"}
    await admitter.admit_batch(
        batch(
            [
                members("d1", importId="of-message"),
                members("d2", importId="of-request", **traced),
                members("d3", importId="unreadable", traceparent={"no": 1}, tracestate=own),
                members("no id", importId="rejected"),
            ]
        ),
        trace=read_trace(given),
    )
    await admitter.admit_entries([("0-1", json.dumps(members("d4", importId="untraced")), None)])
    await store.cancel("of-request", "wrong pool")
    cancelled = await store.load("of-request")
    assert cancelled
    assert (await store.retry(cancelled)).retry_id == "of-request:retry-1"
    expected = {
        "of-message": (given, None),
        "of-request": (own, "vendor=blue"),
        "of-request:retry-1": (own, "vendor=blue"),
        "unreadable": (given, None),
        "rejected": (given, None),
        "untraced": (None, None),
    }
    events = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    found = {(e["data"]["importId"], e.get("traceparent"), e.get("tracestate")) for e in events}
    assert found == {(import_id, *context) for import_id, context in expected.items()}
    assert [problem for event in events for problem in problems_of_event(event)] == []
    assert len(events) == 7


async def test_the_store_keeps_a_task_that_is_over_at_its_admission_until_it_is_finished(
    admitter: Admitter, store: ImportStore, redis: Any
) -> None:
    def parcel(task_id: str, app: str = "d1") -> Parcel:
        envelope = Envelope(import_id=task_id, task_id=task_id, signature=f"of {task_id}")
        return Parcel(members(app, idempotencyKey="once"), envelope)

    async def overdue() -> dict[str, str]:
        """Return the unfinished tasks, and note that they have finished."""
        await redis.advance(3)
        tasks: dict[str, str] = {}
        for ended in await store.overdue(10, 60):
            tasks |= ended.tasks
            done = [(ended.item.id, task_id, False) for task_id in ended.tasks]
            await store.note_tasks_done(done)
        return tasks

    await admitter.admit_tasks([parcel("first")])
    await store.cancel("first", "no longer wanted")
    assert await overdue() == {"first": "of first"}
    for task, verdict in (
        (parcel("first"), Verdict.KNOWN),
        (parcel("second"), Verdict.KNOWN),
        (parcel("other", "d2"), Verdict.REJECTED),
        (parcel("invalid", "No-App"), Verdict.REJECTED),
        (parcel("invalid", "No-App"), Verdict.KNOWN),
    ):
        (admission,) = await admitter.admit_tasks([task])
        assert admission.verdict is verdict
        task_id = task.envelope.task_id
        assert await overdue() == {task_id: f"of {task_id}"}
