"""Preflight checks of workers, before a start: Cognito's and the simulated API's own counts."""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.model import POLICY
from tests.support import CommandLine, Producer, Sandbox, StartWorker, members
from tests.support.cognito import DENIED, REGION, CognitoServer
from tests.support.sandbox import ACCESS_KEY
from tests.support.stores import MakeStore
from tests.world import NoAnnouncer
from worker.domain.history import What
from worker.domain.imports import Import
from worker.domain.outcomes import Envelope
from worker.domain.preflight import Mode
from worker.domain.states import State
from worker.engine.advance import Advancer
from worker.engine.own_clock import OwnClock
from worker.engine.preflight import Preflight
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore
from worker.store.views import ImportViews


@pytest.fixture(scope="module")
def server() -> Iterator[CognitoServer]:
    with CognitoServer() as cognito:
        yield cognito


@pytest.fixture
def cognito(
    server: CognitoServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> CognitoServer:
    """The services, and the simulated API, which this process uses."""
    server.forget_calls()
    for name, value in {
        **server.environment,
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": sandbox.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    return server


class Starts:
    """Admits imports, and makes their starts as a worker does."""

    def __init__(self, store: ImportStore, aws: Aws) -> None:
        self.store = store
        self._remote = OPERATIONS.bind(aws)

    async def start(self, mode: Mode, import_id: str, **named: str) -> Import:
        """Admit an import and make its start; return what it is then."""
        request = OPERATIONS.parse(members(f"d{import_id}", **named))
        await self.store.admit(Envelope(import_id=import_id, task_id=import_id), request, REGION)
        return await self.again(mode)

    async def again(self, mode: Mode) -> Import:
        """Make the start that is due."""
        preflight = Preflight(self._remote, mode, 5.0)
        advancer = Advancer(
            self._remote,
            self.store,
            NoAnnouncer(),
            POLICY,
            30.0,
            OwnClock(),
            preflight=preflight,
        )
        ((claim,), _) = await self.store.claim(1, slots=1)
        await advancer.advance(claim)
        item = await self.store.load(claim.item.id)
        assert item
        return item


@pytest.fixture
async def starts(cognito: CognitoServer, make_store: MakeStore) -> AsyncIterator[Starts]:  # noqa: ARG001 - it is asked
    aws = Aws(timeout_seconds=10, max_connections=4)
    yield Starts(await make_store(), aws)
    await aws.close()


async def test_a_bad_pool_is_rejected_without_a_start(
    starts: Starts, cognito: CognitoServer, sandbox: Sandbox, redis: Any
) -> None:
    good = cognito.names()
    gone = {**good, "userPoolId": "us-east-1_Missing00"}
    cognito.forget_calls()
    rejected = await starts.start(Mode.REJECT, "1", **gone)
    assert (rejected.state, rejected.attempts) == (State.REJECTED, 0)
    assert rejected.error.startswith("userPoolId: there is no user pool us-east-1_Missing00 in ")
    assert (rejected.first_start_at_ms, rejected.last_start_at_ms) == (0, 0)
    assert sandbox.calls() == []

    warned = await starts.start(Mode.WARN, "2", **gone)
    accepted = await starts.start(Mode.REQUIRE, "3", **good)
    assert {warned.state, accepted.state} == {State.RUNNING}
    assert len(sandbox.calls()) == 2
    assert cognito.calls == {"DescribeUserPool": 2, "DescribeUserPoolClient": 2}
    _, lines = await ImportViews(redis).history("1")
    assert [line.what for line in lines] == [What.ACCEPTED, What.REJECTED]


async def test_what_cannot_be_checked_starts_or_waits_as_told(
    starts: Starts, cognito: CognitoServer, sandbox: Sandbox, redis: Any
) -> None:
    good = cognito.names()
    cognito.refusals = {"DescribeUserPool": DENIED}
    waiting = await starts.start(Mode.REQUIRE, "w", **good)
    assert (waiting.state, waiting.attempts) == (State.WAITING, 0)
    assert "cognito-idp:DescribeUserPool: HTTP 400 AccessDeniedException" in waiting.error
    assert cognito.calls["DescribeUserPool"] == 1, "a refusal stands for the whole place"
    assert (await starts.store.claim(1, slots=1))[0] == []
    await redis.advance(31)
    assert (await starts.again(Mode.REQUIRE)).state is State.WAITING
    _, lines = await ImportViews(redis).history("w")
    assert [(line.what, line.times) for line in lines] == [
        (What.ACCEPTED, 1),
        (What.START, 1),
        (What.UNCHECKED, 2),
    ]
    await redis.advance(31)
    done = await starts.again(Mode.OFF)
    assert (done.state, done.attempts, done.error) == (State.RUNNING, 1, "")
    for n, mode in enumerate((Mode.WARN, Mode.REJECT)):
        assert (await starts.start(mode, f"go{n}", **good)).state is State.RUNNING
    assert len(sandbox.calls()) == 3


def test_workers_check_what_comes_through_the_queue(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    server: CognitoServer,
    command: CommandLine,
) -> None:
    server.forget_calls()
    good, secret = server.names(), server.names(web={"secret": True})
    start_worker(**server.environment, IMPORTS_PREFLIGHT="reject")
    refused, fine = producer.send(members("d1", **secret)), producer.send(members("d2", **good))
    assert fine.get(timeout=90)["outcome"] == "succeeded"
    with pytest.raises(Exception, match=r"webClientId: app client .* has a secret"):
        refused.get(timeout=90)
    assert [call["target"] for call in sandbox.calls()] == ["d2/staging"]
    rejected = producer.wait_for_event("import.rejected")
    assert (rejected["data"]["attempts"], rejected["data"]["startedAt"]) == (0, None)
    shown = command("explain", refused.id).stdout
    assert "webClientId: app client" in shown
