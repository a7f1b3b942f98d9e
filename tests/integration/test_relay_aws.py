"""A relay in this process, and AWS's services: moto's server, and a server with chosen answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import Cloud
from tests.support.receiving import Answer, Receiver
from tests.support.relaying import append, event, is_in_order, relaying, until
from worker.store.sinkviews import SinkControl, read_sinks

LONG = "d" * 200


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch, moto_url: str) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", moto_url),
        ("AWS_ACCESS_KEY_ID", "AKIATESTDEFAULT00000"),
        ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)


async def collected(cloud: Cloud, url: str, number: int) -> list[dict[str, Any]]:
    """Return so many messages of a queue, when they have arrived."""
    messages: list[dict[str, Any]] = []

    def enough() -> bool:
        messages.extend(cloud.take(url))
        return len(messages) >= number

    await until(enough, f"{number} messages arrive")
    return messages


def events(number: int) -> list[dict[str, Any]]:
    return [event(f"d{n % 4}/prod", n, "import.succeeded") for n in range(number)]


async def test_sqs(redis: Any, tmp_path: Path, cloud: Cloud) -> None:
    url, _ = cloud.queue("plain")
    async with relaying(redis, tmp_path, queue={"kind": "sqs", "queue_url": url}):
        await append(redis, *events(25))
        messages = await collected(cloud, url, 25)
    assert sorted(json.loads(m["Body"])["id"] for m in messages) == sorted(
        e["id"] for e in events(25)
    )
    first = messages[0]
    attributes = {name: each["StringValue"] for name, each in first["MessageAttributes"].items()}
    body = json.loads(first["Body"])
    names = ("specversion", "id", "source", "type", "subject", "time")
    assert attributes == {
        "content-type": "application/cloudevents+json",
        **{f"ce-{name}": body[name] for name in names},
    }


async def test_a_fifo_queue_keeps_the_order_and_drops_repeats(
    redis: Any, tmp_path: Path, cloud: Cloud
) -> None:
    url, _ = cloud.queue("ordered.fifo")
    sent = [*events(20), event(LONG, 0)]
    async with relaying(redis, tmp_path, queue={"kind": "sqs", "queue_url": url}):
        await append(redis, *sent, *sent)
        await until(lambda: is_settled(redis), "all are settled, the repeats too")
        messages = await collected(cloud, url, len(sent))
        assert cloud.messages(url) == []
    assert is_in_order([json.loads(message["Body"])["id"] for message in messages])
    for message in messages:
        body, attributes = json.loads(message["Body"]), message["Attributes"]
        if body["subject"] != LONG:
            assert attributes["MessageGroupId"] == body["subject"]
            assert attributes["MessageDeduplicationId"] == body["id"]


async def is_settled(redis: Any) -> bool:
    found = await read_sinks(redis)
    return bool(found) and found[0].unread == found[0].pending == 0


async def test_sns(redis: Any, tmp_path: Path, cloud: Cloud) -> None:
    url, queue_arn = cloud.queue("subscribed.fifo")
    sns = cloud.clients["sns"]
    arn = sns.create_topic(Name="events.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
    sns.subscribe(
        TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true"}
    )
    async with relaying(redis, tmp_path, topic={"kind": "sns", "topic_arn": arn}):
        await append(redis, *events(15))
        messages = await collected(cloud, url, 15)
    assert is_in_order([json.loads(message["Body"])["id"] for message in messages])
    assert messages[0]["MessageAttributes"]["ce-type"]["StringValue"] == "import.succeeded"


async def test_eventbridge(redis: Any, tmp_path: Path, cloud: Cloud) -> None:
    url, queue_arn = cloud.queue("matched")
    buses = cloud.clients["events"]
    buses.create_event_bus(Name="imports")
    pattern = json.dumps({"detail-type": ["import.succeeded"], "source": ["amplify-import-worker"]})
    buses.put_rule(Name="succeeded", EventBusName="imports", EventPattern=pattern)
    buses.put_targets(
        Rule="succeeded", EventBusName="imports", Targets=[{"Id": "1", "Arn": queue_arn}]
    )
    async with relaying(redis, tmp_path, bus={"kind": "eventbridge", "bus": "imports"}):
        await append(redis, *events(12), event("d9/prod", 0, "import.failed"))
        messages = await collected(cloud, url, 12)
        await until(lambda: is_settled(redis), "all events are settled")
    entries = [json.loads(message["Body"]) for message in messages]
    assert sorted(e["detail"]["id"] for e in entries) == sorted(e["id"] for e in events(12))
    assert {entry["time"] for entry in entries} == {"2026-11-24T08:01:07Z"}


async def test_an_absent_queue_parks_nothing(redis: Any, tmp_path: Path, cloud: Cloud) -> None:
    url, _ = cloud.queue("late")
    absent = url.replace("late", "absent")
    sink = {"kind": "sqs", "queue_url": absent, "max_attempts": 1}
    async with relaying(redis, tmp_path, queue=sink):
        await append(redis, *events(3))
        await until(lambda: has_error(redis), "the error is recorded")
        assert await parked(redis) == {}
        cloud.queue("absent")
        await collected(cloud, absent, 3)


async def has_error(redis: Any) -> bool:
    found = await read_sinks(redis)
    return bool(found and "NonExistentQueue" in found[0].error)


async def parked(redis: Any) -> dict[str, str]:
    found = [each async for each in SinkControl(redis).parked("queue")]
    return {json.loads(each.text)["id"]: each.reason for each in found}


def answer_batch(request: dict[str, Any]) -> Answer:
    """Answer SendMessageBatch: `bad` is invalid, and `busy` is throttled, the first time."""
    failed, successful = [], []
    for entry in request["Entries"]:
        subject = json.loads(entry["MessageBody"])["subject"]
        if subject == "bad/prod":
            code = {"Code": "InvalidMessageContents", "SenderFault": True, "Message": "no"}
            failed.append({"Id": entry["Id"], **code})
        elif subject == "busy/prod" and BUSY:
            BUSY.pop()
            failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
        else:
            done = {"MessageId": "m", "MD5OfMessageBody": ""}
            successful.append({"Id": entry["Id"], **done})
            DONE.append(json.loads(entry["MessageBody"])["id"])
    return Answer(200, body=json.dumps({"Successful": successful, "Failed": failed}).encode())


BUSY: list[str] = []
DONE: list[str] = []


async def test_each_entry_of_a_batch_has_an_outcome_of_its_own(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BUSY[:], DONE[:] = ["once"], []
    with Receiver(answer_batch) as receiver:
        monkeypatch.setenv("AWS_ENDPOINT_URL", receiver.url)
        sink = {"kind": "sqs", "queue_url": receiver.url, "max_attempts": 1}
        await append(
            redis, *(event(f"{s}/prod", n) for n in range(2) for s in ("a", "bad", "busy"))
        )
        async with relaying(redis, tmp_path, queue=sink):
            await until(lambda: len(DONE) >= 4, "the others arrive")
            await until(lambda: is_settled(redis), "all are settled")
    assert sorted(DONE) == ["a/prod/0", "a/prod/1", "busy/prod/0", "busy/prod/1"]
    assert is_in_order(DONE)
    reason = "InvalidMessageContents: no"
    assert await parked(redis) == {"bad/prod/0": reason, "bad/prod/1": reason}


async def test_a_call_that_is_refused_because_of_one_event_parks_only_this_one(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(request: dict[str, Any]) -> Answer:
        texts = [entry["MessageBody"] for entry in request["Entries"]]
        if any("bad/prod" in text for text in texts):
            error = {"__type": "com.amazonaws.sqs#InvalidMessageContents", "message": "no"}
            return Answer(400, body=json.dumps(error).encode())
        return answer_batch(request)

    DONE[:] = []
    with Receiver(decide) as receiver:
        monkeypatch.setenv("AWS_ENDPOINT_URL", receiver.url)
        sink = {"kind": "sqs", "queue_url": receiver.url, "max_attempts": 1}
        await append(redis, *(event(f"{subject}/prod", 0) for subject in ("a", "bad", "c")))
        async with relaying(redis, tmp_path, queue=sink):
            await until(lambda: is_settled(redis), "all are settled")
    assert sorted(DONE) == ["a/prod/0", "c/prod/0"]
    assert list(await parked(redis)) == ["bad/prod/0"]


async def test_each_entry_of_a_bus_has_an_outcome_of_its_own(
    redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(request: dict[str, Any]) -> Answer:
        entries = []
        for entry in request["Entries"]:
            event_id = json.loads(entry["Detail"])["id"]
            if event_id.startswith("bad/"):
                entries.append({"ErrorCode": "MalformedDetail", "ErrorMessage": "no"})
            elif event_id not in tried:
                entries.append({"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"})
            else:
                entries.append({"EventId": "e"})
                done.append(event_id)
            tried.add(event_id)
        failed = sum("ErrorCode" in entry for entry in entries)
        body = json.dumps({"FailedEntryCount": failed, "Entries": entries})
        return Answer(200, body=body.encode())

    tried, done = set[str](), list[str]()
    with Receiver(decide) as receiver:
        monkeypatch.setenv("AWS_ENDPOINT_URL", receiver.url)
        sink = {"kind": "eventbridge", "bus": "default", "max_attempts": 1}
        await append(redis, *(event(f"{subject}/prod", 0) for subject in ("a", "bad", "c")))
        async with relaying(redis, tmp_path, queue=sink):
            await until(lambda: is_settled(redis), "all are settled")
    assert sorted(done) == ["a/prod/0", "c/prod/0"]
    assert await parked(redis) == {"bad/prod/0": "MalformedDetail: no"}
