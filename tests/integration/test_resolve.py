"""Undecided imports are resolved by an operator: how they are shown, and what each decision
does."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support import CommandLine, members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Call, Claim, Doubt
from worker.domain.facts import LaneFacts
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore
from worker.store.views import ImportViews

LANE = "default/us-east-1"
REASON = "may have started job job-1; AWS does not tell"


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, name: str, app: str) -> None:
    request = OPERATIONS.parse(members(app))
    await store.admit(Envelope(import_id=name, task_id=name), request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    (claimed,) = (await store.claim(1))[0]
    return replace(claimed, answered=True)


async def leave_undecided(store: ImportStore, name: str = "odd", app: str = "dodd") -> None:
    """Bring an import to where only an operator can find out whether its start took effect."""
    await admit(store, name, app)
    held = await recording.doubt(
        store,
        await claim(store),
        Doubt.UNKNOWN,
        error="HTTP 504",
        delay_seconds=600,
        in_outage=False,
        undecided=REASON,
        unclear_jobs=("job-1",),
    )
    assert held


async def test_an_undecided_import_is_shown_as_such_everywhere(
    store: ImportStore, command: CommandLine
) -> None:
    await leave_undecided(store)
    explained, as_json, status, doctor = command.each(
        ("explain", "odd"), ("explain", "odd", "--json"), ("status", "odd"), ("doctor",)
    )
    way = "amplify-import resolve odd --adopt JOB | --start-again | --fail"
    assert f"Waits for: an operator to decide: {REASON}; {way}" in explained.stdout
    assert "waits for an operator to decide; may have started job job-1" in explained.stdout
    assert json.loads(as_json.stdout)["waitsFor"].startswith("an operator to decide")
    assert "an operator to decide" in status.stdout
    assert "undecided imports: 1 waiting for a decision: odd" in doctor.stdout
    (event,) = [
        json.loads(line)
        for line in command("events", "--json").stdout.splitlines()
        if "import.stuck" in line
    ]
    assert REASON in json.dumps(event)


async def test_a_job_that_is_adopted_is_followed(store: ImportStore, command: CommandLine) -> None:
    await leave_undecided(store)
    done = command("resolve", "odd", "--adopt", "job-1")
    assert (done.returncode, done.stdout) == (0, "Import odd follows job job-1.\n"), done.stderr
    poll = await claim(store)
    assert (poll.call, poll.item.job_id) == (Call.POLL, "job-1")
    assert "decided by an operator: resolve --adopt" in command("explain", "odd").stdout


async def test_an_import_started_again_starts_once_and_knows_the_other_jobs(
    store: ImportStore, command: CommandLine
) -> None:
    await leave_undecided(store)
    done = command("resolve", "odd", "--start-again")
    assert (done.returncode, done.stdout) == (0, "Import odd will be started again.\n")
    first = await claim(store)
    assert first.call is Call.RECONCILE, "the jobs are listed once more"
    assert first.item.doubt == Doubt.BEFORE


@pytest.mark.parametrize(
    ("option", "state", "error"),
    [("--fail", State.FAILED, "looked at it"), ("--succeed", State.SUCCEEDED, "")],
)
async def test_an_import_ended_by_an_operator_is_over(
    store: ImportStore, command: CommandLine, redis: Any, option: str, state: State, error: str
) -> None:
    await leave_undecided(store)
    assert command("resolve", "odd", option, "--reason", "looked at it").returncode == 0
    item = await ImportViews(redis).find("odd")
    assert item is not None
    assert (item.state, item.error) == (state, error)
    (ended,) = await store.overdue(10, delay_seconds=60)
    assert (ended.item.id, ended.is_new) == ("odd", True), "no worker knows of its end yet"
    again = command("resolve", "odd", option)
    assert (again.returncode, again.stderr) == (1, "Error: Import odd has already ended.\n")


async def test_an_impossible_decision_is_refused_and_changes_nothing(
    store: ImportStore, command: CommandLine, redis: Any
) -> None:
    await admit(store, "earlier", "dodd")
    await recording.finish(
        store,
        await claim(store),
        State.SUCCEEDED,
        error="",
        job_id="job-0",
        operation="",
        status="",
    )
    await admit(store, "plain", "dplain")
    assert (await claim(store)).item.id == "plain"
    await leave_undecided(store)
    before = await redis.hgetall("imports:import:odd")
    expected = {
        ("odd", "--adopt", "job-0"): (1, "that job belongs to an earlier import"),
        ("odd", "--adopt", " "): (2, "--adopt needs the id of a job"),
        ("odd",): (2, "Give exactly one of --adopt JOB"),
        ("odd", "--fail", "--adopt", "job-1"): (2, "Give exactly one of --adopt JOB"),
        ("plain", "--fail"): (1, "does not wait for a decision"),
        ("nobody", "--fail"): (4, "There is no import or batch nobody"),
    }
    answers = command.each(*(("resolve", *arguments) for arguments in expected))
    for (code, text), answer in zip(expected.values(), answers, strict=True):
        assert answer.returncode == code, answer.stderr
        assert text in answer.stderr
    assert await redis.hgetall("imports:import:odd") == before


async def test_lanes_shows_what_they_have_learned_about_aws(
    store: ImportStore, command: CommandLine
) -> None:
    await admit(store, "any", "dany")
    seen = LaneFacts(
        operations={"ImportBackendAuth": frozenset({"importAuth"})},
        statuses=frozenset({"READY", "WORKING"}),
        left={"WORKING": 30.0},
        suspects=frozenset({"READY"}),
        list_lag_seconds=40.0,
        longest_job_seconds=600.0,
    )
    await recording.learn(store, LANE, seen)
    facts, as_json, doctor = command.each(
        ("lanes", "--facts"), ("lanes", "--facts", "--json"), ("doctor",)
    )
    for text in (LANE, "importAuth", "WORKING (30 s at the longest)", "IMPORTS_SUCCESS_STATUSES"):
        assert text in facts.stdout
    assert "show finished jobs, have lagged up to 40 s" in facts.stdout
    assert json.loads(as_json.stdout)["facts"]["listLagSeconds"] == 40
    assert "jobs stay in READY although jobs in other statuses move on" in doctor.stdout
    assert "set IMPORTS_SETTLE_SECONDS to 80 or more" in doctor.stdout
