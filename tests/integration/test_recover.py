"""A lost store: its batches are recovered from their files, and nothing starts twice."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    assert_nothing_left_behind,
    members,
    wait_until,
)

APPS = [f"d{n}" for n in range(12)]
RUNNING = APPS[4:8]
NOT_STARTED = APPS[8:]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def outcomes(producer: Producer, *states: str) -> Counter[str]:
    events = producer.events(*(f"import.{state}" for state in states))
    return Counter(event["data"]["appId"] for event in events)


def test_ended_running_and_unstarted_imports_are_distinguished(
    start_worker: StartWorker,
    sandbox: Sandbox,
    producer: Producer,
    command: CommandLine,
    tmp_path: Path,
) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    sandbox.script(APPS[0], outcome="fail")
    for app in RUNNING:
        sandbox.script(app, duration_seconds=12)
    file = write(tmp_path / "apps.jsonl", [members(app) for app in APPS])
    started = write(tmp_path / "started.jsonl", [members(app) for app in APPS[:8]])

    worker = start_worker()
    command("submit", started, "--batch-id", "wave")
    wait_until(lambda: len(producer.events("import.started")) == 8, "all of them are started")
    wait_until(lambda: outcomes(producer, "succeeded", "failed").total() == 4, "four are over")
    worker.kill()
    producer.redis.flushdb()

    start_worker()
    done = command("recover", file, "--batch-id", "wave", "--since", since)
    assert done.returncode == 0, done.stderr
    assert "12 imports of batch wave will be looked up in AWS." in done.stdout
    again = command("recover", file, "--batch-id", "wave", "--since", since, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["submitted"] == 12
    producer.wait_for_event("batch.completed", batchId="wave", total=12)

    assert outcomes(producer, "succeeded") == Counter(APPS[1:])
    assert outcomes(producer, "failed") == Counter(APPS[:1])
    assert Counter(job["target"] for job in sandbox.jobs()) == {f"{app}/staging": 1 for app in APPS}
    starts = Counter(call["target"] for call in sandbox.calls("ImportBackendAuth"))
    assert set(starts.values()) == {1}
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "its tasks have finished")
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")
    assert_nothing_left_behind(producer.redis)
    audit = command("audit")
    assert audit.returncode == 0, audit.stdout
    (import_id,) = {
        e["data"]["importId"] for e in producer.events() if e["subject"] == "d4/staging"
    }
    history = json.loads(command("explain", import_id, "--json").stdout)["history"]
    assert [line["what"] for line in history[:3]] == ["accepted", "doubt", "running"]


def test_an_older_job_is_not_adopted_for_the_batch(
    start_worker: StartWorker,
    sandbox: Sandbox,
    producer: Producer,
    command: CommandLine,
    tmp_path: Path,
) -> None:
    start_worker()
    producer.add({"importId": "i1", **members("d1")})
    producer.wait_for_event("import.succeeded", importId="i1")
    producer.redis.flushdb()
    wait_until(lambda: time.time() > sandbox.jobs("d1")[0]["created"] + 3, "the slack has passed")
    file = write(tmp_path / "apps.jsonl", [members("d1")])
    since = datetime.now(UTC).isoformat()
    assert command("recover", file, "--since", since).returncode == 0
    wait_until(lambda: len(sandbox.jobs("d1")) == 2, "the import is started")


def test_a_list_that_fails_proves_nothing(
    start_worker: StartWorker,
    sandbox: Sandbox,
    producer: Producer,
    command: CommandLine,
    tmp_path: Path,
) -> None:
    faults = [
        {"kind": "error_500", "operation": "ListBackendJobs", "times": 3},
        {"kind": "truncated", "operation": "ListBackendJobs", "times": 2},
    ]
    sandbox.script("d1", faults=faults)
    start_worker()
    file = write(tmp_path / "apps.jsonl", [members("d1")])
    command("recover", file, "--since", "2020-01-01", "--batch-id", "wave")
    producer.wait_for_event("import.succeeded", batchId="wave")
    (start,) = sandbox.calls("ImportBackendAuth")
    lists = [call for call in sandbox.calls("ListBackendJobs") if call["seq"] < start["seq"]]
    assert len(lists) == 6, "only a complete list lets it start"


def test_a_bad_time_is_named(command: CommandLine, tmp_path: Path) -> None:
    file = write(tmp_path / "apps.jsonl", [members("d1")])
    none, bad, future = command.each(
        ("recover", file),
        ("recover", file, "--since", "yesterday"),
        ("recover", file, "--since", "2999-01-01"),
    )
    assert (none.returncode, bad.returncode, future.returncode) == (2, 2, 2)
    assert "--since" in none.stderr
    assert "'yesterday' is not a time; it must look like" in bad.stderr
    assert "is in the future" in future.stderr
