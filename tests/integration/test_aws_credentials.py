"""How credentials are found. If none are found, the lane pauses with a reason."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import ACCESS_KEY, Producer, StartWorker, members, wait_until
from tests.wire import WireServer, answer
from worker.domain.answers import Answer, Kind
from worker.domain.imports import Import
from worker.operations.aws import Aws
from worker.operations.http import CallFailedError
from worker.operations.import_backend_auth import ImportBackendAuth

WHERE = {"AppId": "d1", "BackendEnvironmentName": "staging"}
POOL = {"UserPoolId": "us-east-1_A", "WebClientId": "w", "NativeClientId": "n"}
KEYS = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = not-a-secret\n"
ROLE = "role_arn = arn:aws:iam::123456789012:role/importer\n"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", server.url)
        yield server


@pytest.fixture
async def aws() -> AsyncIterator[Aws]:
    aws = Aws(10.0, max_connections=10)
    yield aws
    await aws.close()


@pytest.fixture
def helper(tmp_path: Path) -> Callable[[str], str]:
    """Return a profile's line that runs a program as its credential_process."""

    def write(program: str) -> str:
        path = tmp_path / "helper.py"
        path.write_text(program)
        return f"credential_process = {sys.executable} {path}\n"

    return write


async def start(aws: Aws, account: str = "acme", region: str = "us-east-1") -> int:
    return (await aws.call(account, region, "import_backend_auth", WHERE | POOL)).status


async def failure(aws: Aws, account: str = "acme", region: str = "us-east-1") -> Answer:
    with pytest.raises(CallFailedError) as failed:
        await start(aws, account, region)
    return failed.value.answer


BROKEN_HELPERS = {
    "prints nothing": "",
    "prints null": "print('null')",
    "prints a list": "print([])",
    "prints no JSON": "print('key=x')",
    "prints a number": "print(5)",
    "prints JSON without end": "print('[' * 100000)",
    "prints no text": "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')",
    "prints another version": "print('{\"Version\": 2}')",
    "prints no key": "print('{\"Version\": 1}')",
    "prints keys that are no text": (
        'print(\'{"Version": 1, "AccessKeyId": [], "SecretAccessKey": {}}\')'
    ),
    "prints keys of two lines": (
        'print(\'{"Version": 1, "AccessKeyId": "a\\\\nb", "SecretAccessKey": "x"}\')'
    ),
    "prints keys that have expired": (
        'print(\'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b",'
        ' "SessionToken": "c", "Expiration": "2001-01-01T00:00:00Z"}\')'
    ),
    "prints an end that is no time": (
        'print(\'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b",'
        ' "SessionToken": "c", "Expiration": "soon"}\')'
    ),
    "fails": "raise SystemExit(3)",
    "asks": "input()",
}


@pytest.mark.parametrize("program", BROKEN_HELPERS.values(), ids=BROKEN_HELPERS)
async def test_every_failure_of_a_helper_has_a_reason(
    api: WireServer, aws: Aws, helper: Callable[[str], str], program: str, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[profile acme]\n{helper(program)}")
    answered = await failure(aws)
    assert answered.kind is Kind.CREDENTIALS
    assert answered.error.isprintable()
    assert len(answered.error) > 10
    assert api.requests == []


BROKEN_PROFILES = {
    "is missing": "",
    "is empty": "[profile acme]\n",
    "is no section": "[profile acme\n",
    "is not text": "[profile acme]\naws_access_key_id = \0\1\n",
    "has half a key": f"[profile acme]\naws_access_key_id = {ACCESS_KEY}\n",
    "is its own source": f"[profile acme]\n{ROLE}source_profile = acme\n",
    "goes round in a circle": (
        f"[profile acme]\n{ROLE}source_profile = b\n[profile b]\n{ROLE}source_profile = acme\n"
    ),
    "has a role without a source": f"[profile acme]\n{ROLE}",
    "has two sources": (
        f"[profile acme]\n{ROLE}source_profile = acme\ncredential_source = Environment\n"
    ),
    "has a source that nobody knows": f"[profile acme]\n{ROLE}credential_source = Somewhere\n",
    "has a source without keys": f"[profile acme]\n{ROLE}credential_source = Environment\n",
    "has a role for some time": (
        f"[profile acme]\n{ROLE}source_profile = b\nduration_seconds = some\n[profile b]\n{KEYS}"
    ),
    "has a token that is not there": f"[profile acme]\n{ROLE}web_identity_token_file = /nowhere\n",
    "has a token that is a directory": f"[profile acme]\n{ROLE}web_identity_token_file = /tmp\n",
    "has a sign-on that is not there": "[profile acme]\nsso_session = nobody\n",
    "has half a sign-on": "[profile acme]\nsso_start_url = https://127.0.0.1\n",
    "has a helper that is not there": "[profile acme]\ncredential_process = /nowhere\n",
    "has a helper with an open quote": "[profile acme]\ncredential_process = '/nowhere\n",
    "has an empty helper": "[profile acme]\ncredential_process =\n",
    "asks for a code": (
        f"[profile acme]\n{ROLE}source_profile = b\nmfa_serial = arn:aws:iam::123456789012:mfa/x\n"
        f"[profile b]\n{KEYS}"
    ),
    "has a number of attempts for its metadata": "[profile acme]\nmetadata_service_timeout = x\n",
    "is of another API": f"[profile acme]\n{KEYS}api_versions =\n  amplifybackend = 1999-01-01\n",
}


@pytest.mark.parametrize("profile", BROKEN_PROFILES.values(), ids=BROKEN_PROFILES)
async def test_every_defect_of_a_profile_has_a_reason(
    api: WireServer,
    aws: Aws,
    profile: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WireServer() as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        (tmp_path / "config").write_text(profile)
        answered = await failure(aws)
        assert answered.kind is Kind.CREDENTIALS
        assert answered.error.isprintable()
        assert len(answered.error) > 10
        assert api.requests == []
        assert capfd.readouterr() == ("", "")
        with pytest.raises(CallFailedError):
            await aws.check("acme", "us-east-1")


async def test_a_profile_that_requires_a_code_is_reported(
    api: WireServer, aws: Aws, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(BROKEN_PROFILES["asks for a code"])
    assert "mfa_serial wants a code" in (await failure(aws)).error
    assert api.requests == []


async def test_keys_in_an_answer_that_makes_no_sense_are_not_repeated(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile acme]\n{ROLE}source_profile = b\n[profile b]\n{KEYS}"
    )
    async with WireServer(answer(200, SECRET.encode())) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        answered = await failure(aws)
    assert answered.kind is Kind.CREDENTIALS
    assert SECRET not in answered.error


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
async def test_an_ambient_profile_that_is_missing_pauses_and_stops_nothing(
    api: WireServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "nobody")
    aws = Aws(10.0, max_connections=1)
    await aws.warm_up()
    assert "nobody" in (await failure(aws, "default")).error
    assert aws.region_of("default") == ""
    await aws.close()
    assert api.requests == []


async def test_rotated_keys_are_used_once_the_old_ones_are_refused(
    api: WireServer, aws: Aws, tmp_path: Path
) -> None:
    shared = tmp_path / "credentials"
    shared.write_text("[acme]\naws_access_key_id = OLD\naws_secret_access_key = x\n")
    assert await start(aws) == 200
    shared.write_text("[acme]\naws_access_key_id = NEW\naws_secret_access_key = x\n")
    assert await start(aws) == 200
    api.reply = answer(403, b'{"code": "UnrecognizedClientException"}')
    assert await start(aws) == 403
    assert await start(aws, region="eu-west-1") == 403
    assert [request.access_key for request in api.requests] == ["OLD", "OLD", "OLD", "NEW"]


async def test_a_refusal_interrupts_no_other_call(
    api: WireServer, aws: Aws, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(f"[acme]\n{KEYS}")
    api.reply, api.delay_seconds = answer(403), 0.3
    slow = asyncio.create_task(start(aws))
    await asyncio.to_thread(wait_until, lambda: api.requests, "a call is on its way")
    api.delay_seconds = 0.0
    assert await start(aws, region="eu-west-1") == 403  # its session is dropped
    assert await slow == 403


async def test_a_profile_that_was_added_or_fixed_is_noticed(
    api: WireServer, aws: Aws, tmp_path: Path
) -> None:
    assert "ProfileNotFound" in (await failure(aws)).error
    (tmp_path / "config").write_text(f"[profile acme]\n{ROLE}")
    assert (await failure(aws)).kind is Kind.CREDENTIALS
    (tmp_path / "config").write_text(f"[profile acme]\nregion = eu-west-1\n{KEYS}")
    assert await start(aws) == 200
    assert len(api.requests) == 1


async def test_keys_of_the_environment_are_read_without_blanks(
    api: WireServer, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f" {ACCESS_KEY}\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret\n")
    (tmp_path / "config").write_text(f"[profile acme]\n{ROLE}credential_source = Environment\n")
    async with WireServer(answer(403)) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        assert await start(aws, "default") == 200
        await failure(aws)
        assert [r.access_key for r in (*api.requests, *sts.requests)] == [ACCESS_KEY] * 2


async def test_a_region_is_read_without_blanks_and_once_it_is_valid(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for region in ("", "us_east_1", "eu-west-1", "eu-west-2"):
        (tmp_path / "config").write_text(f"[profile acme]\nregion = {region} \n")
        assert aws.region_of("acme") == ("eu-west-1" if region == "eu-west-2" else region)
    monkeypatch.setenv("AWS_REGION", " us-east-1\n")
    assert aws.region_of("acme") == "us-east-1"


HANGS = """
import os, subprocess, sys, time
with open({pids!r}, "a+") as pids:
    pids.seek(0)
    for pid in pids.read().split()[::2]:
        assert not os.path.exists(f"/proc/{{pid}}"), "another helper of the account still runs"
    child = subprocess.Popen(["sleep", "60"])
    pids.write(f"{{os.getpid()}} {{child.pid}} ")
print({secret!r}, file=sys.stderr, flush=True)
time.sleep(60)
"""


async def test_a_hanging_helper_is_ended_and_only_its_account_waits(
    api: WireServer, helper: Callable[[str], str], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    line = helper(HANGS.format(pids=str(pids), secret=SECRET))
    (tmp_path / "config").write_text(f"[profile acme]\n{line}[profile other]\n{KEYS}")
    aws = Aws(3.0, max_connections=10)
    hung, also_hung, quick = await asyncio.gather(
        failure(aws), failure(aws, region="eu-west-1"), start(aws, "other")
    )
    assert quick == 200
    assert hung.error == "3 s were not enough for the credential_process"
    assert also_hung.error.startswith("3 s were not enough")  # a second helper would fail at once
    assert {hung.kind, also_hung.kind} == {Kind.CREDENTIALS}
    assert (await failure(aws)).kind is Kind.CREDENTIALS
    await aws.close()
    wait_until(lambda: not any(map(_is_alive, pids.read_text().split())), "the helpers are gone")
    assert len(api.requests) == 1


COUNTS_RUNS = """
with open({runs!r}, "a") as runs:
    runs.write("x")
print('{{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}}')
"""


async def test_clients_of_the_latest_accounts_stay_open_and_all_keep_their_credentials(
    api: WireServer,
    aws: Aws,
    helper: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.operations.aws.MAX_OPEN_ACCOUNTS", 2)
    runs = tmp_path / "runs"
    line = helper(COUNTS_RUNS.format(runs=str(runs)))
    (tmp_path / "config").write_text("".join(f"[profile {name}]\n{line}" for name in "abcd"))
    assert [await start(aws, account) for account in "abcab"] == [200] * 5
    await asyncio.to_thread(wait_until, lambda: api.connections == 2, "idle clients are closed")
    api.delay_seconds = 1.0
    slow = asyncio.create_task(start(aws, "b"))
    await asyncio.to_thread(wait_until, lambda: len(api.requests) == 6, "a call is on its way")
    api.delay_seconds = 0.0
    assert [await start(aws, account) for account in "cda"] == [200] * 3
    assert await slow == 200
    assert len(runs.read_text()) == 4


async def another() -> None:
    """Grant another page at once."""


async def test_a_hanging_helper_is_the_reason_for_a_failed_list_as_well(
    helper: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[profile acme]\n{helper('import time; time.sleep(60)')}")
    aws = Aws(0.5, max_connections=1)
    where = {"app_id": "d1", "backend_environment_name": "staging"}
    item = Import.from_fields(
        "i", {"state": "starting", "account": "acme", "region": "us-east-1", **where}
    )
    answered = await ImportBackendAuth(aws).find(item, another)
    await aws.close()
    assert answered.kind is Kind.CREDENTIALS


async def test_the_error_output_of_a_helper_is_not_repeated(
    aws: Aws, helper: Callable[[str], str], tmp_path: Path
) -> None:
    line = helper(f"import sys; print({SECRET!r}, file=sys.stderr); raise SystemExit(7)")
    (tmp_path / "config").write_text(
        f"[profile acme]\n{line}[profile b]\n{ROLE}source_profile = acme\n"
    )
    for account in ("acme", "b"):  # b's role uses it as its source
        answered = await failure(aws, account)
        assert "credential_process ended with status 7" in answered.error
        assert SECRET not in answered.error


async def test_hanging_credentials_are_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile acme]\n{ROLE}source_profile = b\n[profile b]\n{KEYS}"
    )
    async with WireServer() as sts:
        sts.delay_seconds = 60
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        aws = Aws(0.5, max_connections=1)
        answered = await failure(aws)
        await aws.close()
    assert answered.error == "0.5 s were not enough to find the account's credentials"
    assert answered.kind is Kind.CREDENTIALS


def test_a_lane_pauses_for_a_broken_profile_and_resumes_once_it_is_fixed(
    start_worker: StartWorker, producer: Producer, helper: Callable[[str], str], tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[profile acme]\n{helper('print([])')}")
    start_worker(
        AWS_CONFIG_FILE=str(config),
        AWS_RETRY_MODE="adaptive",
        AWS_MAX_ATTEMPTS="many",
        AWS_DEFAULTS_MODE="often",
    )
    broken, fine = (
        producer.send(members("dbroken", account="acme")),
        producer.send(members("dfine")),
    )
    assert fine.get(timeout=60)["outcome"] == "succeeded"
    paused = producer.wait_for_event("lane.paused", lane="acme/us-east-1")
    assert paused["data"]["reason"]
    config.write_text(f"[profile acme]\n{KEYS}")
    assert broken.get(timeout=60) | {"attempts": 1} == broken.get()
    assert [event["data"]["lane"] for event in producer.events("lane.paused")] == ["acme/us-east-1"]


def test_a_worker_with_an_invalid_endpoint_pauses_and_reports_why(
    start_worker: StartWorker, producer: Producer
) -> None:
    start_worker(AWS_ENDPOINT_URL_AMPLIFYBACKEND="127.0.0.1:4567")
    producer.send(members("d1"))
    assert "Invalid endpoint" in producer.wait_for_event("lane.paused")["data"]["reason"]


def _is_alive(pid: str) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False
