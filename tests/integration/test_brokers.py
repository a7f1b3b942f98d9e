"""Servers in each form and configuration that users have: with a socket, with other queue types."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from redis import Redis

from config.servers import server_of
from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    Worker,
    environment_for,
    members,
    producing,
)
from tests.support.brokers import RABBITMQ_VHOST, rabbitmqctl, virtual_host
from tests.support.servers import DURABLE, Server
from worker.store.broker import close_at_once

Start = Callable[..., Worker]


@pytest.fixture
def start(sandbox: Sandbox, tmp_path: Path) -> Iterator[Start]:
    """A function that starts real workers on a store of any URL; each must stop when asked."""
    workers: list[Worker] = []

    def start(url: str, **settings: str) -> Worker:
        environment = environment_for(sandbox, url, **settings)
        worker = Worker(environment, tmp_path / f"worker-{len(workers)}.log")
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(60)


def import_through_each_entry_point(producer: Producer) -> None:
    """Send an import through each entry point, and wait until all of them have succeeded."""
    task = producer.send(members("dtask"))
    producer.send_batch("batch", [members("dbatch", importId="of-the-batch")])
    producer.add(members("dstream", importId="of-the-stream"))
    assert task.get(timeout=60)["outcome"] == "succeeded"
    for import_id in ("of-the-batch", "of-the-stream"):
        producer.wait_for_event("import.succeeded", importId=import_id)


def test_a_server_is_reached_through_its_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "my;%redis"
    settings = {**DURABLE, "unixsocket": f'"{path}"', "requirepass": "s3cr/t"}
    url = f"unix://:{quote('s3cr/t', safe='')}@{quote(str(path))}?db=2"
    with Server(tmp_path / "server", settings) as server:
        worker = start(url).wait_until_ready()
        with producing(server_of(url).celery_url, server.url.replace("/0", "/2")) as producer:
            import_through_each_entry_point(producer)
        checks = CommandLine(url)("doctor").stdout
        assert "FAIL" not in checks
        assert "workers: 1 answered" in checks
        assert "s3cr" not in checks + worker.log


@pytest.fixture
def quorum_url() -> Iterator[str]:
    """A virtual host in which queues are quorum queues unless a client declares another type."""
    with virtual_host(f"{RABBITMQ_VHOST}-quorum", "--default-queue-type", "quorum") as url:
        yield url


@pytest.mark.parametrize("concurrency", ["1", "8"])
def test_a_virtual_host_may_make_every_queue_a_quorum_queue(
    start: Start, sandbox: Sandbox, quorum_url: str, store_url: str, concurrency: str
) -> None:
    worker = start(
        store_url, IMPORTS_BROKER_URL=quorum_url, IMPORTS_WORKER_CONCURRENCY=concurrency
    ).wait_until_ready()
    with producing(quorum_url, store_url) as producer:
        for number in range(20):
            producer.send(members(f"dlater{number}"), countdown=3600)
        import_through_each_entry_point(producer)
    assert sandbox.jobs("dlater") == []
    assert "Connection to broker lost" not in worker.log


@pytest.fixture
def other_url() -> Iterator[str]:
    """A dedicated virtual host, for queues with other properties."""
    with virtual_host(f"{RABBITMQ_VHOST}-other") as url:
        yield url


def declare(url: str, **other: Any) -> None:
    """Declare the producers' queue differently from the workers."""
    with Connection(url) as connection, connection.channel() as channel:
        Queue("imports", Exchange("imports"), routing_key="imports", **other)(channel).declare()


@pytest.mark.parametrize(
    ("other", "argument", "received", "current"),
    [
        ({"message_ttl": 60}, "'x-message-ttl'", "none", "'60000'"),
        ({"queue_arguments": {"x-queue-type": "quorum"}}, "'x-queue-type'", "none", "'quorum'"),
        ({"durable": False}, "'durable'", "'true'", "'false'"),
    ],
)
def test_a_queue_with_other_arguments_ends_the_worker_and_is_named(
    start: Start,
    other_url: str,
    store_url: str,
    tmp_path: Path,
    other: Any,
    argument: str,
    received: str,
    current: str,
) -> None:
    declare(other_url, **other)
    worker = start(store_url, IMPORTS_BROKER_URL=other_url)
    assert worker.process.wait(30) == 1
    (line,) = [line for line in worker.log.splitlines() if "queue.refused" in line]
    for part in ("'imports'", argument, received, current, "IMPORTS_QUEUE_TYPE"):
        assert part in line, line
    assert "Traceback" not in worker.log
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(members()))
    done = CommandLine(store_url)("submit", rows, IMPORTS_BROKER_URL=other_url)
    assert done.returncode == 3
    assert argument in done.stderr


def test_the_worker_may_declare_quorum_queues_itself(
    start: Start, other_url: str, store_url: str
) -> None:
    declare(other_url, queue_arguments={"x-queue-type": "quorum"})
    start(store_url, IMPORTS_BROKER_URL=other_url, IMPORTS_QUEUE_TYPE="quorum").wait_until_ready()
    with producing(other_url, store_url) as producer:
        producer.app.amqp.queues.add(Queue("imports", queue_arguments={"x-queue-type": "quorum"}))
        import_through_each_entry_point(producer)


@contextmanager
def alarm() -> Iterator[None]:
    """Raise RabbitMQ's memory alarm. It affects all users of the server, so keep it short."""
    try:
        if rabbitmqctl("set_vm_memory_high_watermark", "0.0001") != 0:
            pytest.skip("NO RABBITMQ whose rabbitmqctl may be run here, its tests are skipped")
        yield
    finally:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")


def test_a_broker_that_is_blocked_is_named_and_waited_for(
    start: Start, rabbitmq_url: str, store_url: str, tmp_path: Path
) -> None:
    command = CommandLine(store_url)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(members("dsubmitted")))
    start(store_url, IMPORTS_BROKER_URL=rabbitmq_url).wait_until_ready()
    with producing(rabbitmq_url, store_url) as producer:
        with alarm():
            producer.add(members("dstream", importId="meanwhile"))
            doctor, submit = command.each(
                ("doctor", "--json"), ("submit", rows), IMPORTS_BROKER_URL=rabbitmq_url
            )
            producer.wait_for_event("import.succeeded", importId="meanwhile")
        assert producer.app.AsyncResult("meanwhile").get(timeout=60)["outcome"] == "succeeded"
    (broker,) = [
        check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "broker"
    ]
    assert broker["verdict"] == "FAIL"
    assert "blocked by an alarm" in broker["detail"]
    assert "guest:guest" not in doctor.stdout
    assert "rabbitmqctl status" in broker["remedy"]
    assert submit.returncode == 3
    assert "blocked by an alarm" in submit.stderr


@pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)
def test_a_channel_that_waits_for_a_message_is_closed_at_once_and_takes_none(
    store_url: str,
) -> None:
    close_at_once()
    waiting = Connection(store_url, transport_options={"polling_interval": 600})
    with waiting as connection, Redis.from_url(store_url) as redis:
        channel: Any = connection.channel()
        Consumer(channel, [Queue("imports.admit")]).consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        channel.close()
        redis.lpush("imports.admit", "{}")
        assert redis.llen("imports.admit") == 1
