"""Calls to AWS with the real SDK, against the sandbox: what is sent, and when."""

import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore.awsrequest import AWSRequest

from tests.support import ACCESS_KEY, Sandbox
from worker.domain.answers import Kind
from worker.operations.aws import SERVICE, Aws
from worker.operations.http import CallFailedError

PATIENT_SECONDS = 30.0
"""The timeout of calls that must be answered: the first one loads the SDK."""

TIMEOUT_SECONDS = 0.5
WHERE = {"AppId": "d1", "BackendEnvironmentName": "staging"}
POOL = {"UserPoolId": "us-east-1_A", "WebClientId": "w", "NativeClientId": "n"}


@pytest.fixture
def _environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", sandbox.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


@pytest.mark.parametrize("moment", ["before signing", "before sending"])
@pytest.mark.usefixtures("_environment")
async def test_a_call_that_is_frozen_before_sending_is_not_sent_late(
    sandbox: Sandbox, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(PATIENT_SECONDS, max_connections=1)
    prepare = AWSRequest.prepare

    def freeze(**_: Any) -> None:
        time.sleep(2 * TIMEOUT_SECONDS)  # blocks the whole process, as SIGSTOP does

    def prepare_and_freeze(request: AWSRequest) -> Any:
        prepared = prepare(request)
        if "Authorization" in prepared.headers:  # it is signed
            freeze()
        return prepared

    try:
        # With an open connection, nothing else delays the request.
        await aws.call("default", "us-east-1", "list_backend_jobs", WHERE)
        aws.timeout_seconds = TIMEOUT_SECONDS
        used = aws._account("default")  # noqa: SLF001 - the test slows its signing down
        client = await used.client("us-east-1", aws._config)  # noqa: SLF001 - as above
        if moment == "before signing":
            events = client._sdk_client.meta.events  # noqa: SLF001 - as above
            events.register(f"before-sign.{SERVICE}.ImportBackendAuth", freeze)
        else:
            monkeypatch.setattr(AWSRequest, "prepare", prepare_and_freeze)
        with pytest.raises(CallFailedError) as failure:
            await aws.call("default", "us-east-1", "import_backend_auth", WHERE | POOL)
    finally:
        await aws.close()
    assert failure.value.answer.kind in {Kind.UNKNOWN, Kind.CREDENTIALS}
    assert sandbox.calls("ImportBackendAuth") == []


@pytest.mark.parametrize(
    ("send_by", "sent"), [(0.0, 0), (math.inf, 1)], ids=["too late", "in time"]
)
@pytest.mark.usefixtures("_environment")
async def test_a_start_is_sent_in_the_time_of_its_claim_or_not_at_all(
    sandbox: Sandbox, send_by: float, sent: int
) -> None:
    aws = Aws(PATIENT_SECONDS, max_connections=1)
    with suppress(CallFailedError):
        await aws.call("default", "us-east-1", "import_backend_auth", WHERE | POOL, send_by)
    await aws.close()
    assert len(sandbox.calls("ImportBackendAuth")) == sent


@pytest.mark.parametrize(
    ("minutes", "kind"), [(60, Kind.CLOCK), (-60, Kind.CLOCK), (0, Kind.CREDENTIALS)]
)
async def test_a_role_that_can_not_be_assumed_may_be_blamed_on_the_workers_clock(
    minutes: float, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        there = datetime.now(UTC) + timedelta(minutes=minutes)
        body = "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>"
        return web.Response(
            status=403, text=body, headers={"Date": format_datetime(there, usegmt=True)}
        )

    config = tmp_path / "config"
    config.write_text(
        "[profile acme]\nrole_arn = arn:aws:iam::123456789012:role/importer\n"
        "source_profile = base\n"
        f"[profile base]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = not-a-secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    application = web.Application()
    application.router.add_post("/", refuse)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{runner.addresses[0][1]}")
    aws = Aws(PATIENT_SECONDS, max_connections=1)
    with pytest.raises(CallFailedError) as failure:
        await aws.call("acme", "us-east-1", "import_backend_auth", WHERE | POOL)
    await aws.close()
    await runner.cleanup()
    assert failure.value.answer.kind is kind
    assert "SignatureDoesNotMatch" in failure.value.answer.error


@pytest.mark.parametrize(
    ("acknowledged_seconds", "then"),
    [
        (0.5, "never delivered"),
        (60, "delivered late"),
    ],  # the second case shows what the first one prevents
)
def test_a_request_lost_in_the_network_is_not_delivered_after_the_call_was_given_up(
    acknowledged_seconds: float, then: str
) -> None:
    alone = ["unshare", "--net"]
    if subprocess.run([*alone, "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip(
            "NO network namespaces here (root, unshare and ip), a lost request is not tried"
        )
    command = [*alone, sys.executable, "-m", "tests.integration.lost_request"]
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": "http://127.0.0.1:8080",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    }
    done = subprocess.run(
        [*command, str(acknowledged_seconds)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == then, done.stderr
