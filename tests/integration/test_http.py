"""The HTTP door: what it admits, what it refuses, and how it tells."""

import asyncio
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from redis import Redis
from referencing import Registry, Resource

from tests.chaos.messages import message_of
from tests.support import (
    CommandLine,
    Producer,
    StartWorker,
    free_port,
    members,
    storage_members,
    wait_until,
)
from tests.support.contract import problems_of_event
from tests.support.relaying import append, event, until
from tests.support.scraping import Scraper
from tests.support.serving import BEARER, TOKEN, Answer, Door, Message, messages, serving
from worker.contract.openapi import openapi_document
from worker.doors.http import bodies, streams
from worker.doors.http.access import Bucket

PROBLEM = "application/problem+json"
LONG_EVENTS = 2000
MUTATED = 400
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DOCUMENT = openapi_document()
REGISTRY: Any = Registry().with_resource(
    "urn:door",
    Resource.from_contents({"$schema": Draft202012Validator.META_SCHEMA["$id"], **DOCUMENT}),
)


@pytest.fixture
async def door(store_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    async with serving(store_url) as door:
        yield door


def assert_documented(answer: Answer, path: str, method: str = "get") -> None:
    """Fail unless the document has this status for the path, and the body's schema."""
    part: Any = DOCUMENT["paths"][path][method]["responses"][str(answer.status)]
    content = part["content"][answer.content_type]
    schema = json.loads(json.dumps(content["schema"]).replace("#/", "urn:door#/"))
    Draft202012Validator(schema, registry=REGISTRY).validate(answer.json)


async def assert_problem(answer: Answer, status: int) -> None:
    assert (answer.status, answer.content_type) == (status, PROBLEM), answer
    assert answer.json["status"] == status
    assert answer.json["detail"].endswith(".")
    assert "Traceback" not in answer.text
    assert "<" not in answer.text


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


async def test_requests_are_admitted_and_followed(
    door: Door, start_worker: StartWorker, producer: Producer, redis: Any
) -> None:
    start_worker()
    one = await door.post(
        members("done", batchId="wave", metadata={"a": "b"}),
        **{"Idempotency-Key": '"ticket-1"', "traceparent": TRACEPARENT},
    )
    assert one.status == 202
    assert_documented(one, "/v1/imports", "post")
    location = one.headers["Location"]
    assert location == f"/v1/imports/{one.json['importId']}"
    same = await door.post(
        members("done", batchId="wave", metadata={"a": "b"}, idempotencyKey="ticket-1")
    )
    assert (same.status, same.json) == (202, one.json)
    many = [members("dtwo", batchId="wave"), storage_members("dthree", batchId="wave")]
    both = await door.post(many, **{"Idempotency-Key": "list-1"})
    assert (both.status, len(both.json)) == (202, 2)
    assert_documented(both, "/v1/imports", "post")
    assert (await door.post(many, **{"Idempotency-Key": "list-1"})).json == both.json

    async with await door.stream("wave") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async with asyncio.timeout(60):
            found = [message async for message in messages(response)]
    assert_stream_is_complete(found, imports=3)

    task = producer.app.AsyncResult(one.json["importId"])
    assert (await asyncio.to_thread(task.get, timeout=60))["outcome"] == "succeeded"
    ended = await door.ask("GET", location)
    assert_documented(ended, "/v1/imports/{importId}")
    assert (ended.json["outcome"], ended.json["metadata"]) == ("succeeded", {"a": "b"})
    assert (await redis.hget(f"imports:import:{one.json['importId']}", "traceparent")).startswith(
        TRACEPARENT[:36]
    )
    counts = await door.ask("GET", "/v1/batches/wave")
    assert_documented(counts, "/v1/batches/{batchId}")
    assert (counts.json["completed"], counts.json["states"]["succeeded"]) == (True, 3)
    assert (await door.ask("HEAD", "/v1/batches/wave")).status == 200

    events = [message for message in found if message.id]
    async with await door.stream("wave", events[3].id) as response:
        resumed = [message async for message in messages(response)]
    assert [message for message in resumed if message.id] == events[4:]
    assert resumed[-1] == found[-1]
    async with await door.stream("wave", events[-1].id) as response:
        assert response.status == 204


def assert_stream_is_complete(found: list[Message], imports: int) -> None:
    events = [message.data for message in found if message.id]
    assert [problem for event in events for problem in problems_of_event(event)] == []
    kinds = [event["type"] for event in events]
    assert kinds == [message.event for message in found if message.id]
    for kind in ("import.accepted", "import.started", "import.succeeded"):
        assert kinds.count(kind) == imports
    assert kinds.count("batch.completed") >= 1
    progress = [message for message in found if message.event == "progress"]
    assert found[-1] is progress[-1]
    assert progress[-1].data["completed"]
    schema = {"$ref": "urn:door#/components/schemas/BatchStatus"}
    for message in progress:
        Draft202012Validator(schema, registry=REGISTRY).validate(message.data)


async def test_an_invalid_request_is_named_and_nothing_is_admitted(door: Door, redis: Any) -> None:
    one = await door.post(members("D1", priority="urgent", **{"<b>": 1}))
    assert_documented(one, "/v1/imports", "post")
    assert one.status == 400
    assert [each["member"] for each in one.json["errors"]] == ["appId", "priority", "'<b>'"]
    some = await door.post([members("d1"), members("D1"), 7, members("d1", account="")])
    assert_documented(some, "/v1/imports", "post")
    assert [(each["position"], each["member"]) for each in some.json["errors"]] == [
        (1, "appId"), (2, "request"), (3, "account"),
    ]  # fmt: skip
    many = await door.post([{}] * 1000)
    assert (many.status, len(many.json["errors"])) == (400, 100)
    assert "of 5,000 errors" in many.json["detail"]
    key = await door.post(members("d1", idempotencyKey="a"), **{"Idempotency-Key": "b"})
    assert [each["member"] for each in key.json["errors"]] == ["idempotencyKey"]
    assert (await door.post(members("d1"), **{"Idempotency-Key": '""'})).status == 400
    assert await redis.keys("*") == []
    first = (await door.post(members("d1"), **{"Idempotency-Key": "a"})).json["importId"]
    conflict = await door.post([members("d9"), members("d2", idempotencyKey="a")])
    assert_documented(conflict, "/v1/imports", "post")
    assert (conflict.status, conflict.json["errors"][0]["position"]) == (409, 1)
    assert first in conflict.json["errors"][0]["message"]
    assert await redis.keys("imports:import:*") == [f"imports:import:{first}"]


HOSTILE = {
    "not JSON": b"{",
    "empty": b"",
    "not UTF-8": b'{"appId": "\xff"}',
    "UTF-16": '{"appId": "d1"}'.encode("utf-16"),
    "a member twice": b'{"appId": "d1", "appId": "d2"}',
    "NaN": b'{"deadlineSeconds": NaN}',
    "infinite": b'{"deadlineSeconds": 1e999}',
    "a huge number": b'{"deadlineSeconds": ' + b"9" * 10_000 + b"}",
    "deep": b"[" * 100_000,
    "deep and valid": b'{"metadata": ' + b"[" * 50 + b"]" * 50 + b"}",
    "a lone surrogate": json.dumps(members("d1", metadata={"a": "\ud800"})).encode(),
    "a null character": json.dumps(members("d1\0")).encode(),
    "no array": b"[]",
    "too many": b"[" + b",".join([b"{}"] * 1001) + b"]",
    "a text": b'"appId"',
    "null": b"null",
    "a long member": json.dumps(members("d1", metadata={"a": "x" * 100_000})).encode(),
}


async def test_hostile_bodies_are_answered_with_400(door: Door, redis: Any) -> None:
    for name, body in HOSTILE.items():
        answer = await door.post(body)
        assert answer.status == 400, (name, answer)
        await assert_problem(answer, 400)
        assert_documented(answer, "/v1/imports", "post")
        assert len(answer.text) < 1000, name
    assert await redis.keys("*") == []


async def test_mutated_requests_are_admitted_or_refused(door: Door, redis: Any) -> None:
    seed = Random().randrange(2**32)
    ids: set[str] = set()
    for index in range(MUTATED):
        raw = message_of(seed, "stream", index).raw
        answer = await door.post(raw if index % 3 else b"[" + raw + b"," + raw + b"]")
        assert answer.status in {202, 400, 409}, (seed, index, answer)
        assert_documented(answer, "/v1/imports", "post")
        if answer.status == 202:
            found = answer.json if isinstance(answer.json, list) else [answer.json]
            ids |= {each["importId"] for each in found}
    known = {key.removeprefix("imports:import:") for key in await redis.keys("imports:import:*")}
    assert known == ids, seed
    states = {await redis.hget(f"imports:import:{each}", "state") for each in ids}
    assert states <= {"waiting"}, (seed, "nothing is rejected after its admission")


async def test_what_http_itself_forbids(door: Door) -> None:
    good = json.dumps(members("d1")).encode()
    await assert_problem(await door.post(b" " * (bodies.MAX_BODY_BYTES + 1)), 413)
    await assert_problem(await door.post(good, **{"Content-Type": "text/plain"}), 415)
    untyped = await door.ask("POST", "/v1/imports", data=good, skip_auto_headers=["Content-Type"])
    assert untyped.status == 202
    gzipped = await door.post(gzip.compress(good), **{"Content-Encoding": "gzip"})
    await assert_problem(gzipped, 415)
    for method, path, allowed in (
        ("PUT", "/v1/imports", "OPTIONS, POST"),
        ("GET", "/v1/imports", "OPTIONS, POST"),
        ("DELETE", "/v1/imports/i", "GET, HEAD, OPTIONS"),
        ("HEAD", "/v1/batches/b/events", "GET, OPTIONS"),
    ):
        answer = await door.ask(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
        options = await door.ask("OPTIONS", path)
        assert (options.status, options.headers["Allow"]) == (204, allowed)
    for path in (
        "/",
        "/v1/imports/unknown",
        "/v1/batches/unknown",
        "/v1/batches/u/events",
        "/v1/%00",
        "/v1/imports/%ff",
        "/v1/batches/%ed%a0%80/events",
    ):
        await assert_problem(await door.ask("GET", path), 404)
    assert (await door.post(members("d1", batchId="b"))).status == 202
    wrong = await door.ask("GET", "/v1/batches/b/events", headers={"Last-Event-ID": "x"})
    await assert_problem(wrong, 400)
    host, port = door.url.removeprefix("http://").split(":")
    raw = await asyncio.to_thread(_raw, host, int(port), b"GET / HTTP/1.1\r\n\x00bad\r\n\r\n")
    assert raw.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b"<" not in raw
    assert b"Traceback" not in raw


def _raw(host: str, port: int, data: bytes) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.connect()
    connection.sock.sendall(data)
    received = connection.sock.recv(65_536)
    connection.close()
    return received


async def test_only_a_token_opens_the_door(store_url: str) -> None:
    async with serving(store_url, tokens="old-token, new-token", headers={}) as door:
        for header in ("", "Bearer", "Bearer ", "Basic b2xkLXRva2Vu", "Bearer old", "old-token",
                       "Bearer old-token, new-token", "Bearer \u00e9"):  # fmt: skip
            answer = await door.ask("GET", "/v1/batches/b", headers={"Authorization": header})
            await assert_problem(answer, 401)
            assert_documented(answer, "/v1/batches/{batchId}")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert "old-token" not in answer.text
        for header in ("Bearer old-token", "bearer new-token", "BEARER  new-token"):
            answer = await door.ask("GET", "/v1/batches/b", headers={"Authorization": header})
            assert answer.status == 404
        assert (await door.ask("GET", "/openapi.json")).json == DOCUMENT
        for path in ("/livez", "/readyz"):
            assert (await door.ask("GET", path)).status == 200
        assert (await door.ask("POST", "/v1/imports", data=b"{}")).status == 401


async def test_each_token_has_a_rate(store_url: str) -> None:
    async with serving(store_url, tokens=f"{TOKEN},other", rate=0.001) as door:
        assert (await door.ask("GET", "/v1/batches/b")).status == 404
        answer = await door.ask("GET", "/v1/batches/b")
        await assert_problem(answer, 429)
        assert 900 < int(answer.headers["Retry-After"]) <= 1000
        other = {"Authorization": "Bearer other"}
        assert (await door.ask("GET", "/v1/batches/b", headers=other)).status == 404
        assert (await door.ask("GET", "/livez")).status == 200


def test_a_bucket_refills_up_to_its_size() -> None:
    now = [0.0]
    bucket = Bucket(10, lambda: now[0])
    assert [bucket.take() for _ in range(20)] == [0.0] * 20
    assert bucket.take() == pytest.approx(0.1)
    now[0] = 0.1
    assert bucket.take() == 0.0
    now[0] = 100.0
    assert [bucket.take() for _ in range(21)].count(0.0) == 20


async def test_without_the_store_clients_may_try_again() -> None:
    async with serving("redis://127.0.0.1:1/0") as door:
        answer = await door.post(members("d1", region="us-east-1"))
        await assert_problem(answer, 503)
        assert_documented(answer, "/v1/imports", "post")
        assert int(answer.headers["Retry-After"]) > 0
        ready = await door.ask("GET", "/readyz")
        assert (ready.status, ready.text) == (503, "store: can't be reached\n")
        assert (await door.ask("GET", "/livez")).status == 200


async def test_streams_share_one_reader_and_end_with_the_server(store_url: str, redis: Any) -> None:
    async with ClientSession(headers=BEARER) as session:
        async with serving(store_url) as door:
            for n in range(3):
                request = members("d1", region="us-east-1", batchId=f"b{n}")
                assert (await door.post(request)).status == 202
            url = f"{door.url}/v1/batches"
            streams = [await session.get(f"{url}/b{n % 3}/events") for n in range(30)]
            readers = [messages(stream) for stream in streams]
            for n, reader in enumerate(readers):
                first, second = await anext(reader), await anext(reader)
                assert (first.event, second.event) == ("progress", "import.accepted")
                assert first.data["batchId"] == second.data["data"]["batchId"] == f"b{n % 3}"
            assert (await redis.info("clients"))["blocked_clients"] <= 1
        rest = [[message async for message in reader] for reader in readers]
        assert all(message.event == "progress" for each in rest for message in each)


async def test_a_reader_that_reads_nothing_delays_nobody_and_is_left_behind(
    door: Door, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.1)  # finds out who is gone
    open_streams = door.server.streams
    assert (await door.post(members("d1", batchId="b"))).status == 202
    silent = await silent_reader(door, "b")
    async with await door.stream("b") as response:
        reading = asyncio.create_task(count_events(response, LONG_EVENTS))
        for start in range(0, LONG_EVENTS, 500):
            some = range(start, start + 500)
            await append(redis, *(event("d1", n, batchId="b", text="x" * 8192) for n in some))
        await reading
    silent.transport.abort()
    await until(lambda: open_streams.number == 0, "both readers are gone")
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.05)
    silent = await silent_reader(door, "b")
    await until(lambda: open_streams.number == 0, "the server has given up the silent reader")
    silent.close()


async def silent_reader(door: Door, batch_id: str) -> asyncio.StreamWriter:
    """Open a stream, and read only the head of the answer."""
    host, port = door.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /v1/batches/{batch_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}"
    writer.write(f"{head}\r\n\r\n".encode())
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    return writer


async def count_events(response: ClientResponse, number: int) -> None:
    """Read a stream up to so many events."""
    seen = 0
    async for message in messages(response):
        seen += message.event == "import.started"
        if seen == number:
            return


async def test_a_quiet_stream_is_kept_alive_and_streams_and_bodies_have_limits(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(streams, "MOST_STREAMS", 1)
    assert (await door.post(members("d1", batchId="b"))).status == 202
    async with await door.stream("b") as response, asyncio.timeout(60):
        another = await door.ask("GET", "/v1/batches/b/events")
        await assert_problem(another, 503)
        assert_documented(another, "/v1/batches/{batchId}/events")
        assert int(another.headers["Retry-After"]) > 0
        async for line in response.content:
            if line.startswith(b":"):
                break
        else:
            pytest.fail("no comment came")
    host, port = door.url.removeprefix("http://").split(":")
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.05)
    slow = (
        f"POST /v1/imports HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    answer = await asyncio.to_thread(_raw, host, int(port), slow.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_failure_is_logged_and_says_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(door.server._client, "get", fail)  # noqa: SLF001 - a defect
    answer = await door.ask("GET", "/v1/imports/i", headers={"Accept": "text/html"})
    await assert_problem(answer, 500)
    assert "secret" not in answer.text


def served_with(store_url: str, port: str) -> dict[str, str]:
    return {
        **os.environ,
        "IMPORTS_REDIS_URL": store_url,
        "IMPORTS_HTTP_TOKEN": TOKEN,
        "AWS_REGION": "us-east-1",
        "PORT": port,
    }


def post(port: str, key: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    headers = {**BEARER, "Content-Type": "application/json", "Idempotency-Key": key}
    connection.request("POST", "/v1/imports", json.dumps(members("d1")), headers)
    return json.loads(connection.getresponse().read())


def test_a_server_that_dies_before_it_answers_has_not_admitted_twice(
    store_url: str, command: CommandLine
) -> None:
    port = free_port()
    environment = served_with(store_url, port)
    program = [sys.executable, "-m", "tests.integration.dying_server", "serve", "--port", port]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as dying:
        assert dying.stdout
        dying.stdout.readline()
        with pytest.raises(ConnectionError):
            post(port, "ticket")
        assert dying.wait(60) == -signal.SIGKILL
    metrics = free_port()
    command.environment.update({**environment, "IMPORTS_METRICS_PORT": metrics})
    with command.running("serve", "--port", port) as process:
        wait_until(lambda: Scraper(port).probe("/readyz") == 200, "the server is ready")
        import_id = post(port, "ticket")["importId"]
        with Redis.from_url(store_url, decode_responses=True) as redis:
            assert redis.keys("imports:import:*") == [f"imports:import:{import_id}"]
            assert redis.xlen("imports:events") == 1
        scraped = Scraper(metrics).samples()
        post_labels = {"route": "/v1/imports", "code": "202"}
        assert scraped.value("imports_http_answers_total", **post_labels) == 1
        assert scraped.value("imports_http_answer_seconds_count") == 1
        assert scraped.labels("imports_http_streams") == [{}]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout
        assert process.stderr
        assert process.stdout.read() == f"Listening on http://127.0.0.1:{port}\n"
        log = process.stderr.read()
    (line,) = [json.loads(line) for line in log.splitlines()]
    assert (line["event"], line["status"], line["path"]) == ("http.answered", 202, "/v1/imports")
    assert TOKEN not in log


def test_serve_says_what_it_needs(command: CommandLine) -> None:
    done = command("serve")
    assert (done.returncode, "IMPORTS_HTTP_TOKEN is not set" in done.stderr) == (2, True)
    done = command("serve", IMPORTS_HTTP_TOKEN="a b")
    assert (done.returncode, "IMPORTS_HTTP_TOKEN: holds a token" in done.stderr) == (2, True)
    assert "a b" not in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        metrics = {"IMPORTS_METRICS_PORT": port, "IMPORTS_HTTP_TOKEN": TOKEN}
        for done in (
            command("serve", "--port", port, IMPORTS_HTTP_TOKEN=TOKEN),
            command("serve", "--port", "0", **metrics),
        ):
            assert done.returncode == 3
            assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
