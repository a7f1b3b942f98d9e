"""A store in a real cluster: each entry point, the command line, and another primary meanwhile."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from amplify_import import Cancellation, ConflictError, ImportClient
from tests.support import (
    PROJECT,
    CommandLine,
    Sandbox,
    Worker,
    environment_for,
    members,
    wait_until,
)
from tests.support.cluster import SLOTS, Cluster, ClusterProducer, is_up
from tests.support.servers import IN_MEMORY, Certificates, Server, tls_program
from tests.support.waiting import free_port
from worker.sandbox.scenario import JobSettings, Scenario
from worker.store.config import StoreConfig
from worker.store.connection import StoreUnavailableError, connect, primary_of
from worker.store.control import LaneControl
from worker.store.keys import BATCH, LANE
from worker.store.store import ImportStore

ACL: Final = PROJECT / "config/redis-acl-cluster.conf"
CONFIG: Final = StoreConfig(
    retention_seconds=60, events_max_length=1000, lease_seconds=30, settle_seconds=0
)
IN_EACH: Final = 12
"""How many imports each entry point gets before and after another node takes over."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose clients have the permissions that this project ships, and no others."""
    directory = tmp_path_factory.mktemp("cluster")
    users = directory / "users.acl"
    users.write_text(ACL.read_text())
    with Cluster(directory, acl=users) as cluster:
        yield cluster


@pytest.fixture
def store(cluster: Cluster) -> Cluster:
    """The same cluster without any keys."""
    cluster.wait_until_replicated()
    with cluster.primary.client() as client:
        client.flushall()
    return cluster


@pytest.fixture
def servers(store: Cluster, store_url: str) -> dict[str, str]:
    """The settings that name the store, and the broker elsewhere."""
    return {
        "IMPORTS_REDIS_URL": store.url,
        "IMPORTS_BROKER_URL": store_url,
        "IMPORTS_RESULT_BACKEND": store_url,
    }


@pytest.fixture
def command(store: Cluster, servers: dict[str, str]) -> CommandLine:
    """The `amplify-import` command on the cluster."""
    command = CommandLine(store.url)
    command.environment.update(servers)
    return command


@pytest.fixture
def producer(store: Cluster, store_url: str) -> Iterator[ClusterProducer]:
    """A producer with redis-py's client of a cluster."""
    producer = ClusterProducer(store, store_url)
    yield producer
    producer.close()


@pytest.fixture
def workers(sandbox: Sandbox, servers: dict[str, str], tmp_path: Path) -> Iterator[list[Worker]]:
    """Two workers whose jobs take a while."""
    sandbox.reset(Scenario(jobs=JobSettings(min_seconds=0.5, max_seconds=3)))
    environment = environment_for(sandbox, **{"store_url": "", **servers})
    workers = [Worker(environment, tmp_path / f"worker-{number}.log") for number in range(2)]
    for worker in workers:
        worker.wait_until_ready()
    yield workers
    for worker in workers:
        worker.stop()


def send(producer: ClusterProducer, part: str) -> list[str]:
    """Send imports through each entry point; return their ids."""
    tasks = [producer.send(members(f"d{part}task{n}")).id for n in range(IN_EACH)]
    named = {
        way: [members(f"d{part}{way}{n}", importId=f"{part}-{way}-{n}") for n in range(IN_EACH)]
        for way in ("batch", "stream")
    }
    producer.send_batch(part, named["batch"])
    for request in named["stream"]:
        producer.add(request)
    return tasks + [request["importId"] for way in named.values() for request in way]


def ended(producer: ClusterProducer) -> set[str]:
    return {event["data"]["importId"] for event in producer.events("import.succeeded")}


def some_run(sandbox: Sandbox, part: str) -> None:
    wait_until(lambda: sandbox.calls(app=f"d{part}"), "some of the imports have started")


def test_a_client_submits_and_follows_imports(
    store: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with ImportClient(store.url) as client:
        (import_id,) = client.submit_many([members("d1", idempotencyKey="key")])
        with pytest.raises(ConflictError):
            client.submit(members("d2", idempotencyKey="key"))
        store.fail_over()
        assert client.submit(members("d1", idempotencyKey="key")) == import_id
        assert client.cancel(import_id) is Cancellation.CANCELLED
        assert client.wait(import_id).outcome == "cancelled"
        kinds = [event.type for _, event in zip(range(2), client.events(after="0"), strict=False)]
    assert kinds == ["import.accepted", "import.cancelled"]


TakeOver = Callable[[Cluster], None]


def by_failover(cluster: Cluster) -> None:
    cluster.fail_over()


def by_death(cluster: Cluster) -> None:
    killed = cluster.kill_primary()
    cluster.wait_for_failover(killed)
    killed.start()  # it follows the new primary; until then, workers start nothing


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("take_over", [by_failover, by_death])
def test_imports_of_each_entry_point_succeed_though_another_node_takes_over(
    store: Cluster,
    sandbox: Sandbox,
    producer: ClusterProducer,
    command: CommandLine,
    take_over: TakeOver,
) -> None:
    sent = send(producer, "before")
    some_run(sandbox, "before")
    take_over(store)
    sent += send(producer, "after")
    wait_until(lambda: ended(producer) >= set(sent), "all imports have succeeded", 120)
    store.wait_until_replicated()
    assert sorted(job["target"] for job in sandbox.jobs()) == sorted(
        f"d{part}{way}{n}/staging"
        for part in ("before", "after")
        for way in ("task", "batch", "stream")
        for n in range(IN_EACH)
    )
    audit = command("audit")
    assert audit.returncode == 0, audit.stdout
    with store.primary.client() as client:
        assert client.keys("*")
        assert client.keys("*") == client.keys("{imports}:*")


async def test_a_client_follows_the_slot_when_it_moves(store: Cluster) -> None:
    home = store.primary
    lane = "default/us-east-1"
    async with connect(store.url) as redis:
        control = LaneControl(redis, CONFIG)
        await control.pause(lane, "before")
        store.move_slot()
        async with redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(LANE.on(redis) + lane, "paused_reason")
            assert await pipeline.execute() == ["before"]
        assert not await control.pause(lane, "after"), "the lane is paused already"
        away = primary_of(redis)
        store.move_slot(to=home)
        assert await control.resume(lane)
        assert primary_of(redis) == f"127.0.0.1:{home.port}" != away


@pytest.mark.usefixtures("workers")
def test_the_commands_work_on_a_cluster(
    store: Cluster, command: CommandLine, sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(members(f'd{n}', importId=f'i-{n}'))}\n" for n in "123"))
    submitted = command("submit", rows, "--batch-id", "wave", "--watch")
    assert (submitted.returncode, len(sandbox.jobs())) == (0, 3), submitted
    dones = command.each(
        ("watch", "wave", "--json"), ("status", "wave"), ("status", "i-1"), ("explain", "i-2"),
        ("batches",), ("lanes",), ("events",), ("metrics",), ("imports", "--state", "succeeded"),
        ("report", "wave", "-o", tmp_path / "report.html"), ("audit",), ("audit", "wave"),
        ("lanes", "pause", "default/us-east-1"), ("retry", "wave"), ("cancel", "i-3"),
    )  # fmt: skip
    for done in dones:
        assert not done.stderr.startswith("Error"), done
    checks = examined(command)
    assert not problems_of(checks)
    assert checks["cluster mode"]["detail"] == "on"
    assert "is the primary, 1 replicas" in checks["failover"]["detail"]
    with store.primary.client() as client:
        assert client.acl_log() == []


def examined(command: CommandLine, **settings: str) -> dict[str, Any]:
    """Return the checks of `doctor` by name."""
    report = json.loads(command("doctor", "--json", **settings).stdout)
    return {check["name"]: check for check in report["checks"]}


def problems_of(checks: dict[str, Any]) -> set[str]:
    return {name for name, check in checks.items() if check["verdict"] == "FAIL"}


def test_doctor_names_a_node_that_is_used_as_a_single_server(
    store: Cluster, command: CommandLine
) -> None:
    node = store.primary.url
    checks = examined(command, IMPORTS_BROKER_URL=node)
    assert problems_of(checks) == {"broker"}
    assert "is a node of a Redis Cluster" in checks["broker"]["detail"]
    checks = examined(command, IMPORTS_REDIS_URL=node)
    assert "cluster mode" in problems_of(checks)
    assert "redis+cluster://" in checks["cluster mode"]["remedy"]


def test_doctor_names_what_a_user_of_a_cluster_lacks(store: Cluster, command: CommandLine) -> None:
    with store.primary.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "imports", "-wait", "resetkeys", "~{imports}:[^w]*"
        )
        checks = examined(command)
        client.execute_command("ACL", "LOAD")
    assert "wait" in checks["commands"]["detail"]
    assert "{imports}:wake" in checks["keys"]["detail"]


def test_doctor_names_a_server_that_is_no_cluster(command: CommandLine, store_url: str) -> None:
    url = store_url.replace("redis://", "redis+cluster://")
    checks = examined(command, IMPORTS_REDIS_URL=url)
    assert "cluster support disabled" in checks["store"]["detail"]
    checks = examined(command, IMPORTS_RESULT_BACKEND="")
    assert "IMPORTS_RESULT_BACKEND" in checks["settings"]["detail"]


async def test_a_server_that_hides_its_replicas_is_trusted(tmp_path: Path) -> None:
    hiding = {"rename-command ROLE": '""', "rename-command WAIT": '""'}
    with Server(tmp_path / "server", {**IN_MEMORY, **hiding}) as server:
        async with connect(server.url) as redis:
            store = ImportStore(redis, replace(CONFIG, replicated=True))
            await store.announce_batch("b", 1)
            assert await redis.hget(BATCH.on(redis) + "b", "expected") == "1"


async def test_a_cluster_of_one_node_is_reached_with_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    settings = {
        **IN_MEMORY,
        "cluster-enabled": "yes",
        "cluster-port": free_port(),
        "tls-cluster": "yes",
    }
    with Server(
        tmp_path / "node", settings, program=tls_program(), certificates=certificates
    ) as node:
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_until(lambda: is_up(client), "the cluster is up")
        url = f"rediss+cluster://127.0.0.1:{node.port}"
        async with connect(f"{url}?{certificates.trust}") as redis:
            assert await LaneControl(redis, CONFIG).pause("default/us-east-1", "with TLS")
            # The cluster has no replicas, so there is none to wait for.
            await ImportStore(redis, replace(CONFIG, replicated=True)).announce_batch("b", 1)
        async with connect(url) as redis:
            with pytest.raises(StoreUnavailableError, match="certificate"):
                await LaneControl(redis, CONFIG).resume("default/us-east-1")
