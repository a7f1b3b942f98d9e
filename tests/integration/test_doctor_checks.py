"""What `doctor` finds before a batch: queues, consumers, memory, clocks and the port of metrics."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis import Redis

from config.release import RELEASE
from tests.support import CommandLine, StartWorker
from tests.support.brokers import RABBITMQ_VHOST, virtual_host
from tests.support.servers import DURABLE, Server
from tests.support.waiting import free_port
from worker.cli.brokerchecks import judge_workers
from worker.cli.checks import Verdict
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
    store_url: str, start_worker: StartWorker
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


def test_doctor_hints_that_nobody_reads_the_events(store_url: str) -> None:
    assert "events" not in examined(store_url), "there are none yet"
    with Redis.from_url(store_url, decode_responses=True) as redis:
        for _ in range(100):
            redis.xadd("imports:events", {"event": "{}"})
        hint = examined(store_url, IMPORTS_EVENTS_MAX_LENGTH="101")["events"]
        assert (hint["verdict"], hint["detail"]) == (
            "ok",
            "no consumer group reads the 100 events",
        )
        warning = examined(store_url, IMPORTS_EVENTS_MAX_LENGTH="100")["events"]
        assert warning["verdict"] == "warn"
        assert warning["detail"].endswith("; the oldest are dropped")
        redis.xgroup_create("imports:events", "billing", id="$")
    assert "events" not in examined(store_url, IMPORTS_EVENTS_MAX_LENGTH="100")


def test_doctor_says_how_many_events_a_group_has_lost(store_url: str) -> None:
    with Redis.from_url(store_url, decode_responses=True) as redis:
        redis.xgroup_create("imports:events", "billing", id="0", mkstream=True)
        for _ in range(60):
            redis.xadd("imports:events", {"event": "{}"})
        redis.xreadgroup("billing", "one", {"imports:events": ">"}, count=1)
        redis.xtrim("imports:events", 20, approximate=False)
    check = examined(store_url)["events"]
    assert (check["verdict"], check["detail"]) == (
        "warn",
        "consumer group billing has not read 59 events, of which 39 were dropped",
    )


def test_a_worker_says_which_release_it_is_of(store_url: str, start_worker: StartWorker) -> None:
    start_worker()
    checks = examined(store_url)
    assert checks["workers"]["detail"].startswith("1 answered: worker-")
    assert "releases" not in checks, "the worker and the command are of one release"


@pytest.mark.parametrize(
    ("answers", "found", "remedy"),
    [
        ([{"a": {"release": RELEASE}}, {"b": {"release": RELEASE}}], None, ""),
        (
            [{"b": {"release": "9.1.0"}}, {"a": {"release": RELEASE}}, {"c": {"pid": 1}}],
            f"{RELEASE}: a; 9.1.0: b; an earlier release: c",
            "finish the upgrade",
        ),
        (
            [{"a": {"release": "9.1.0"}}],
            f"this command is of {RELEASE}, the workers of another release: 9.1.0: a",
            "upgrade the command line",
        ),
        ([{"a": {"pid": 1}}], "an earlier release: a", "upgrade the command line"),
    ],
)
def test_doctor_names_workers_of_several_releases(
    answers: list[dict[str, Any]], found: str | None, remedy: str
) -> None:
    workers, *others = judge_workers(answers)
    assert workers.verdict is Verdict.OK
    if found is None:
        assert others == []
        return
    (check,) = others
    assert (check.name, check.verdict) == ("releases", Verdict.WARN)
    assert check.detail.endswith(found)
    assert check.remedy.startswith(remedy)


def test_no_worker_is_a_problem() -> None:
    (check,) = judge_workers([])
    assert (check.verdict, check.detail) == (Verdict.FAIL, "none answered")
