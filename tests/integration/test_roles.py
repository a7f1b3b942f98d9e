"""Assumed roles: one call to STS each, new credentials in time, and nothing lost without them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import CommandLine, Producer, Sandbox, StartWorker, members, wait_until
from tests.support.sts import Sts, Trust
from tests.wire import WireServer
from worker.operations.aws import Aws
from worker.operations.http import CallFailedError
from worker.sandbox.scenario import Credentials

BASE_KEY = "AKIABASE"
BASE = f"[profile base]\naws_access_key_id = {BASE_KEY}\naws_secret_access_key = not-a-secret\n"
JOB = {"AppId": "d1", "BackendEnvironmentName": "staging", "JobId": "job-1"}
KEY = "ASIAACME"
ROLES = 50


def arn(name: str) -> str:
    return f"arn:aws:iam::123456789012:role/{name}"


def role(name: str, source: str = "base", **more: str) -> str:
    """Return a profile that assumes the role of its name."""
    lines = {"role_arn": arn(name), "source_profile": source, **more}
    return f"[profile {name}]\n" + "".join(f"{key} = {lines[key]}\n" for key in lines)


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    with Sts() as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield sts


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return path


def write(config: Path, *profiles: str) -> None:
    config.write_text("".join((BASE, *profiles)))


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", server.url)
        yield server


@pytest.fixture
async def aws() -> AsyncIterator[Aws]:
    aws = Aws(60.0, max_connections=10)
    yield aws
    await aws.close()


async def poll(aws: Aws, account: str, region: str = "us-east-1") -> int:
    return (await aws.call(account, region, "get_backend_job", JOB)).status


async def test_each_of_many_roles_is_assumed_once_and_signs_its_own_calls(
    api: WireServer, aws: Aws, sts: Sts, config: Path
) -> None:
    names = [f"customer-{n}" for n in range(ROLES)]
    write(config, *map(role, names))
    calls = [poll(aws, name, region) for name in names for region in ("us-east-1", "eu-west-1")]
    assert await asyncio.gather(*calls) == [200] * 2 * ROLES
    assert sorted(sts.assumed) == sorted(map(arn, names))
    assert {request.access_key for request in api.requests} == sts.keys.keys()


async def test_chained_roles_and_external_ids_reach_sts(
    api: WireServer, aws: Aws, sts: Sts, config: Path
) -> None:
    sts.trusts = {
        arn("hub"): Trust(BASE_KEY),
        arn("customer"): Trust(arn("hub"), "agreed"),
        arn("other"): Trust(arn("hub"), "also agreed"),
    }
    write(
        config,
        role("hub"),
        role("customer", "hub", external_id="agreed"),
        role("other", "hub", external_id="guessed"),
        role("direct", "base", role_arn=arn("customer"), external_id="agreed"),
    )
    assert await poll(aws, "customer") == 200
    assert sts.keys[api.requests[-1].access_key] == arn("customer")
    for refused in ("other", "direct"):
        with pytest.raises(CallFailedError, match="not authorized to perform: sts:AssumeRole"):
            await poll(aws, refused)


async def test_a_role_is_assumed_again_before_its_credentials_expire(
    api: WireServer, aws: Aws, sts: Sts, config: Path
) -> None:
    write(config, role("acme"))
    sts.lifetime_seconds = 15 * 60 + 2  # botocore refreshes 15 minutes before the end
    assert await poll(aws, "acme") == 200
    sts.lifetime_seconds = 3600
    async with asyncio.timeout(60):
        while len(sts.keys) == 1:
            assert await poll(aws, "acme") == 200
    await poll(aws, "acme")
    first, second = sts.keys
    keys = [request.access_key for request in api.requests]
    assert keys == sorted(keys)
    assert {*keys} == {first, second}


def test_a_batch_outlives_expired_credentials_and_a_revoked_role(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    command: CommandLine,
    sts: Sts,
    config: Path,
) -> None:
    write(config, role("acme"))
    sts.lasting_keys[arn("acme")] = KEY
    sts.on_issued = lambda key: sandbox.set_credentials(key, Credentials.OK)
    start_worker(
        AWS_CONFIG_FILE=str(config),
        AWS_ENDPOINT_URL_STS=sts.url,
        IMPORTS_START_RATE="3",
        IMPORTS_START_BURST="1",
        IMPORTS_POLL_MAX_SECONDS="1",
    )
    tasks = [producer.send(members(f"d{n}", account="acme")) for n in range(12)]

    def expire(after_jobs: int) -> None:
        wait_until(lambda: len(sandbox.jobs()) >= after_jobs, f"{after_jobs} jobs were started")
        sandbox.set_credentials(KEY, Credentials.EXPIRED)

    expire(after_jobs=3)
    wait_until(lambda: len(sts.assumed) == 2, "the role was assumed again")
    sts.revoked.add(arn("acme"))
    expire(after_jobs=7)
    wait_until(lambda: sts.refused, "a worker has tried to assume the revoked role")
    sts.revoked.clear()
    command("lanes", "resume", "acme/us-east-1")  # a probe would do it, less soon
    wait_until(
        lambda: len(producer.events("import.succeeded")) >= len(tasks) - 1,
        "all but the import whose probe failed, which waits a minute, have succeeded",
    )
    assert {e["data"]["attempts"] for e in producer.events("import.succeeded")} == {1}
    assert producer.events("import.failed") == producer.events("import.rejected") == []
    targets = [job["target"] for job in sandbox.jobs()]
    assert len(set(targets)) == len(targets)
    assert len(producer.events("lane.paused")) == len(producer.events("lane.resumed")) == 2
