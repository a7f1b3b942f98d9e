"""What `doctor` reports about servers that refuse, do not answer, or forbid what is needed."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.support import (
    PROJECT,
    CommandLine,
    Sandbox,
    Worker,
    environment_for,
    members,
    producing,
    wait_until,
)
from tests.support.servers import DURABLE, IN_MEMORY, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A single server, which the test may break."""
    with Server(tmp_path / "server", IN_MEMORY) as server:
        yield server


def examined(url: str) -> dict[str, Any]:
    """Return the checks by name."""
    report = json.loads(CommandLine(url)("doctor", "--json").stdout)
    return {check["name"]: check for check in report["checks"]}


def test_doctor_says_which_check_got_no_answer(store_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        dones = CommandLine(store_url)
        store, broker = (
            dones("doctor", IMPORTS_BROKER_URL=url, IMPORTS_REDIS_URL=at).stdout
            for at, url in ((f"redis://{address}", store_url), (store_url, f"amqp://{address}"))
        )
    assert "FAIL store: no answer within 10 s\n" in store
    assert "ok   broker: " in store
    assert "ok   store: " in broker
    assert "FAIL broker: " in broker
    for checks in (store, broker):
        assert "ok   credentials of default" in checks


def test_doctor_does_not_print_the_connection_pools_of_sentinels() -> None:
    checks = examined("sentinel://127.0.0.1:1?master_name=main")
    for name in ("store", "broker"):
        assert checks[name]["verdict"] == "FAIL"
        assert checks[name]["detail"].endswith("can't be reached: No master found for 'main'")


def test_doctor_gives_advice_on_a_server_without_memory(server: Server) -> None:
    server.set(maxmemory=1)
    checks = examined(server.url)
    for name in ("writes", "broker"):
        assert checks[name]["verdict"] == "FAIL"
        assert "used memory > 'maxmemory'" in checks[name]["detail"]
        assert checks[name]["remedy"].startswith("raise maxmemory")


def test_doctor_gives_advice_on_a_server_that_is_a_replica(server: Server) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
    checks = examined(server.url)
    for name in ("store", "writes", "broker"):
        assert (checks[name]["verdict"], checks[name]["remedy"]) == (
            "FAIL",
            "connect to the primary",
        )


def test_doctor_gives_advice_on_a_server_that_can_not_save(server: Server, tmp_path: Path) -> None:
    (tmp_path / "server" / "dump.rdb").mkdir()  # blocks the file that the server saves
    server.set(save="3600 1")
    with server.client() as client:
        client.set("a", "b")
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails"
        )
    checks = examined(server.url)
    for name in ("writes", "broker"):
        assert checks[name]["verdict"] == "FAIL"
        assert "MISCONF" in checks[name]["detail"]
        assert checks[name]["remedy"].startswith("free disk space")


def test_doctor_gives_advice_on_a_wrong_password(server: Server) -> None:
    address = f"127.0.0.1:{server.port}/0"
    server.set(requirepass="s3cret")
    for url in (f"redis://{address}", f"redis://:wr0ng@{address}"):
        checks = examined(url)
        for name in ("store", "broker"):
            assert checks[name]["verdict"] == "FAIL"
            assert checks[name]["remedy"].startswith("set the right user and password"), checks
        assert "wr0ng" not in str(checks)


def test_doctor_gives_advice_on_a_server_that_accepts_no_more_clients(server: Server) -> None:
    server.set(maxclients=2)
    with ExitStack() as held:
        for _ in range(2):
            client = held.enter_context(server.client())
            wait_until(partial(_is_served, client), "it has a connection")
        checks = examined(server.url)
    for name in ("store", "broker"):
        assert checks[name]["verdict"] == "FAIL"
        assert checks[name]["remedy"].startswith("raise maxclients"), checks


def _is_served(client: Any) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


ACL = Path("config/redis-acl.conf")
PASSWORD = "change-me"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A server with the user that this project ships."""
    users = tmp_path / "users.acl"
    users.write_text((PROJECT / ACL).read_text())
    with Server(tmp_path / "guarded", {**DURABLE, "aclfile": users}) as server:
        yield server


def url_of(server: Server) -> str:
    """Return the URL of that user."""
    return f"redis://imports:{PASSWORD}@127.0.0.1:{server.port}/0"


def test_the_shipped_user_has_every_permission_needed(
    guarded: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    url = url_of(guarded)
    command = CommandLine(url)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(members("dsubmitted")))
    worker = Worker(environment_for(sandbox, url), tmp_path / "worker.log")
    try:
        worker.wait_until_ready()
        with producing(url, url) as producer:
            task = producer.send(members("dtask"))
            batch = producer.send_batch("batch", [members("dbatch", importId="of-the-batch")])
            producer.add(members("dstream", importId="of-the-stream"))
            assert task.get(timeout=60)["outcome"] == "succeeded"
            assert batch.get(timeout=60)["accepted"] == 1
            for import_id in ("of-the-batch", "of-the-stream"):
                producer.wait_for_event("import.succeeded", importId=import_id)
        submitted = command("submit", rows, "--watch")
        dones = command.each(
            ("doctor",), ("audit",), ("lanes",), ("events",),
            ("status", "of-the-batch"), ("explain", "of-the-stream"), ("retry", "batch"),
            ("cancel", "of-the-stream"), ("lanes", "pause", "default/us-east-1"),
        )  # fmt: skip
    finally:
        worker.stop(60)
    with guarded.client() as client:
        assert client.acl_log() == []
    assert "no permission" not in "".join(done.stdout + done.stderr for done in (submitted, *dones))


@pytest.mark.parametrize(
    ("rule", "check", "verdict", "named"),
    [
        ("-info", "server", "warn", "'info'"),
        ("-zadd", "commands", "FAIL", "zadd"),
        ("-evalsha", "permissions", "FAIL", "'evalsha'"),
        ("-blmove -xautoclaim", "commands", "FAIL", "blmove, xautoclaim"),
        ("resetkeys ~imports* ~_kombu* ~*pidbox*", "keys", "FAIL", "unacked, unacked_index"),
        ("resetchannels", "channels", "warn", "/0.celery.pidbox, /0.celeryev/worker.*"),
        ("-client -config", "store", "ok", "Valkey"),
    ],
)
def test_doctor_names_a_missing_permission_and_continues(
    guarded: Server, rule: str, check: str, verdict: str, named: str
) -> None:
    with guarded.client() as client:
        client.execute_command("ACL", "SETUSER", "imports", *rule.split())
    checks = examined(url_of(guarded))
    assert checks[check]["verdict"] == verdict, checks
    assert named in checks[check]["detail"]
    assert verdict == "ok" or "config/redis-acl.conf" in checks[check]["remedy"]
    assert {"store", "broker", "region", "credentials of default"} <= checks.keys()
    assert checks["store"]["verdict"] == "ok"


@pytest.mark.parametrize("rule", ["resetchannels", "-@pubsub"])
def test_a_worker_works_without_permission_for_channels(
    guarded: Server, sandbox: Sandbox, tmp_path: Path, rule: str
) -> None:
    url = url_of(guarded)
    with guarded.client() as client:
        client.execute_command("ACL", "SETUSER", "imports", rule)
    worker = Worker(environment_for(sandbox, url), tmp_path / "worker.log")
    try:
        worker.wait_until_ready()
        with producing(url, url) as producer:
            tasks = [producer.send(members(f"dtask{number}")) for number in range(3)]
            producer.add(members("dstream", importId="of-the-stream"))
            producer.wait_for_event("import.succeeded", importId="of-the-stream")
            wait_until(
                lambda: {task.state for task in tasks} == {"SUCCESS"},
                "the tasks have their results",
            )
        assert "channels.refused" in worker.log
        assert "Connection to broker lost" not in worker.log
    finally:
        assert worker.stop(60) == 0


def test_a_worker_waits_for_a_permission_and_says_which(
    guarded: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    url = url_of(guarded)
    with guarded.client() as client:
        client.execute_command("ACL", "SETUSER", "imports", "-sadd")
        worker = Worker(environment_for(sandbox, url), tmp_path / "worker.log")
        try:
            wait_until(lambda: worker.log.count("'sadd'") >= 7, "it has tried a few times")
            assert "Frequent restarts" not in worker.log
            client.execute_command("ACL", "SETUSER", "imports", "+sadd")
            worker.wait_until_ready()
            with producing(url, url) as producer:
                assert producer.send(members("dtask")).get(timeout=60)["outcome"] == "succeeded"
        finally:
            worker.stop(60)
