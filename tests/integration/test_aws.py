"""Calls to AWS by the real SDK, against the sandbox: what leaves this process, and when."""

import time
from typing import Any

import pytest

from tests.support import ACCESS_KEY, Sandbox
from worker.domain.answers import Kind
from worker.operations.aws import SERVICE, Aws, CallFailedError

TIMEOUT_SECONDS = 0.5
WHERE = {"AppId": "d1", "BackendEnvironmentName": "staging"}
POOL = {"UserPoolId": "us-east-1_A", "WebClientId": "w", "NativeClientId": "n"}


@pytest.fixture
def _environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", sandbox.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


@pytest.mark.parametrize("moment", ["before-sign", "before-send"])
@pytest.mark.usefixtures("_environment")
async def test_a_call_that_is_frozen_on_its_way_out_is_not_sent_late(
    sandbox: Sandbox, moment: str
) -> None:
    aws = Aws(TIMEOUT_SECONDS, max_connections=1)

    def freeze(**_: Any) -> None:
        time.sleep(2 * TIMEOUT_SECONDS)  # nothing of this process goes on, as under SIGSTOP

    try:
        # Over a connection that is open, nothing else is waited for before the request goes out.
        await aws.call("default", "us-east-1", "list_backend_jobs", **WHERE)
        client = await aws._client("default", "us-east-1")  # noqa: SLF001 - its signing is slowed
        client.meta.events.register(f"{moment}.{SERVICE}.ImportBackendAuth", freeze)
        with pytest.raises(CallFailedError) as failure:
            await aws.call("default", "us-east-1", "import_backend_auth", **WHERE, **POOL)
    finally:
        await aws.close()
    assert failure.value.answer.kind in {Kind.UNKNOWN, Kind.CREDENTIALS}
    assert sandbox.calls("ImportBackendAuth") == []
