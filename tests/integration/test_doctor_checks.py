"""What `doctor` finds before a batch: queues, consumers, memory, clocks and the port of metrics."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis import Redis

from tests.support import CommandLine
from tests.support.brokers import RABBITMQ_VHOST, virtual_host
from tests.support.servers import DURABLE, Server
from tests.support.waiting import free_port
from worker.cli.storechecks import judge_clock


def examined(url: str, **settings: str) -> dict[str, Any]:
    """Return the checks by name."""
    report = json.loads(CommandLine(url)("doctor", "--json", **settings).stdout)
    return {check["name"]: check for check in report["checks"]}


def test_doctor_names_the_queue_that_rabbitmq_has_with_other_arguments(store_url: str) -> None:
    with virtual_host(f"{RABBITMQ_VHOST}-doctor") as url:
        before = examined(store_url, IMPORTS_BROKER_URL=url)
        assert "queues" not in before, "queues that are not there yet are no problem"
        with Connection(url) as connection, connection.channel() as opened:
            channel: Any = opened
            channel.queue_declare(
                "imports", durable=True, auto_delete=False, arguments={"x-max-length": 1}
            )
            check = examined(store_url, IMPORTS_BROKER_URL=url)["queues"]
            assert check["verdict"] == "FAIL"
            assert "'imports'" in check["detail"]
            assert "x-max-length" in check["detail"]
            assert "declare the queue as workers do" in check["remedy"]
            with pytest.raises(connection.channel_errors, match=r"imports\.finish"):
                channel.queue_declare("imports.finish", passive=True)  # doctor has not created it


def test_doctor_names_a_group_that_is_about_to_lose_events(store_url: str) -> None:
    with Redis.from_url(store_url, decode_responses=True) as redis:
        redis.xgroup_create("imports:events", "billing", id="0", mkstream=True)
        redis.xgroup_create("imports:events", "reading", id="0")
        for _ in range(60):
            redis.xadd("imports:events", {"event": "{}"})
        redis.xreadgroup("reading", "one", {"imports:events": ">"})
    assert "events" not in examined(store_url)
    check = examined(store_url, IMPORTS_EVENTS_MAX_LENGTH="100")["events"]
    assert (check["verdict"], check["detail"]) == (
        "warn",
        "consumer group billing has not read 60 events",
    )


def test_doctor_warns_before_the_memory_of_the_store_is_used_up(tmp_path: Path) -> None:
    with Server(tmp_path / "server", DURABLE) as server:
        with server.client() as client:
            used = int(client.info("memory")["used_memory"])
        server.set(maxmemory=20 * used)
        assert "memory" not in examined(server.url)
        with server.client() as client:
            for n in range(170):
                client.set(f"filler-{n}", "x" * (used // 10))
        check = examined(server.url)["memory"]
    assert check["verdict"] == "warn"
    assert check["remedy"].startswith("raise maxmemory")


def test_doctor_checks_whether_the_port_for_metrics_is_free(store_url: str) -> None:
    port = free_port()
    assert "metrics port" not in examined(store_url, IMPORTS_METRICS_PORT=port)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        check = examined(store_url, IMPORTS_METRICS_PORT=taken)["metrics port"]
    assert check["verdict"] == "FAIL"
    assert f"127.0.0.1:{taken} can't be listened on: Address already in use" in check["detail"]


def test_a_worker_that_answers_on_the_port_for_metrics_is_right(
    store_url: str, start_worker: Any
) -> None:
    port = free_port()
    start_worker(IMPORTS_METRICS_PORT=port)
    assert "metrics port" not in examined(store_url, IMPORTS_METRICS_PORT=port)


@pytest.mark.parametrize(
    ("least", "most", "detail"),
    [
        (60.0, 61.0, "this machine's clock is 60 s ahead of the store's"),
        (-31.0, -30.0, "this machine's clock is 30 s behind the store's"),
        (-20.0, 0.1, None),
        (-0.1, 20.0, None),
    ],
    ids=["ahead", "behind", "a slow answer", "a slow question"],
)
def test_clocks_that_differ_are_reported(least: float, most: float, detail: str | None) -> None:
    assert [check.detail for check in judge_clock(least, most)] == ([detail] if detail else [])
