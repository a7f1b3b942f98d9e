"""A relay in this process, and a NATS server with JetStream on this machine."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.js import JetStreamContext

from tests.support import free_port
from tests.support.relaying import append, event, is_in_order, relaying, until
from worker.relay.event import Event
from worker.relay.jetstream import headers_of
from worker.store.sinkviews import SinkControl, read_sinks

URL = "nats://127.0.0.1:4222"


@pytest.fixture
async def jetstream() -> AsyncIterator[JetStreamContext]:
    """A connection to the server."""
    try:
        client = await nats.connect(URL, allow_reconnect=False, connect_timeout=5)
    except (OSError, nats.errors.Error) as error:
        pytest.skip(f"NO NATS with JetStream at {URL}, its tests are skipped: {error}")
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def prefix(jetstream: JetStreamContext) -> AsyncIterator[str]:
    """Subjects of this test's own; their stream, of the same name, is deleted at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    try:
        await jetstream.delete_stream(name)
    except nats.js.errors.NotFoundError:
        return


async def is_settled(redis: Any) -> bool:
    found = await read_sinks(redis)
    return bool(found) and found[0].unread == found[0].pending == 0


async def test_events_are_stored_in_order_and_repeats_are_dropped(
    redis: Any, tmp_path: Path, jetstream: JetStreamContext, prefix: str
) -> None:
    await jetstream.add_stream(name=prefix, subjects=[f"{prefix}.>"])
    sent = [event(f"d{s}/prod", n, "import.failed") for n in range(20) for s in range(5)]
    async with relaying(redis, tmp_path, stream={"kind": "nats", "url": URL, "prefix": prefix}):
        await append(redis, *sent, *sent)
        await until(lambda: is_settled(redis), "all are settled, the repeats too")
    subscription = await jetstream.subscribe(f"{prefix}.import.failed", ordered_consumer=True)
    messages = [await subscription.next_msg(timeout=30) for _ in sent]
    with pytest.raises(nats.errors.TimeoutError):
        await subscription.next_msg(timeout=0.3)
    headers = [message.headers or {} for message in messages]
    assert is_in_order([each["ce-id"] for each in headers])
    assert headers[0]["ce-type"] == "import.failed"
    assert headers[0]["ce-specversion"] == "1.0"
    assert headers[0]["ce-dataschema"] == "urn:amplify-import-worker:import.failed:1"
    assert headers[0]["content-type"] == "application/json"
    first = {each["id"]: each["data"] for each in sent}[headers[0]["ce-id"]]
    assert json.loads(messages[0].data) == first


async def test_events_wait_until_a_stream_stores_them(
    redis: Any, tmp_path: Path, jetstream: JetStreamContext, prefix: str
) -> None:
    sink = {"kind": "nats", "url": URL, "prefix": prefix, "max_attempts": 1}
    async with relaying(redis, tmp_path, stream=sink):
        await append(redis, *(event("d1/prod", n) for n in range(3)))
        await until(lambda: has_error(redis), "the error is recorded")
        assert [each async for each in SinkControl(redis).parked("stream")] == []
        await jetstream.add_stream(name=prefix, subjects=[f"{prefix}.>"])
        await until(lambda: is_settled(redis), "all are settled")
    assert (await jetstream.stream_info(prefix)).state.messages == 3


async def has_error(redis: Any) -> bool:
    found = await read_sinks(redis)
    return bool(found and "no stream stores the subject" in found[0].error)


async def test_a_server_that_is_not_there_parks_nothing(redis: Any, tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    sink = {"kind": "nats", "url": url, "max_attempts": 1, "timeout_seconds": 1}
    async with relaying(redis, tmp_path, stream=sink):
        await append(redis, event("d1/prod", 0))
        await until(lambda: has_no_connection(redis), "the error is recorded")
    assert [each async for each in SinkControl(redis).parked("stream")] == []


async def has_no_connection(redis: Any) -> bool:
    found = await read_sinks(redis)
    return bool(found and found[0].error.startswith("no connection"))


def test_headers_are_printable() -> None:
    odd = {**event("ümläut % x", 0), "id": 'a"b'}
    headers = headers_of(Event.parse(json.dumps(odd)))
    assert headers["ce-subject"] == "%C3%BCml%C3%A4ut%20%25%20x"
    assert headers["ce-id"] == "a%22b"
