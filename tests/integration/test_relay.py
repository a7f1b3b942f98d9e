"""A relay in this process, a real store, and real HTTP: what reaches a sink, when, and what not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.receiving import OTHER_SECRET, SECRET, Answer, Receiver
from tests.support.relaying import append, event, is_in_order, relaying, until
from worker.store.sinkviews import ParkedEvent, SinkControl, SinkView, read_sinks


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("OTHER", OTHER_SECRET)


async def view(redis: Any, name: str) -> SinkView:
    return {each.name: each for each in await read_sinks(redis)}[name]


async def parked(redis: Any, name: str) -> list[ParkedEvent]:
    return [each async for each in SinkControl(redis).parked(name)]


def events(subjects: int, each: int) -> list[dict[str, Any]]:
    return [event(f"d{s}/prod", n) for n in range(each) for s in range(subjects)]


async def test_each_event_arrives_signed_once_and_in_order(redis: Any, tmp_path: Path) -> None:
    sent = events(10, 20)
    with Receiver() as receiver:
        await append(redis, *sent[:100])
        async with relaying(
            redis, tmp_path, audit={"url": receiver.url, "secrets": ["env:OTHER", "env:SECRET"]}
        ):
            await append(redis, *sent[100:])
            await until(lambda: len(receiver.accepted) >= len(sent), "all events arrive")
        assert sorted(receiver.accepted) == sorted(each["id"] for each in sent)
        assert is_in_order(receiver.accepted)
        for message in receiver.messages[:10]:
            for secret in (SECRET, OTHER_SECRET):
                assert Webhook(secret).verify(message.body, dict(message.headers)) == message.event
            assert message.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
        assert len({message.headers["webhook-id"] for message in receiver.messages}) == len(sent)
    seen = await view(redis, "audit")
    assert (seen.pending, seen.unread, seen.delivered, seen.relay) == (0, 0, len(sent), "")


async def test_a_dead_sink_and_a_slow_one_delay_no_other(redis: Any, tmp_path: Path) -> None:
    slow = asyncio.Event()
    with Receiver() as good, Receiver() as dead, Receiver() as stuck:
        dead_url = dead.url
        dead.__exit__()
        loop = asyncio.get_running_loop()

        def wait_first(_event: Any) -> Answer:
            asyncio.run_coroutine_threadsafe(slow.wait(), loop).result()
            return Answer()

        stuck.decide = wait_first
        urls = {"good": good.url, "dead": dead_url, "stuck": stuck.url}
        targets: dict[str, Any] = {name: {"url": url} for name, url in urls.items()}
        async with relaying(redis, tmp_path, **targets):
            await append(redis, *events(20, 5))
            await until(lambda: len(good.accepted) == 100, "the good sink has all events")
            assert stuck.accepted == []
            assert await parked(redis, "dead") == []
            await until(lambda: has_error(redis, "dead"), "the dead sink's error is recorded")
            slow.set()
            await until(lambda: len(stuck.accepted) == 100, "the slow sink has all events")
        with Receiver(port=int(dead_url.split(":")[2].split("/")[0])) as revived:
            async with relaying(redis, tmp_path, dead={"url": revived.url}):
                await until(lambda: len(revived.accepted) == 100, "what waited arrives")
                assert is_in_order(revived.accepted)


async def has_error(redis: Any, name: str) -> bool:
    return "Cannot connect" in (await view(redis, name)).error


@pytest.mark.parametrize("status", [400, 500])
async def test_a_poison_event_is_parked_and_holds_up_only_its_own_subject(
    redis: Any, tmp_path: Path, status: int
) -> None:
    """A 500 may be the sink's fault. It counts as the event's because the sink takes others."""

    def decide(each: dict[str, Any]) -> Answer:
        return Answer(status, body=b"bad <b>event</b>") if each["id"] == "d3/prod/1" else Answer()

    with Receiver(decide) as receiver:
        async with relaying(redis, tmp_path, audit={"url": receiver.url, "max_attempts": 2}):
            await append(redis, *events(6, 3))
            await until(lambda: len(receiver.accepted) >= 16, "the other subjects' events arrive")
            for n in range(100):  # traffic goes on, so that a failure can be told apart
                await append(redis, event("other/prod", n))
                if await parked(redis, "audit"):
                    break
                await asyncio.sleep(0.1)
            await until(lambda: "d3/prod/2" in receiver.accepted, "the next event follows")
            (one,) = await parked(redis, "audit")
            assert one.reason == f"HTTP {status}: bad <b>event</b>"
            assert one.attempts == 2
            receiver.decide = lambda _event: Answer()
            await SinkControl(redis).resend("audit", [one.id])
            await until(lambda: "d3/prod/1" in receiver.accepted, "it arrives when sent again")
            await until(lambda: nothing_parked(redis), "it is no longer parked")


async def nothing_parked(redis: Any) -> bool:
    return not await parked(redis, "audit")


@pytest.mark.parametrize("status", [302, 500])
async def test_a_sink_that_refuses_everything_parks_nothing(
    redis: Any, tmp_path: Path, status: int
) -> None:
    headers = (("Location", "http://127.0.0.1:1/"),)
    with Receiver(lambda _event: Answer(status, headers)) as receiver:
        async with relaying(redis, tmp_path, audit={"url": receiver.url, "max_attempts": 1}):
            await append(redis, *events(5, 2))
            await until(lambda: len(receiver.messages) >= 6, "it is tried again and again")
            assert await parked(redis, "audit") == []
            receiver.decide = lambda _event: Answer()
            await until(lambda: len(receiver.accepted) == 10, "all events arrive in the end")
            assert is_in_order(receiver.accepted)


async def test_a_sink_is_left_alone_as_long_as_it_asks(redis: Any, tmp_path: Path) -> None:
    busy = Answer(429, (("Retry-After", "3600"),))
    with Receiver(lambda _event: busy) as receiver, Receiver() as other:
        async with relaying(
            redis, tmp_path, audit={"url": receiver.url, "concurrency": 1}, b={"url": other.url}
        ):
            await append(redis, *events(5, 2))
            await until(lambda: len(other.accepted) == 10, "the other sink has all events")
            await until(lambda: len(receiver.messages) == 1, "one event is tried")
            await append(redis, *(event("more/prod", n) for n in range(5)))
            await until(lambda: len(other.accepted) == 15, "more events are relayed")
            assert len(receiver.messages) == 1


async def test_a_receiver_that_is_gone_gets_nothing_more_until_it_is_enabled(
    redis: Any, tmp_path: Path
) -> None:
    with Receiver(lambda _event: Answer(410)) as receiver:
        async with relaying(redis, tmp_path, audit={"url": receiver.url, "concurrency": 1}):
            await append(redis, *events(5, 2))
            await until(lambda: is_disabled(redis), "the sink is disabled")
            assert len(receiver.messages) == 1
            receiver.decide = lambda _event: Answer()
            await SinkControl(redis).enable("audit")
            await until(lambda: len(receiver.accepted) == 10, "all events arrive")
            assert is_in_order(receiver.accepted)


async def is_disabled(redis: Any) -> bool:
    return "410" in (await view(redis, "audit")).disabled


async def test_only_wanted_events_are_sent(redis: Any, tmp_path: Path) -> None:
    with Receiver() as failed, Receiver() as wave:
        sinks: dict[str, Any] = {
            "failed": {"url": failed.url, "types": ["import.failed", "batch.*"]},
            "wave": {"url": wave.url, "batches": ["wave-*"]},
        }
        async with relaying(redis, tmp_path, **sinks):
            await append(
                redis,
                event("d1/prod", 0, "import.accepted", batchId="wave-1"),
                event("d1/prod", 1, "import.failed"),
                event("wave-1", 0, "batch.completed", batchId="wave-1"),
                event("d2/prod", 0, "import.failed", batchId="other"),
            )
            await until(lambda: len(failed.accepted) == 3, "failures and batches arrive")
            await until(lambda: len(wave.accepted) == 2, "events of the batch arrive")
    assert sorted(failed.accepted) == ["d1/prod/1", "d2/prod/0", "wave-1/0"]
    assert sorted(wave.accepted) == ["d1/prod/0", "wave-1/0"]
    assert (await view(redis, "wave")).pending == 0


async def test_what_is_no_event_is_parked_at_once(redis: Any, tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with relaying(redis, tmp_path, audit={"url": receiver.url}):
            for fields in ({"event": "{"}, {"event": '{"id": "x"}'}, {"other": "x"}):
                await redis.xadd("imports:events", fields)
            await append(redis, event("d1/prod", 0))
            await until(lambda: receiver.accepted == ["d1/prod/0"], "the event arrives")
            await until(lambda: three_parked(redis), "the rest is parked")
    assert all(each.reason.startswith("not a CloudEvent") for each in await parked(redis, "audit"))


async def three_parked(redis: Any) -> bool:
    return len(await parked(redis, "audit")) == 3


async def test_relays_share_the_sinks_and_take_over_what_another_leaves(
    redis: Any, tmp_path: Path
) -> None:
    with Receiver() as one, Receiver() as two:
        sinks = {"one": {"url": one.url}, "two": {"url": two.url}}
        async with relaying(redis, tmp_path, "r1", **sinks) as first:
            await until(lambda: first.serving == ["one", "two"], "a relay alone serves both")
            async with relaying(redis, tmp_path, "r2", **sinks) as second:
                await until(lambda: len(first.serving) == len(second.serving) == 1, "they share")
                await append(redis, *events(10, 2))
                await until(lambda: len(one.accepted) == len(two.accepted) == 20, "all arrive")
            await until(lambda: first.serving == ["one", "two"], "the first serves both again")
            await append(redis, *(event("late/prod", n) for n in range(5)))
            await until(lambda: len(one.accepted) == len(two.accepted) == 25, "all arrive")
    assert len(set(one.accepted)) == len(one.accepted), "nothing is sent twice"
