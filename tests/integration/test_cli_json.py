"""What the commands that change something print for programs: one JSON object."""

import json
from typing import Any

import pytest

from tests.support import CommandLine, members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Claim, Doubt
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore

LANE = "default/us-east-1"


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, import_id: str, **more: Any) -> None:
    request = OPERATIONS.parse(members(f"d{import_id}", **more))
    await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")


async def claim_all(store: ImportStore) -> list[Claim]:
    return (await store.claim(10))[0]


async def fail(store: ImportStore, claim: Claim) -> None:
    await recording.finish(
        store, claim, State.FAILED, error="no", job_id="", operation="", status=""
    )


def printed(command: CommandLine, *arguments: str, code: int = 0) -> Any:
    """Run a command with --json; return the only object that it prints."""
    done = command(*arguments, "--json")
    assert (done.returncode, done.stderr) == (code, "")
    (line,) = done.stdout.splitlines()
    return json.loads(line)


async def test_cancel(command: CommandLine, store: ImportStore) -> None:
    await admit(store, "alone")
    for verdict in ("cancelled", "over"):
        assert printed(command, "cancel", "alone") == {"importId": "alone", "verdict": verdict}
    await store.announce_batch("b", 5)
    for n in range(3):
        await admit(store, f"b{n}", batchId="b")
    await store.claim(1)
    assert printed(command, "cancel", "b", "--yes") == {
        "batchId": "b",
        "cancelled": 2,
        "asked": 1,
        "notArrived": 2,
    }


async def test_retry_of_an_import(command: CommandLine, store: ImportStore) -> None:
    await admit(store, "alone", batchId="b")
    assert printed(command, "retry", "alone") == {
        "importId": "alone",
        "verdict": "under_way",
        "retryId": None,
        "retryBatchId": None,
    }
    await fail(store, (await claim_all(store))[0])
    for verdict in ("retried", "already"):
        assert printed(command, "retry", "alone") == {
            "importId": "alone",
            "verdict": verdict,
            "retryId": "alone:retry-1",
            "retryBatchId": "b:retry-1",
        }


async def test_retry_of_a_batch(command: CommandLine, store: ImportStore) -> None:
    await store.announce_batch("b", 2)
    await admit(store, "good", batchId="b")
    nothing: Any = {
        "batchId": "b",
        "retryBatchId": None,
        "retried": 0,
        "already": 0,
        "notRetried": [],
    }
    assert printed(command, "retry", "b") == nothing
    await fail(store, (await claim_all(store))[0])
    invalid = Envelope(import_id="invalid", task_id="invalid", batch_id="b")
    await store.reject(invalid, ("-", "-"), ("-", "-"), "appId: no")
    assert printed(command, "retry", "b", "--yes", code=1) == {
        "batchId": "b",
        "retryBatchId": "b:retry-1",
        "retried": 1,
        "already": 0,
        "notRetried": [{"importId": "invalid", "verdict": "invalid"}],
    }


@pytest.mark.parametrize(
    ("options", "action", "job_id"),
    [(("--adopt", "job-1"), "adopt", "job-1"), (("--fail",), "fail", None)],
)
async def test_resolve(
    command: CommandLine,
    store: ImportStore,
    options: tuple[str, ...],
    action: str,
    job_id: str | None,
) -> None:
    await admit(store, "odd")
    (claim,) = await claim_all(store)
    await recording.doubt(
        store,
        claim,
        Doubt.UNKNOWN,
        error="HTTP 504",
        delay_seconds=600,
        in_outage=False,
        undecided="nobody knows",
        unclear_jobs=("job-1",),
    )
    assert printed(command, "resolve", "odd", *options) == {
        "importId": "odd",
        "action": action,
        "jobId": job_id,
    }


@pytest.mark.parametrize(
    ("group", "key", "name"), [("lanes", "lane", LANE), ("batches", "batchId", "b")]
)
async def test_pause_and_resume(
    command: CommandLine, store: ImportStore, group: str, key: str, name: str
) -> None:
    await admit(store, "i1", batchId="b")
    for action, is_paused in (("pause", True), ("resume", False)):
        for has_changed in (True, False):
            assert printed(command, group, action, name) == {
                key: name,
                "paused": is_paused,
                "changed": has_changed,
            }


def test_limits_of_a_lane(command: CommandLine) -> None:
    limits = ("--start", "2.5", "--max-running", "4")
    assert printed(command, "lanes", "set-rate", LANE, *limits) == {
        "lane": LANE,
        "limits": {"startRate": 2.5, "maxRunning": 4},
    }
    assert printed(command, "lanes", "reset", LANE) == {"lane": LANE, "reset": True}


def test_scenarios_are_one_object_a_line(command: CommandLine) -> None:
    lines = command("sandbox", "--list-scenarios", "--json").stdout.splitlines()
    scenarios = {each["name"]: each["description"] for each in map(json.loads, lines)}
    assert scenarios["calm"]
    refused = command("sandbox", "--json")
    assert refused.returncode == 2
    assert "--json works only with --list-scenarios" in refused.stderr
