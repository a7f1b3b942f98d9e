"""The Redis users for producers, clients, readers and Flower: each can do its work only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord, group
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from amplify_import import Cancellation, ImportClient
from tests.integration.test_flower import Flower
from tests.support import (
    PROJECT,
    CommandLine,
    Producer,
    Sandbox,
    Worker,
    environment_for,
    members,
    producing,
    wait_until,
)
from tests.support.servers import DURABLE, Server
from worker.domain.outcomes import RetryVerdict

FILES = ("redis-acl.conf", "redis-acl-roles.conf")
PASSWORD = "change-me"
API = {"FLOWER_UNAUTHENTICATED_API": "true"}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A server with the users that this project ships."""
    users = tmp_path / "users.acl"
    users.write_text("".join((PROJECT / "config" / name).read_text() for name in FILES))
    with Server(tmp_path / "guarded", {**DURABLE, "aclfile": users}) as server:
        yield server


@pytest.fixture
def worker(guarded: Server, sandbox: Sandbox, tmp_path: Path) -> Iterator[Worker]:
    """A worker as the user `imports`."""
    worker = Worker(environment_for(sandbox, url_of(guarded)), tmp_path / "worker.log")
    yield worker.wait_until_ready()
    worker.stop()


def url_of(server: Server, user: str = "imports") -> str:
    return f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/0"


def refused_to(server: Server, user: str, *command: str | int) -> bool:
    """Return whether the server forbids a user the command."""
    with Redis.from_url(url_of(server, user)) as redis:
        try:
            redis.execute_command(*command)
        except NoPermissionError:
            return True
        except ResponseError as error:
            return str(error).startswith("ACL failure in script")
    return False


@pytest.mark.usefixtures("worker")
def test_a_producer_enqueues_in_every_way_and_follows_what_becomes_of_it(guarded: Server) -> None:
    url = url_of(guarded, "imports-producer")
    with producing(url, url) as producer:
        assert producer.send(members("dtask")).get(timeout=60)["outcome"] == "succeeded"
        assert producer.send_batch("b", [members("dbatch")]).get(timeout=60)["accepted"] == 1
        producer.add(members("dstream"))
        for app in ("dbatch", "dstream"):
            producer.wait_for_event("import.succeeded", appId=app)
        both = [signature(producer, f"dgroup{n}") for n in range(2)]
        results = group(both, app=producer.app).apply_async().get(timeout=60)
        assert [result["outcome"] for result in results] == ["succeeded"] * 2
        both = [signature(producer, f"dchord{n}") for n in range(2)]
        body = producer.app.signature("celery.accumulate", queue="imports")
        (results,) = chord(both, app=producer.app)(body).get(timeout=60)
        assert [result["outcome"] for result in results] == ["succeeded"] * 2
    with guarded.client() as client:
        assert client.acl_log() == []


def signature(producer: Producer, app: str) -> Any:
    return producer.app.signature(
        "imports.import_backend_auth", kwargs=members(app), queue="imports"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("HGETALL", "imports:import:done"),
        ("HSET", "imports:import:done", "state", "waiting"),
        ("XRANGE", "imports:requests", "-", "+"),
        ("XADD", "imports:events", "*", "event", "{}"),
        ("XTRIM", "imports:requests", "MAXLEN", 0),
        ("LRANGE", "imports", 0, -1),
        ("SET", "imports", "x"),
        ("SET", "celery-task-meta-done", "x"),
        ("DEL", "imports"),
        ("EVAL", "return 1", 0),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("PUBLISH", "/0.celery.pidbox", "{}"),
    ],
)
def test_a_producer_can_do_nothing_else(guarded: Server, command: tuple[str | int, ...]) -> None:
    assert refused_to(guarded, "imports-producer", *command)


@pytest.mark.usefixtures("worker")
def test_a_client_submits_and_follows_imports(guarded: Server) -> None:
    request = members("done", region="us-east-1", idempotencyKey="key")
    with ImportClient(url_of(guarded, "imports-client")) as client:
        (import_id,) = client.submit_batch("b", [request], canary=1)
        assert client.wait(import_id, timeout=60).succeeded
        assert client.cancel(import_id) is Cancellation.OVER
        assert client.retry(import_id).verdict is RetryVerdict.SUCCEEDED
        assert next(iter(client.events(after="0"))).type == "import.accepted"
        assert client.batch("b").accepted == 1
        assert client.submit(request) == import_id
    with guarded.client() as redis:
        assert redis.acl_log() == []


@pytest.mark.parametrize(
    "command",
    [
        ("LPUSH", "imports", "{}"),
        ("LRANGE", "imports", 0, -1),
        ("GET", "celery-task-meta-done"),
        ("HGETALL", "unacked"),
        ("EVAL", "return redis.call('DEL', 'unacked')", 0),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("PUBLISH", "/0.celery.pidbox", "{}"),
    ],
)
def test_a_client_can_do_nothing_else(guarded: Server, command: tuple[str | int, ...]) -> None:
    assert refused_to(guarded, "imports-client", *command)


@pytest.mark.usefixtures("worker")
def test_a_reader_sees_everything_and_changes_nothing(guarded: Server) -> None:
    with producing(url_of(guarded), url_of(guarded)) as producer:
        producer.send_batch("b", [members("done", importId="done")]).get(timeout=60)
        producer.wait_for_event("import.succeeded", importId="done")
    command = CommandLine(url_of(guarded, "imports-reader"))
    reading = command.each(
        ("status", "done"),
        ("status", "b"),
        ("explain", "done"),
        ("lanes",),
        ("lanes", "--facts"),
        ("events",),
        ("sinks",),
        ("audit",),
        ("metrics",),
    )
    assert {done.returncode for done in reading} == {0}, reading
    with guarded.client() as client:
        assert client.acl_log() == []
    writing = command.each(
        ("lanes", "pause", "default/us-east-1"), ("lanes", "reset", "default/us-east-1"),
        ("lanes", "set-rate", "default/us-east-1", "--start", "1"), ("batches", "pause", "b"),
    )  # fmt: skip
    for done in writing:
        assert done.returncode == 3, done
        assert "no permission" in (done.stdout + done.stderr).lower(), done


@pytest.mark.parametrize(
    "command",
    [
        ("HSET", "imports:import:done", "state", "waiting"),
        ("EVAL", "return redis.call('DEL', 'imports:import:done')", 0),
        ("XADD", "imports:requests", "*", "request", "{}"),
        ("LPUSH", "imports", "{}"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("PUBLISH", "/0.celery.pidbox", "{}"),
    ],
)
def test_a_reader_can_do_nothing_else(guarded: Server, command: tuple[str | int, ...]) -> None:
    assert refused_to(guarded, "imports-reader", *command)


@pytest.mark.usefixtures("worker")
def test_flower_shows_imports_and_revokes_them(
    guarded: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    flower = Flower(url_of(guarded, "imports-flower"), tmp_path / "flower.log", **API)
    try:
        flower.wait_until_it_answers()
        sandbox.script("dslow", duration_seconds=600)
        with producing(url_of(guarded), url_of(guarded)) as producer:
            producer.send(members("dslow"))
            task = producer.send(members("dslow"))
            path = f"/api/task/info/{task.id}"
            wait_until(lambda: flower.status_of(path) == 200, "Flower shows the import")
            assert flower.status_of("/api/queues/length") == 200
            assert flower.status_of(f"/api/task/revoke/{task.id}", method="POST") == 200
            producer.wait_for_event("import.cancelled", importId=task.id)
        with guarded.client() as client:
            assert client.acl_log() == []
    finally:
        flower.process.kill()
        flower.process.wait()


@pytest.mark.parametrize(
    "command",
    [
        ("HGETALL", "imports:import:done"),
        ("XADD", "imports:requests", "*", "request", "{}"),
        ("LPUSH", "imports", "{}"),
        ("LRANGE", "imports", 0, -1),
        ("DEL", "imports:events"),
        ("EVAL", "return redis.call('DEL', 'imports:import:done')", 0),
        ("KEYS", "*"),
        ("FLUSHALL",),
    ],
)
def test_flower_can_do_nothing_else(guarded: Server, command: tuple[str | int, ...]) -> None:
    assert refused_to(guarded, "imports-flower", *command)
