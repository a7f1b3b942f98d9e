"""After a success, workers look at what the simulated API shows of the import."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.model import POLICY
from tests.support import (
    CommandLine,
    Producer,
    Sandbox,
    StartWorker,
    members,
    storage_members,
    wait_until,
)
from tests.support.contract import problems_of_event
from tests.support.sandbox import ACCESS_KEY
from tests.support.stores import MakeStore
from tests.world import NoAnnouncer
from worker.domain.claims import Claim
from worker.domain.decisions import NoteVerified
from worker.domain.history import What
from worker.domain.imports import Import
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.domain.verification import LAG_SECONDS, Verification
from worker.engine.advance import Advancer
from worker.engine.own_clock import OwnClock
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS
from worker.sandbox.scenario import Credentials, JobSettings, Scenario
from worker.store.store import ImportStore
from worker.store.views import ImportViews

REGION = "us-east-1"


class Calls:
    """Makes the calls that are due, as a worker does, and moves the time on."""

    def __init__(self, store: ImportStore, redis: Any, aws: Aws) -> None:
        self.store = store
        self._redis = redis
        self._advancer = Advancer(
            OPERATIONS.bind(aws),
            store,
            NoAnnouncer(),
            replace(POLICY, verify=True),
            30.0,
            OwnClock(),
        )

    async def succeed(self, import_id: str, requested: dict[str, Any]) -> Import:
        """Admit an import and make calls until it has succeeded."""
        request = OPERATIONS.parse(requested)
        await self.store.admit(Envelope(import_id=import_id, task_id=import_id), request, REGION)
        return await self.until(import_id, lambda item: item.state is State.SUCCEEDED)

    async def until(self, import_id: str, is_so: Any) -> Import:
        """Make calls until something is true of an import."""
        for _ in range(100):
            item = await self.store.load(import_id)
            assert item
            if is_so(item):
                return item
            for claim in await self.claimed():
                await self._advancer.advance(claim)
        raise AssertionError(f"it is still {item}")

    async def claimed(self) -> list[Claim]:
        """Claim what is due within a minute."""
        claims, _ = await self.store.claim(10, slots=10)
        if not claims:
            await self._redis.advance(20)
        return claims


@pytest.fixture
async def calls(
    sandbox: Sandbox, make_store: MakeStore, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Calls]:
    for name, value in {
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": sandbox.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    sandbox.reset(Scenario(jobs=JobSettings(min_seconds=0, max_seconds=0)))
    aws = Aws(timeout_seconds=10, max_connections=4)
    yield Calls(
        await make_store(retention_seconds=86400, operations=tuple(OPERATIONS.tasks)), redis, aws
    )
    await aws.close()


def is_verified(item: Import) -> bool:
    return item.verification != Verification.DUE


async def events(redis: Any, kind: str) -> list[dict[str, Any]]:
    entries = [json.loads(fields["event"]) for _, fields in await redis.xrange("imports:events")]
    return [event for event in entries if event["type"] == kind]


async def test_what_aws_shows_confirms_an_import(
    calls: Calls, redis: Any, sandbox: Sandbox
) -> None:
    identity_pool = f"{REGION}:0a1b2c3d-0123-4567-89ab-0123456789ab"
    for import_id, requested in (
        ("auth", members("d1", identityPoolId=identity_pool)),
        ("storage", storage_members("d2")),
    ):
        done = await calls.succeed(import_id, requested)
        assert done.verification == Verification.DUE
        item = await calls.until(import_id, is_verified)
        assert (item.state, item.verification) == (State.SUCCEEDED, Verification.CONFIRMED)
        assert item.finished_at_ms == done.finished_at_ms
        _, lines = await ImportViews(redis).history(import_id)
        assert What.UNVERIFIED not in {line.what for line in lines}
    assert await redis.keys("imports:late:*") == []
    assert len(await events(redis, "import.succeeded")) == 2
    assert await events(redis, "import.unverified") == []
    assert len(sandbox.jobs()) == 2


async def test_a_mismatch_that_lasts_is_an_event_and_nothing_else(
    calls: Calls, redis: Any, sandbox: Sandbox, command: CommandLine
) -> None:
    sandbox.script("d1", shown={"UserPoolId": "us-east-1_Other0000"})
    sandbox.script("d2", shown={})
    reasons = {
        "i1": "GetBackend shows UserPoolId us-east-1_Other0000, not us-east-1_AbCdEf123",
        "i2": "GetBackend shows no imported auth resource",
    }
    for number, (import_id, reason) in enumerate(reasons.items(), 1):
        done = await calls.succeed(import_id, members(f"d{number}"))
        item = await calls.until(import_id, is_verified)
        assert (item.state, item.verification) == (State.SUCCEEDED, Verification.UNCONFIRMED)
        assert (item.verification_error, item.error) == (reason, "")
        *_, event = await events(redis, "import.unverified")
        assert problems_of_event(event) == []
        assert event["id"] == f"{import_id}/unverified"
        assert (event["data"]["outcome"], event["data"]["error"]) == ("succeeded", reason)
        _, lines = await ImportViews(redis).history(import_id)
        assert lines[-1].what == What.UNVERIFIED
        assert lines[-1].at_ms - done.finished_at_ms >= LAG_SECONDS * 1000
    assert len(await events(redis, "import.succeeded")) == 2
    assert len(sandbox.calls()) == 2
    assert len(await events(redis, "import.unverified")) == 2
    assert await redis.keys("imports:late:*") == await redis.keys("imports:leases:*") == []
    assert f"could not be confirmed in AWS: {reasons['i2']}" in command("explain", "i2").stdout
    shown = json.loads(command("status", "i2", "--json").stdout)
    assert (shown["verification"], shown["verificationError"]) == ("unconfirmed", reasons["i2"])
    assert f"verified   unconfirmed: {reasons['i2']}" in command("status", "i2").stdout


async def test_a_late_look_confirms_what_aws_shows_late(
    calls: Calls, redis: Any, sandbox: Sandbox
) -> None:
    sandbox.script("d1", shown={})
    await calls.succeed("i", members("d1"))
    before = (await calls.until("i", lambda item: item.polls > 1)).polls
    sandbox.script("d1")
    item = await calls.until("i", is_verified)
    assert (item.verification, item.verification_error) == (Verification.CONFIRMED, "")
    assert item.polls >= before
    assert await events(redis, "import.unverified") == []


async def test_a_missing_permission_pauses_no_lane(
    calls: Calls, redis: Any, sandbox: Sandbox
) -> None:
    await calls.succeed("i", members("d1"))
    sandbox.set_credentials(ACCESS_KEY, Credentials.DENIED)
    item = await calls.until("i", is_verified)
    assert (item.state, item.verification) == (State.SUCCEEDED, Verification.UNKNOWN)
    assert "HTTP 403" in item.verification_error
    assert await events(redis, "lane.paused") == []
    assert await events(redis, "import.unverified") == []


async def test_a_worker_that_dies_during_a_look_leaves_nothing_behind(
    calls: Calls, redis: Any
) -> None:
    await calls.succeed("i", members("d1"))
    while not (claims := await calls.claimed()):
        pass
    (dead,) = claims
    await redis.advance(31)
    while not (claims := await calls.claimed()):
        pass
    (alive,) = claims
    note = NoteVerified(Verification.UNCONFIRMED, "no pool")
    assert not (await calls.store.record(dead, note)).is_current
    assert (await calls.store.record(alive, note)).is_current
    assert not (await calls.store.record(alive, note)).is_current
    assert len(await events(redis, "import.unverified")) == 1


def test_workers_verify_if_they_are_told_to(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, command: CommandLine
) -> None:
    start_worker(IMPORTS_VERIFY="on", IMPORTS_POLL_MAX_SECONDS="1", IMPORTS_POLL_MIN_SECONDS="0.1")
    task = producer.send(members("d1"))
    assert task.get(timeout=90)["outcome"] == "succeeded"

    def is_confirmed() -> bool:
        shown = json.loads(command("status", task.id, "--json").stdout)
        return bool(shown["verification"] == "confirmed")

    wait_until(is_confirmed, "the import is confirmed")
    audit = command("audit")
    assert audit.returncode == 0, audit.stdout
    assert len(sandbox.jobs()) == 1
