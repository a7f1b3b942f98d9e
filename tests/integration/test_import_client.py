"""The clients: verdicts like the workers', nothing half admitted, waiting without polling."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from amplify_import import (
    AsyncImportClient,
    Cancellation,
    ConflictError,
    ImportClient,
    InvalidSubmissionError,
    NotKnownError,
    State,
    StoreUnavailableError,
)
from config.settings import SettingsError
from tests.support import Sandbox, StartWorker, members, storage_members, wait_until
from tests.support.relaying import until
from tests.support.stores import MakeStore
from worker.client import feed
from worker.domain.events import EventType
from worker.domain.outcomes import Envelope, RetryVerdict
from worker.domain.traces import TraceContext, read_trace
from worker.engine.tracing import Untraced
from worker.operations.registry import OPERATIONS

SERVERS = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RACING = 40
WAITING = 50


@pytest.fixture
async def client(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AsyncImportClient]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    async with AsyncImportClient(store_url) as client:
        yield client


def records(redis: Any) -> Any:
    """Return the keys of all imports."""
    return redis.keys("imports:import:*")


@SERVERS
def test_a_program_submits_waits_cancels_and_retries(
    store_url: str, sandbox: Sandbox, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORTS_REDIS_URL", store_url)
    sandbox.script("dslow", duration_seconds=600)
    start_worker()
    with ImportClient() as client:
        import_id = client.submit(members("dgood", region="us-east-1", metadata={"ticket": "1"}))
        result = client.wait(import_id, timeout=60)
        assert result.succeeded
        assert (result.state, result.outcome) == (State.SUCCEEDED, State.SUCCEEDED)
        assert result.accepted_at is not None
        assert result.started_at is not None
        assert result.finished_at is not None
        assert result.accepted_at <= result.started_at <= result.finished_at
        assert (result.metadata, result.attempts) == ({"ticket": "1"}, 1)
        assert client.get(import_id) == result == client.wait(import_id, timeout=0)

        monkeypatch.setenv("AWS_REGION", "us-east-1")
        slow, stored = client.submit_many([members("dslow"), storage_members("dstored")])
        assert client.wait(stored, timeout=60).succeeded
        wait_until(lambda: client.get(slow).job_id, "the slow import's job runs")
        with pytest.raises(TimeoutError):
            client.wait(slow, timeout=0.01)
        assert client.cancel(slow, "not wanted") is Cancellation.CANCELLED
        cancelled = client.wait(slow, timeout=60)
        assert (cancelled.outcome, cancelled.error) == (State.CANCELLED, "not wanted")
        assert client.cancel(slow) is Cancellation.OVER
        again = client.retry(slow)
        assert again.verdict is RetryVerdict.RETRIED
        assert client.retry(slow).verdict is RetryVerdict.ALREADY
        assert client.get(again.retry_id).state in {State.WAITING, State.STARTING, State.RUNNING}

        ids = client.submit_batch("wave", [members(f"dwave{n}") for n in range(3)])
        assert {client.wait(each, timeout=60).outcome for each in ids} == {State.SUCCEEDED}
        assert client.batch("wave").completed
        types = []
        for event in client.events(batch_id="wave", after="0"):
            types.append(event.type)
            if event.type == "batch.completed":
                break
        assert (types.count("import.accepted"), types.count("import.succeeded")) == (3, 3)
        for unknown in (client.get, client.wait, client.cancel, client.retry, client.batch):
            with pytest.raises(NotKnownError):
                unknown("nowhere")
    client.close()


async def test_an_invalid_request_leaves_nothing_behind(client: Any, redis: Any) -> None:
    good = members("d1")
    with pytest.raises(InvalidSubmissionError) as caught:
        await client.submit({"appId": "D1", "more": 1})
    assert {each.member for each in caught.value.problems} == {
        *("appId", "backendEnvironmentName", "userPoolId", "webClientId", "nativeClientId", "more")
    }
    assert {each.position for each in caught.value.problems} == {None}
    with pytest.raises(InvalidSubmissionError) as caught:
        await client.submit_many([good, {**good, "appId": ""}, good, {**good, "importId": "§"}])
    assert [(each.position, each.member) for each in caught.value.problems] == [
        (1, "appId"),
        (3, "importId"),
    ]
    with pytest.raises(InvalidSubmissionError, match="idempotencyKey: differs from the key"):
        await client.submit({**good, "idempotencyKey": "a"}, idempotency_key="b")
    twice = [{**good, "idempotencyKey": "k"}, members("d2", idempotencyKey="k")]
    with pytest.raises(InvalidSubmissionError, match="request 1: idempotencyKey: is that of reque"):
        await client.submit_many(twice)
    with pytest.raises(InvalidSubmissionError, match="importId: is that of request 0"):
        await client.submit_many([{**each, "importId": "i"} for each in (good, members("d2"))])
    for wrong in ({"canary": -1}, {"offset": -1}, {"stop_percent": 101}):
        with pytest.raises(InvalidSubmissionError):
            await client.submit_batch("wave", [good], **wrong)
    with pytest.raises(InvalidSubmissionError, match="batchId: differs"):
        await client.submit_batch("wave", [good, {**good, "batchId": "other"}])
    with pytest.raises(InvalidSubmissionError, match="requests: has fewer than 1"):
        await client.submit_batch("wave", [])
    with pytest.raises(InvalidSubmissionError, match="idempotencyKey: must be text"):
        await client.submit_many([good], idempotency_key="\n")
    assert await redis.keys("*") == []


async def test_a_region_is_needed_from_somewhere(
    client: Any, redis: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    config.write_text("[profile acme]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(InvalidSubmissionError, match="region: is not given"):
        await client.submit(members("d1"))
    assert await redis.keys("*") == []
    import_id = await client.submit(members("d1", account="acme"))
    assert (await client.get(import_id)).region == "eu-central-1"


async def test_running_workers_say_which_accounts_are_accepted(
    client: Any, make_store: MakeStore
) -> None:
    assert await client.submit(members("d1", account="acme"))  # none of them has said so yet
    store = await make_store()
    await store.publish_accounts(frozenset({"default", "customer-*"}))
    assert await client.submit(members("d2", account="customer-1"))
    with pytest.raises(InvalidSubmissionError) as caught:
        await client.submit_many([members("d3"), members("d3", account="acme")])
    (problem,) = caught.value.problems
    assert (problem.position, problem.member) == (1, "account")
    assert "no worker accepts acme" in problem.message


async def test_the_same_key_is_the_same_import_or_a_conflict(client: Any, redis: Any) -> None:
    first = await client.submit(members("d1"), idempotency_key="ticket")
    assert await client.submit(members("d1", idempotencyKey="ticket")) == first
    before = await records(redis)
    for again in (
        client.submit(members("d2"), idempotency_key="ticket"),
        client.submit_many([members("d3"), members("d2", idempotencyKey="ticket")]),
        client.submit_many([members("d3"), members("d2", importId=first)]),
        client.submit_batch("wave", [members("d3"), members("d2", idempotencyKey="ticket")]),
    ):
        with pytest.raises(ConflictError, match=f"belongs to import {first}"):
            await again
    assert await records(redis) == before
    assert not await redis.exists(f"imports:tasks:{first}"), "repeats add no Celery tasks"
    three = [members(f"d{n}") for n in range(3)]
    ids = await client.submit_many(three, idempotency_key="list")
    assert await client.submit_many(three, idempotency_key="list") == ids
    assert len(set(ids)) == 3
    with pytest.raises(ConflictError) as caught:
        await client.submit_many([three[0], three[2], three[1]], idempotency_key="list")
    assert [each.position for each in caught.value.problems] == [1, 2]
    batch = await client.submit_batch("wave", three, total=4)
    assert await client.submit_batch("wave", three, total=4) == batch
    assert await client.submit_batch("wave", three[:1], offset=3) != batch[:1]
    counts = await client.batch("wave")
    assert (counts.accepted, counts.expected) == (4, 4)
    await client.submit_batch("later", three, start_at="2126-12-01T22:00Z", max_per_hour=5)
    assert (await client.batch("later")).as_json()["schedule"] == {
        "startAt": "2126-12-01T22:00:00.000Z",
        "window": None,
        "maxPerHour": 5,
        "nextStartAt": "2126-12-01T22:00:00.000Z",
    }


async def test_a_key_that_another_producer_used_is_known(
    client: Any, make_store: MakeStore
) -> None:
    store = await make_store()
    request = OPERATIONS.parse(members("d1", idempotencyKey="ticket"))
    await store.admit(Envelope(import_id="task-1", task_id="task-1"), request, "us-east-1")
    assert await client.submit(members("d1"), idempotency_key="ticket") == "task-1"
    with pytest.raises(ConflictError, match="idempotencyKey: belongs to import task-1"):
        await client.submit(members("d2"), idempotency_key="ticket")
    with pytest.raises(ConflictError, match="importId: belongs to import task-1"):
        await client.submit(members("d2", importId="task-1"))


async def test_of_many_that_race_for_a_key_one_wins(client: Any, redis: Any) -> None:
    same = [client.submit(members("d1"), idempotency_key="same") for _ in range(RACING)]
    assert len(set(await asyncio.gather(*same))) == 1
    others = [
        client.submit(members("d1", metadata={"n": str(n)}), idempotency_key="other")
        for n in range(RACING)
    ]
    results = await asyncio.gather(*others, return_exceptions=True)
    won = [each for each in results if isinstance(each, str)]
    assert len(won) == 1
    assert len(await redis.keys("imports:import:*")) == 2
    assert await redis.xlen("imports:events") == 2
    lost = [each for each in results if isinstance(each, ConflictError)]
    assert len(lost) == RACING - 1
    for each in lost:
        (problem,) = each.problems
        assert (problem.member, problem.position) == ("idempotencyKey", None)
        assert won[0] in problem.message


async def test_all_that_wait_share_one_reader(client: Any, redis: Any) -> None:
    ids = await client.submit_many([members("d1") for _ in range(WAITING)])
    waiting = [asyncio.create_task(client.wait(each)) for each in ids]

    async def blocked() -> int:
        return int((await redis.info("clients"))["blocked_clients"])

    await until(lambda: _is(blocked(), 1), "the one reader waits")
    await asyncio.gather(*(client.cancel(each) for each in ids))
    results = await asyncio.gather(*waiting)
    assert [each.import_id for each in results] == ids
    assert {each.outcome for each in results} == {State.CANCELLED}
    await until(lambda: _is(blocked(), 0), "nothing reads when nobody waits")


async def _is(number: Any, expected: int) -> bool:
    return bool(await number == expected)


async def test_events_resume_and_a_slow_reader_misses_none(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW", 5)
    ids = await client.submit_many([members("d1") for _ in range(3)])
    slow = client.events(after="0")
    first = await anext(slow)
    fast = client.events(after=first.position)
    assert [(await anext(fast)).data["importId"] for _ in range(2)] == ids[1:]
    more = await client.submit_many([members("d1") for _ in range(30)])
    seen = [(await anext(fast)).data["importId"] for _ in more]
    assert seen == more
    assert [(await anext(slow)).data["importId"] for _ in range(32)] == [*ids[1:], *more]
    one = client.events(import_id=more[4], after="0")
    event = await anext(one)
    assert (event.type, event.subject) == ("import.accepted", "d1/staging")
    for each in (slow, fast, one):
        await each.aclose()


async def test_a_tracer_gives_an_import_its_place_in_a_trace(
    store_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    seen: list[tuple[str, TraceContext | None, EventType]] = []

    class Noting(Untraced):
        def begin(self, import_id: str, given: TraceContext | None) -> TraceContext | None:
            assert import_id
            return given or read_trace(TRACEPARENT, None)

        def appended(
            self, import_id: str, trace: TraceContext | None, event: EventType, began_ns: int
        ) -> None:
            assert began_ns > 0
            seen.append((import_id, trace, event))

    async with AsyncImportClient(store_url, tracer=Noting()) as client:
        import_id = await client.submit(members("d1"), idempotency_key="k")
        await client.submit(members("d1"), idempotency_key="k")
        own = await client.submit(members("d1", traceparent=TRACEPARENT.replace("4bf9", "5555")))
    assert [(each, event) for each, _, event in seen] == [
        (import_id, EventType.ACCEPTED),
        (own, EventType.ACCEPTED),
    ]
    stored = [
        await redis.hget(f"imports:import:{each}", "traceparent") for each in (import_id, own)
    ]
    assert [text[:39] for text in stored] == [
        TRACEPARENT[:39],
        TRACEPARENT.replace("4bf9", "5555")[:39],
    ]


async def test_a_reader_of_events_that_fails_tells_those_who_wait(client: Any, redis: Any) -> None:
    waiting = asyncio.create_task(anext(client.events()))
    await until(lambda: client.feed.is_read, "the client waits for events")
    await redis.xadd("imports:events", {"event": "no JSON"})
    with pytest.raises(ValueError, match="Expecting value"):
        await waiting
    await redis.delete("imports:events")
    import_id = await client.submit(members("d1"))
    assert (await anext(client.events(after="0"))).data["importId"] == import_id


async def test_closing_ends_those_who_wait(store_url: str) -> None:
    client = AsyncImportClient(store_url)
    waiting = asyncio.create_task(anext(client.events(after="0")))
    await until(lambda: client.feed.is_read, "the client waits for events")
    await client.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await waiting


async def test_one_error_says_that_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    async with AsyncImportClient("redis://127.0.0.1:1/0") as client:
        for call in (
            client.submit(members("d1")),
            client.submit_batch("wave", [members("d1")]),
            client.get("i"),
            client.wait("i"),
            client.batch("b"),
            client.cancel("i"),
            anext(client.events(after="0")),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
    with pytest.raises(SettingsError, match="URL"):
        AsyncImportClient("http://127.0.0.1")


def test_the_client_imports_neither_celery_nor_the_sdk() -> None:
    code = (
        "import sys, amplify_import; assert 'worker.client' not in sys.modules;"
        "amplify_import.ImportClient;"
        "assert not {'celery', 'aioboto3', 'aiohttp'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
