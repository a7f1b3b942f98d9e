"""The relays' scripts, on a real server: leases, reading, settling, and what is lost."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from tests.support import assert_nothing_left_behind
from tests.support.relaying import EVENTS, append, event
from tests.support.stores import MakeStore
from worker.domain.outcomes import Envelope
from worker.store.relays import (
    FIRST,
    NEW,
    Entry,
    LeaseLostError,
    Page,
    Parking,
    RelayStore,
    Settlement,
)
from worker.store.sinkviews import SinkControl, SinkView, read_sinks

pytestmark = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)

LEASE_MS = 10_000


def relay(redis: Any, name: str = "r1") -> RelayStore:
    return RelayStore(redis, name, LEASE_MS)


async def holding(redis: Any, *sinks: str) -> RelayStore:
    """Return a relay that has the sinks."""
    store = relay(redis)
    assert (await store.hold(sinks)).held == set(sinks)
    return store


async def read(store: RelayStore, after: str = NEW, count: int = 100, start: str = "0") -> Page:
    return await store.read("audit", start, count, after, 0)


async def view(redis: Any) -> SinkView:
    (sink,) = await read_sinks(redis)
    return sink


def ids(entries: Sequence[Entry]) -> list[str]:
    return [json.loads(entry.text)["id"] for entry in entries]


async def test_a_relay_alone_has_all_sinks_and_two_share_them(redis: Any) -> None:
    first, second = relay(redis, "r1"), relay(redis, "r2")
    names = ["a", "b", "c"]
    assert (await first.hold(names)).held == {"a", "b", "c"}
    assert (await second.hold(names)).held == set()
    leases = await first.hold(names)
    assert len(leases.surplus) == 1
    await first.release(sorted(leases.surplus))
    assert (await second.hold(names)).held == leases.surplus
    for store in (first, second, first, second):
        assert (await store.hold(names)).surplus == set(), "once shared, they stay"


async def test_another_relay_takes_over_when_the_lease_has_ended_or_is_released(redis: Any) -> None:
    first, second = await holding(redis, "audit"), relay(redis, "r2")
    await redis.advance(LEASE_MS / 1000 + 1)
    assert (await second.hold(["audit"])).held == {"audit"}
    with pytest.raises(LeaseLostError):
        await read(first)
    await second.release(["audit"], leaves=True)
    assert (await first.hold(["audit"])).held == {"audit"}


async def test_relays_with_different_files_leave_no_sink_out(redis: Any) -> None:
    old, new = relay(redis, "old"), relay(redis, "new")
    for _ in range(2):
        for store, names in ((old, ["a", "b"]), (new, ["a", "b", "c", "d"])):
            leases = await store.hold(names)
            await store.release(sorted(leases.surplus))
    assert (await old.hold(["a", "b"])).held == {"a", "b"}
    assert (await new.hold(["a", "b", "c", "d"])).held == {"c", "d"}


async def test_what_was_read_and_not_settled_is_read_again_by_the_next_relay(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, *(event("d1", n) for n in range(5)))
    page = await read(store)
    assert ids(page.entries) == [f"d1/{n}" for n in range(5)]
    await store.settle("audit", Settlement(delivered=[*page.entries[:2]]), most=10)
    await store.release(["audit"], leaves=True)
    successor = relay(redis, "r2")
    await successor.hold(["audit"])
    first = await read(successor, FIRST, count=2)
    assert ids(first.entries) == ["d1/2", "d1/3"]
    assert ids((await read(successor, first.entries[-1].id)).entries) == ["d1/4"]
    assert (await read(successor)).entries == ()


@pytest.mark.parametrize(("start", "found"), [("0", ["d1/0", "d1/1"]), ("$", ["d1/1"])])
async def test_a_new_sink_begins_where_it_is_told_to(
    redis: Any, start: str, found: list[str]
) -> None:
    store = await holding(redis, "audit")
    await append(redis, event("d1", 0))
    seen = [*ids((await read(store, start=start)).entries)]
    await append(redis, event("d1", 1))
    seen += ids((await read(store, start=start)).entries)
    assert seen == found
    assert (await view(redis)).lost == 0


async def test_events_that_are_trimmed_before_they_are_read_are_counted(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, *(event("d1", n) for n in range(10)))
    assert len((await read(store, count=3)).entries) == 3
    await redis.xtrim(EVENTS, maxlen=2, approximate=False)
    assert (await view(redis)).lost == 5, "seen before any relay reads on"
    page = await read(store)
    assert (ids(page.entries), page.trimmed) == (["d1/8", "d1/9"], 5)
    assert (await read(store)).trimmed == 0
    seen = await view(redis)
    assert (seen.lost, seen.unread, seen.pending) == (5, 0, 5)


async def test_events_that_are_trimmed_before_they_are_settled_are_counted(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, *(event("d1", n) for n in range(4)))
    await read(store)
    await redis.xtrim(EVENTS, maxlen=1, approximate=False)
    page = await read(store, FIRST)
    assert (ids(page.entries), page.trimmed) == (["d1/3"], 3)
    seen = await view(redis)
    assert (seen.lost, seen.pending) == (3, 1)


async def test_an_emptied_stream_loses_what_was_not_read(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, event("d1", 0))
    await read(store)
    await append(redis, event("d1", 1), event("d1", 2))
    await redis.xtrim(EVENTS, maxlen=0, approximate=False)
    await append(redis, event("d1", 3))
    page = await read(store)
    assert (ids(page.entries), page.trimmed) == (["d1/3"], 2)


async def test_settling_twice_counts_and_parks_once(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, *(event("d1", n) for n in range(3)))
    one, two, three = (await read(store)).entries
    settlement = Settlement(
        delivered=[one], skipped=[two], parked=[Parking(three, "HTTP 400", 10)], error="HTTP 400"
    )
    for _ in range(2):
        await store.settle("audit", settlement, most=10)
    seen = await view(redis)
    assert (seen.delivered, seen.parked, seen.pending) == (1, 1, 0)
    assert seen.error == "HTTP 400"
    assert seen.delivered_seconds_ago is not None
    assert seen.oldest_seconds is None


async def test_a_parked_event_is_sent_again_and_leaves(redis: Any) -> None:
    store, control = await holding(redis, "audit"), SinkControl(redis)
    await append(redis, event("d1", 0), event("d1", 1))
    entries = (await read(store)).entries
    await store.settle("audit", Settlement(parked=[Parking(e, "no", 3) for e in entries]), most=10)
    parked = [each async for each in control.parked("audit")]
    assert [each.reason for each in parked] == ["no", "no"]
    await control.resend("audit", [each.id for each in parked])
    first, second = (await read(store)).again
    assert ids([first, second]) == ["d1/0", "d1/1"]
    again = Settlement(delivered=[first], parked=[Parking(second, "still no", 6)])
    for _ in range(2):
        await store.settle("audit", again, most=10)
    assert (await read(store)).again == ()
    (left,) = [each async for each in control.parked("audit")]
    assert (left.reason, left.attempts) == ("still no", 6)
    await control.resend("audit", [left.id])
    assert await control.drop("audit", [left.id]) == 1
    assert (await read(store)).again == ()


async def test_parked_events_that_are_too_many_are_dropped_and_counted(redis: Any) -> None:
    store = await holding(redis, "audit")
    await append(redis, *(event("d1", n) for n in range(300)))
    entries = (await read(store, count=300)).entries
    parked = [Parking(entry, "no", 1) for entry in entries]
    dropped = await store.settle("audit", Settlement(parked=parked), most=100)
    seen = await view(redis)
    assert dropped == seen.dropped == 300 - seen.parked
    assert 100 <= seen.parked <= 200, "trimmed about there"


async def test_a_disabled_sink_reads_nothing_until_it_is_enabled(redis: Any) -> None:
    store, control = await holding(redis, "audit"), SinkControl(redis)
    await append(redis, event("d1", 0))
    await store.settle("audit", Settlement(disabled="HTTP 410"), most=10)
    page = await read(store)
    assert page.is_disabled
    assert page.entries == ()
    assert (await view(redis)).disabled == "HTTP 410"
    assert await control.enable("audit")
    assert not await control.enable("audit")
    assert ids((await read(store)).entries) == ["d1/0"]


async def test_a_forgotten_sink_leaves_nothing_behind_and_may_begin_anew(redis: Any) -> None:
    store, control = await holding(redis, "audit"), SinkControl(redis)
    await append(redis, event("d1", 0))
    (entry,) = (await read(store)).entries
    await store.settle("audit", Settlement(parked=[Parking(entry, "no", 1)]), most=9)
    assert await control.forget("audit")
    assert not await control.forget("audit")
    assert await read_sinks(redis) == ()
    assert await redis.keys("imports:*audit*") == []
    assert await redis.xinfo_groups(EVENTS) == []
    await store.hold(["audit"])
    assert ids((await read(store)).entries) == ["d1/0"]


async def test_events_name_their_deployment(make_store: MakeStore, redis: Any) -> None:
    store = await make_store(event_source="https://a.example/imports")
    envelope = Envelope(import_id="i1", task_id="i1")
    await store.reject(envelope, ("d1", "prod"), ("default", "us-east-1"), "no")
    ((_, fields),) = await redis.xrange(EVENTS)
    assert json.loads(fields["event"])["source"] == "https://a.example/imports"


async def test_the_keys_are_catalogued(redis: Any, store_url: str) -> None:
    await test_settling_twice_counts_and_parks_once(redis)
    await redis.delete("test:seconds")
    with Redis.from_url(store_url, decode_responses=True) as client:
        assert_nothing_left_behind(client)
