"""The entry point by Amazon SQS, with moto's server and with a server of chosen answers."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from config.settings import Settings
from tests.proxy import Proxy
from tests.support import WAIT_SECONDS, CommandLine, StartWorker, members, wait_until
from tests.support.cloud import Cloud
from tests.support.producer import Producer
from tests.support.receiving import Answer, Receiver
from tests.support.relaying import until
from tests.support.stores import MakeStore
from tests.world import AnyAccount, NoAnnouncer, SingleRegion
from worker.cli.queuechecks import check_queue
from worker.domain.imports import Import
from worker.domain.requests import MAX_REQUEST_BYTES, derive_import_id
from worker.domain.states import State
from worker.doors.sqs import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, SqsDoor
from worker.engine.admit import Admitter
from worker.metrics.measurements import Measurements
from worker.metrics.values import Values
from worker.operations.registry import OPERATIONS
from worker.operations.requests_queue import RequestsQueue
from worker.store.config import StoreConfig
from worker.store.connection import StoreUnavailableError
from worker.store.store import ImportStore

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
OWNER = "123456789012"
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=30, settle_seconds=0
)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "AKIATESTDEFAULT00000"),
        ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)


class Door:
    """A door in this process. It does not sleep; `waits` has how long it would have slept."""

    def __init__(self, url: str, store: ImportStore, long_poll_seconds: int = 1) -> None:
        self.waits: list[float] = []
        self.values = Values()
        self.seen = Measurements(self.values)
        self.queue = RequestsQueue(url, self.seen.called_queue, long_poll_seconds)
        admitter = Admitter(OPERATIONS, store, AnyAccount(), SingleRegion(), NoAnnouncer())
        self.door = SqsDoor(self.queue, admitter, self.seen, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def take_all(self, cloud: Cloud) -> None:
        """Take messages until the queue has none."""
        while cloud.left(self.queue.url):
            await self.door.take()

    async def close(self) -> None:
        await self.door.close()
        await self.queue.close()


OpenDoor = Callable[..., Door]


@pytest.fixture
async def open_door() -> Any:
    opened: list[Door] = []

    def open_one(*args: Any, **more: Any) -> Door:
        opened.append(Door(*args, **more))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


async def import_of(store: ImportStore, import_id: str) -> Import:
    item = await store.load(import_id)
    assert item is not None, import_id
    return item


async def test_each_message_becomes_one_import_and_is_deleted(
    make_store: MakeStore, cloud: Cloud, open_door: OpenDoor
) -> None:
    store = await make_store()
    url, _ = cloud.queue("requests")
    attribute = {"DataType": "String", "StringValue": TRACEPARENT}
    (plain,) = cloud.send(url, members("d1"), MessageAttributes={"traceparent": attribute})
    cloud.send(url, members("d2", importId="own"))
    junk = {
        cloud.send(url, body)[0]: error
        for body, error in (
            ("not JSON", "request: is not JSON"),
            ("[" * 5000, "request: is not JSON"),
            ([members("d3")], "request: must be an object, got [{"),
            (members("d4", colour="blue"), "colour: is not a member of an import"),
            (members("d5", importId="no good"), "importId: must look like"),
            ("x" * (MAX_REQUEST_BYTES + 1), f"request: is longer than {MAX_REQUEST_BYTES} bytes"),
            ({"Type": "Notification", "Message": "{}"}, "Type: is not a member"),
        )
    }
    door = open_door(url, store)
    with capture_logs() as logs:
        await door.take_all(cloud)

    item = await import_of(store, derive_import_id("sqs", f"{OWNER}/requests/{plain}"))
    assert (item.state, item.app_id) == (State.WAITING, "d1")
    assert item.trace is not None
    assert item.trace.trace_id == TRACE_ID
    assert (await import_of(store, "own")).app_id == "d2"
    for message_id, error in junk.items():
        item = await import_of(store, derive_import_id("sqs", f"{OWNER}/requests/{message_id}"))
        assert item.state is State.REJECTED
        assert error in item.error
    named = {each["message_id"]: each["import_id"] for each in logs if "message_id" in each}
    assert set(named) == set(junk)
    text = door.values.text("")[0].decode()
    assert f"imports_sqs_received_total {2 + len(junk)}.0" in text
    assert 'imports_sqs_calls_total{method="delete_message_batch",status="2xx"} 1.0' in text
    assert door.waits == []


async def test_sns_and_eventbridge_may_deliver_a_request_twice(
    make_store: MakeStore, cloud: Cloud, open_door: OpenDoor
) -> None:
    store = await make_store()
    url, arn = cloud.queue("subscribed")
    sns, buses = cloud.clients["sns"], cloud.clients["events"]
    topic = sns.create_topic(Name="requests")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    buses.put_rule(Name="requests", EventPattern=json.dumps({"source": ["shop"]}))
    buses.put_targets(Rule="requests", Targets=[{"Id": "1", "Arn": arn}])
    attribute = {"DataType": "String", "StringValue": TRACEPARENT}
    published = sns.publish(
        TopicArn=topic,
        Message=json.dumps(members("d1")),
        MessageAttributes={"traceparent": attribute},
    )["MessageId"]
    entry = {"Source": "shop", "DetailType": "move", "Detail": json.dumps(members("d2"))}
    buses.put_events(Entries=[entry])
    delivered = [message["Body"] for message in cloud.messages(url)]
    assert len(delivered) == 2
    cloud.send(url, *delivered)  # in messages of their own, as these services do it
    cloud.send(url, delivered[0].replace("userPoolId", "user"))
    with capture_logs() as logs:
        await open_door(url, store).take_all(cloud)

    (event,) = [json.loads(body) for body in delivered if "detail-type" in body]
    by_sns = await import_of(store, derive_import_id("sqs", f"{topic}/{published}"))
    by_bus = await import_of(store, derive_import_id("sqs", f"shop/{event['id']}"))
    assert by_sns.trace is not None
    assert by_sns.trace.trace_id == TRACE_ID
    assert (by_sns.app_id, by_bus.app_id) == ("d1", "d2")
    assert sorted(each["event"] for each in logs if each["event"].startswith("import.")) == [
        "import.accepted",
        "import.accepted",
        "import.known",
        "import.known",
        "import.rejected",
    ]


async def test_a_fifo_queue_is_admitted_in_order(
    make_store: MakeStore, cloud: Cloud, open_door: OpenDoor
) -> None:
    store = await make_store()
    url, _ = cloud.queue("requests.fifo")
    for number in range(25):
        cloud.send(
            url,
            members(f"d{number}"),
            MessageGroupId=f"g{number % 2}",
            MessageDeduplicationId=str(number),
        )
    with capture_logs() as logs:
        await open_door(url, store).take_all(cloud)
    accepted = [each["target"] for each in logs if each["event"] == "import.accepted"]
    numbers = [int(target.partition("/")[0][1:]) for target in accepted]
    for group in (0, 1):
        assert [n for n in numbers if n % 2 == group] == list(range(group, 25, 2))


async def test_nothing_is_deleted_or_received_while_the_store_is_away(
    make_store: MakeStore, redis: Any, cloud: Cloud, open_door: OpenDoor
) -> None:
    await make_store()
    url, _ = cloud.queue("outage", VisibilityTimeout="600")
    cloud.send_many(url, [members(f"d{n}") for n in range(12)])
    with Proxy(redis.connection_pool.connection_kwargs["port"]) as proxy:
        async with Redis.from_url(proxy.url, decode_responses=True) as client:
            door = open_door(url, ImportStore(client, CONFIG))
            proxy.refuse()
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await door.door.take()
            found = cloud.attributes(url)
            assert found["ApproximateNumberOfMessagesNotVisible"] == "10"
            assert found["ApproximateNumberOfMessages"] == "2"

            proxy.flow()
            await door.door.take()
            assert cloud.left(url) == 2

            proxy.refuse()
            with pytest.raises(StoreUnavailableError):
                await door.door.take()
            await door.close()  # other workers get them at once
            assert cloud.attributes(url)["ApproximateNumberOfMessages"] == "2"


async def test_a_long_poll_ends_with_the_worker(make_store: MakeStore, open_door: OpenDoor) -> None:
    polled, answered = threading.Event(), threading.Event()

    def decide(_: dict[str, Any]) -> Answer:
        polled.set()
        assert answered.wait(WAIT_SECONDS)
        return _answer(200, {})

    with Receiver(decide) as server:
        door = open_door(f"{server.url}/q", await make_store(), long_poll_seconds=20)
        polling = asyncio.create_task(door.door.take())
        await until(polled.is_set, "the poll has arrived")
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
        await door.close()
        assert not server.messages, "the poll was answered first"
        answered.set()


async def test_what_is_being_admitted_is_deleted_before_the_worker_stops(
    make_store: MakeStore, redis: Any, cloud: Cloud, open_door: OpenDoor
) -> None:
    store = await make_store()
    url, _ = cloud.queue("stopping")
    cloud.send(url, members("d1", importId="last"))
    with Proxy(redis.connection_pool.connection_kwargs["port"]) as proxy:
        async with Redis.from_url(proxy.url, decode_responses=True) as client:
            door = open_door(url, ImportStore(client, CONFIG))
            proxy.stall()
            taking = asyncio.create_task(door.door.take())
            await until(lambda: has_received(cloud, url), "the message is received")
            await until(lambda: proxy.accepted > 0, "its admission has begun")
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking
            proxy.flow()
            await door.close()
    assert cloud.left(url) == 0
    assert (await import_of(store, "last")).app_id == "d1"


def has_received(cloud: Cloud, url: str) -> bool:
    return cloud.attributes(url)["ApproximateNumberOfMessagesNotVisible"] == "1"


class Sqs:
    """A server that answers calls to a queue as told: `faults` maps methods to errors."""

    def __init__(self, *requests: Any) -> None:
        self.messages = {str(n): json.dumps(request) for n, request in enumerate(requests)}
        self.faults: dict[str, tuple[int, str]] = {}
        self.undeletable: set[str] = set()

    def decide(self, body: dict[str, Any]) -> Answer:
        method = "receive" if "MaxNumberOfMessages" in body else "delete"
        if method in self.faults:
            status, code = self.faults[method]
            return _answer(status, {"__type": f"com.amazonaws.sqs#{code}", "message": "because"})
        if method == "receive":
            found = [
                {"MessageId": name, "ReceiptHandle": name, "Body": text}
                for name, text in self.messages.items()
            ]
            return _answer(200, {"Messages": found} if found else {})
        failed = []
        for entry in body["Entries"]:
            if entry["ReceiptHandle"] in self.undeletable:
                failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
            else:
                del self.messages[entry["ReceiptHandle"]]
        return _answer(200, {"Successful": [], "Failed": failed})


def _answer(status: int, body: Any) -> Answer:
    return Answer(status, body=json.dumps(body).encode())


async def test_a_message_that_can_not_be_deleted_is_the_same_import_again(
    make_store: MakeStore, open_door: OpenDoor
) -> None:
    store = await make_store()
    sqs = Sqs(members("d0"), members("d1"), members("d2"))
    sqs.undeletable = {"1"}
    with Receiver(sqs.decide) as server, capture_logs() as logs:
        door = open_door(f"{server.url}/q", store)
        for _ in range(3):
            await door.door.take()
        assert list(sqs.messages) == ["1"]
        sqs.undeletable.clear()
        await door.door.take()
    assert sqs.messages == {}
    names = [each["event"] for each in logs]
    assert names.count("import.accepted") == 3
    assert names.count("import.known") == 3
    assert names.count("sqs.call_failed") == names.count("sqs.call_succeeded") == 1


async def test_each_change_of_what_fails_is_logged_once_and_waits_grow(
    make_store: MakeStore, open_door: OpenDoor
) -> None:
    store = await make_store()
    sqs = Sqs(members("d0"))
    with Receiver(sqs.decide) as server, capture_logs() as logs:
        door = open_door(f"{server.url}/q", store)
        for status, code in (
            (400, "QueueDoesNotExist"),
            (403, "AccessDeniedException"),
            (403, "ExpiredTokenException"),
            (400, "RequestThrottled"),
            (500, "InternalFailure"),
        ):
            sqs.faults = {"receive": (status, code)}
            for _ in range(4):
                await door.door.take()
        assert door.seen.queue_failing_since is not None
        sqs.faults = {"delete": (403, "AccessDenied")}
        for _ in range(4):
            await door.door.take()
        assert door.seen.queue_failing_since is not None
        assert list(sqs.messages) == ["0"]
        sqs.faults = {}
        await door.door.take()
    assert sqs.messages == {}
    assert door.seen.queue_failing_since is None
    failed = [
        (each["method"], each["error"]) for each in logs if each["event"] == "sqs.call_failed"
    ]
    assert [method for method, _ in failed] == ["receive_message"] * 5 + ["delete_message_batch"]
    for code, (_, error) in zip(
        ("QueueDoesNotExist", "AccessDenied", "ExpiredToken", "RequestThrottled"),
        failed,
        strict=False,
    ):
        assert code in error
    assert len(door.waits) == 24
    assert FIRST_WAIT_SECONDS / 2 <= door.waits[0] <= FIRST_WAIT_SECONDS
    longest = door.waits[8:20]
    for wait in longest:
        assert LONGEST_WAIT_SECONDS / 2 <= wait <= LONGEST_WAIT_SECONDS
    assert len(set(longest)) > 1, "all workers would call at the same time"
    assert door.waits[20] <= FIRST_WAIT_SECONDS, "the first failure after a success"
    assert door.waits[23] > FIRST_WAIT_SECONDS, "a success of another method does not end it"
    text = door.values.text("")[0].decode()
    assert 'imports_sqs_calls_total{method="receive_message",status="5xx"} 4.0' in text


async def test_credentials_that_appear_later_are_found(
    make_store: MakeStore, open_door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make_store()
    sqs = Sqs(members("d0"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with Receiver(sqs.decide) as server, capture_logs() as logs:
        door = open_door(f"{server.url}/q", store)
        await door.door.take()
        assert "Unable to locate credentials" in logs[0]["error"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTDEFAULT00000")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        await door.door.take()
    assert sqs.messages == {}


def test_killed_workers_import_each_request_of_a_queue_once(
    start_worker: StartWorker, producer: Producer, cloud: Cloud, sandbox: Any
) -> None:
    url, _ = cloud.queue("migration", VisibilityTimeout="2")
    requests = [members(f"d{n}") for n in range(200)]
    cloud.send_many(url, requests)

    def events() -> int:
        return int(producer.redis.xlen("imports:events"))

    for appended in (20, 200):
        worker = start_worker(IMPORTS_SQS_REQUESTS_URL=url)
        wait_until(partial(is_above, events, appended), "a part of the queue is admitted")
        worker.kill()
    start_worker(IMPORTS_SQS_REQUESTS_URL=url)
    wait_until(lambda: cloud.left(url) == 0, "the queue is empty")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert len(producer.events("import.accepted")) == len(requests)
    assert len(producer.events("import.succeeded")) == len(requests)
    started = Counter(job["target"] for job in sandbox.jobs())
    assert started == Counter(f"{request['appId']}/staging" for request in requests)


def is_above(number: Callable[[], int], bound: int) -> bool:
    return number() > bound


async def test_doctor_looks_at_the_queue(command: CommandLine, cloud: Cloud) -> None:
    dead, dead_arn = cloud.queue("dead")
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 2})
    hasty, _ = cloud.queue("hasty", VisibilityTimeout="5", RedrivePolicy=redrive)
    cloud.send(hasty, members("d1"), members("d2"))
    assert await found_by_doctor(hasty) == [
        ("queue of requests", "ok", f"{OWNER}/hasty, about 2 messages"),
        ("visibility timeout", "warn", "5 s"),
        ("redrive policy", "warn", "maxReceiveCount is 2"),
    ]
    assert cloud.messages(hasty)[0]["Attributes"]["ApproximateReceiveCount"] == "1"
    assert (await found_by_doctor(dead))[1:] == [("visibility timeout", "ok", "30 s")]
    ((_, verdict, detail),) = await found_by_doctor(f"{dead}-missing")
    assert verdict == "FAIL"
    assert "NonExistentQueue" in detail
    assert await check_queue(Settings()) == []
    done = await asyncio.to_thread(
        command, "doctor", "--json", IMPORTS_SQS_REQUESTS_URL=f"{dead}-missing"
    )
    assert "NonExistentQueue" in done.stdout


async def found_by_doctor(url: str) -> list[tuple[str, str, str]]:
    checks = await check_queue(Settings(sqs_requests_url=url))
    return [(check.name, check.verdict.value, check.detail) for check in checks]
