"""Accounts that may not be used: requests are rejected by name, and nothing else is held up."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import CommandLine, Producer, Sandbox, StartWorker, members
from tests.world import NoAnnouncer, SingleRegion
from worker.domain.batches import BatchMessage
from worker.domain.outcomes import RetryVerdict, Verdict
from worker.domain.states import State
from worker.engine.admit import Admitter
from worker.operations.accounts import Accounts
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig
from worker.store.store import ImportStore

KEYS = "aws_access_key_id = AKIAACME\naws_secret_access_key = not-a-secret\n"
NO_PROFILE = "account: no worker has an AWS profile {0}; add it to the workers' configuration"
NOT_ALLOWED = "account: the workers' IMPORTS_ACCOUNTS does not allow {0}; add it to that setting"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The AWS configuration of this process; it has the profile acme."""
    path = tmp_path / "config"
    path.write_text(f"[profile acme]\n{KEYS}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return path


def write(config: Path, text: str) -> None:
    config.write_text(text)


@pytest.fixture
def store(redis: Any) -> ImportStore:
    return ImportStore(
        redis,
        StoreConfig(
            retention_seconds=60, events_max_length=10_000, lease_seconds=2, settle_seconds=0
        ),
    )


def admitter(store: ImportStore, *allowed: str) -> Admitter:
    return Admitter(OPERATIONS, store, Accounts(allowed), SingleRegion(), NoAnnouncer())


def entry(app: str, account: str = "", **more: Any) -> tuple[str, str, None]:
    """Return a stream entry without a trace; the app's name is its id."""
    named = {"account": account} if account else {}
    return app, json.dumps({**members(app), **named, **more}), None


@pytest.mark.usefixtures("config")
async def test_requests_of_refused_accounts_are_rejected_by_name(store: ImportStore) -> None:
    admissions = await admitter(store, "acme", "customer-*").admit_entries(
        [entry("d1", "acme"), entry("d2", "customer-1"), entry("d3", "globex"), entry("d4")]
    )
    assert [each.item and each.item.error for each in admissions] == [
        None,
        NO_PROFILE.format("customer-1"),
        NOT_ALLOWED.format("globex"),
        NOT_ALLOWED.format("default"),
    ]
    verdicts = [Verdict.ACCEPTED, *[Verdict.REJECTED] * 3]
    assert [each.verdict for each in admissions] == verdicts


@pytest.mark.usefixtures("config")
async def test_a_profile_that_another_worker_has_is_accepted(
    store: ImportStore, redis: Any
) -> None:
    here, there = admitter(store), frozenset({"globex", "customer-*"})
    assert (await here.admit_entries([entry("d1", "globex")]))[0].verdict is Verdict.REJECTED
    await store.publish_accounts(there)
    accepted = await here.admit_entries([entry("d2", "globex"), entry("d3", "customer-9")])
    assert {each.verdict for each in accepted} == {Verdict.ACCEPTED}
    await redis.advance(299)
    await store.publish_accounts(frozenset({"globex"}))
    await redis.advance(2)
    await store.publish_accounts(frozenset())
    assert await store.accepted_accounts() == {"globex"}
    await redis.advance(300)
    await store.publish_accounts(frozenset())
    assert await store.accepted_accounts() == set()


async def test_a_configuration_that_cannot_be_read_refuses_nobody(
    store: ImportStore, config: Path
) -> None:
    write(config, "[profile acme")
    (admission,) = await admitter(store).admit_entries([entry("d1", "globex")])
    assert admission.verdict is Verdict.ACCEPTED


async def test_a_request_that_was_accepted_before_stays_accepted(
    store: ImportStore, config: Path
) -> None:
    batch = BatchMessage.parse({"batchId": "b", "requests": [members("d1", account="acme")]})
    (first,) = await admitter(store).admit_batch(batch)
    write(config, "")
    (again,) = await admitter(store).admit_batch(batch)
    assert (first.verdict, again.verdict) == (Verdict.ACCEPTED, Verdict.KNOWN)
    assert again.import_id == first.import_id
    item = await store.load(first.import_id)
    assert item
    assert item.state is State.WAITING


async def test_a_refused_import_can_be_retried_once_its_account_is_accepted(
    store: ImportStore, config: Path
) -> None:
    requests = [entry("d1", "globex", idempotencyKey="once")]
    (refused,) = await admitter(store).admit_entries(requests)
    (again,) = await admitter(store).admit_entries(requests)
    assert (refused.verdict, again.verdict) == (Verdict.REJECTED, Verdict.KNOWN)
    write(config, f"[profile globex]\n{KEYS}")
    (still,) = await admitter(store).admit_entries(requests)
    assert still.verdict is Verdict.KNOWN, "an import that is over stays as it is"
    assert refused.item
    retried = await store.retry(refused.item)
    assert retried.verdict is RetryVerdict.RETRIED
    item = await store.load(retried.retry_id)
    assert item
    assert (item.state, item.lane) == (State.WAITING, "globex/us-east-1")


@pytest.mark.usefixtures("config")
async def test_a_batch_that_is_recovered_waits_for_its_accounts(store: ImportStore) -> None:
    batch = {"batchId": "b", "requests": [members("d1", account="globex")]}
    since = {"recoverSince": "2026-11-24T08:00:00+00:00"}
    (admission,) = await admitter(store).admit_batch(BatchMessage.parse(batch | since))
    assert admission.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_workers_refuse_at_once_and_use_no_account_that_is_not_allowed(
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
    command: CommandLine,
    config: Path,
    pool: str,
) -> None:
    start_worker(AWS_CONFIG_FILE=str(config), IMPORTS_ACCOUNTS="acme", IMPORTS_WORKER_POOL=pool)
    refused, fine = (
        producer.send(members("d1", account="globex")),
        producer.send(members("d2", account="acme")),
    )
    with pytest.raises(Exception, match="IMPORTS_ACCOUNTS does not allow globex"):
        refused.get(timeout=90)
    assert fine.get(timeout=90)["outcome"] == "succeeded"
    assert producer.events("lane.paused") == []
    assert len(sandbox.calls()) == 1
    assert "accounts: workers accept 1: acme\n" in command("doctor").stdout


def test_an_admitted_import_waits_while_its_account_is_not_allowed(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox, config: Path
) -> None:
    sandbox.script("d1", duration_seconds=3600)
    settings = {"AWS_CONFIG_FILE": str(config), "IMPORTS_ACCOUNTS": "acme"}
    first = start_worker(**settings)
    task = producer.send(members("d1", account="acme"))
    producer.wait_for_event("import.started")
    first.stop()
    start_worker(**{**settings, "IMPORTS_ACCOUNTS": "globex"})
    paused = producer.wait_for_event("lane.paused", lane="acme/us-east-1")
    assert "IMPORTS_ACCOUNTS does not allow acme" in paused["data"]["reason"]
    assert task.state == "RUNNING"


ROWS = "appId,backendEnvironmentName,userPoolId,webClientId,nativeClientId,account\n" + "".join(
    f"d{n},dev,us-east-1_Ab,web,native,{('acme', 'globex', 'initech')[n % 3]}\n" for n in range(20)
)


async def test_submit_names_the_accounts_that_no_worker_accepts(
    command: CommandLine, store: ImportStore, redis: Any, tmp_path: Path
) -> None:
    path = tmp_path / "apps.csv"
    path.write_text(ROWS)
    await store.publish_accounts(frozenset({"default", "ac*"}))
    done = command("submit", path)
    assert done.returncode == 2
    assert "lines 3, 6, 9, 12, 15 and 2 more: account: no worker accepts globex;" in done.stderr
    assert "lines 4, 7, 10, 13, 16 and 1 more: account: no worker accepts initech" in done.stderr
    assert "13 rows bad" in done.stderr
    assert await redis.llen("imports") == 0
    sent = json.loads(command("submit", path, "--skip-invalid", "--json").stdout)
    assert (sent["submitted"], sent["skipped"]) == (7, 13)
    assert {problem["member"] for problem in sent["problems"]} == {"account"}

    report = json.loads(command("doctor", "--json").stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["accounts"]["detail"] == "workers accept 2: ac*, default"


def test_submit_does_not_need_the_store(command: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "apps.csv"
    path.write_text(ROWS)
    broker = command.environment["IMPORTS_REDIS_URL"]
    done = command(
        "submit", path, IMPORTS_REDIS_URL="redis://127.0.0.1:1/0", IMPORTS_BROKER_URL=broker
    )
    assert done.returncode == 0
    assert "The accounts were not checked, workers will do it: The store at" in done.stderr


def test_run_names_the_accounts_that_this_machine_lacks(
    command: CommandLine, config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "apps.csv"
    path.write_text(ROWS)
    arguments = ("run", path, "--state-dir", tmp_path / "state")
    done = command(*arguments, AWS_CONFIG_FILE=str(config), IMPORTS_ACCOUNTS="acme,glob*")
    assert done.returncode == 2
    assert "lines 3, 6, 9, 12, 15 and 2 more: account: there is no AWS profile gl" in done.stderr
    assert "account: IMPORTS_ACCOUNTS does not allow initech" in done.stderr
    assert not (tmp_path / "state").exists()
    practice = command(*arguments, "--sandbox", IMPORTS_ACCOUNTS="acme,glob*")
    assert practice.returncode == 2
    assert "globex" not in practice.stderr
