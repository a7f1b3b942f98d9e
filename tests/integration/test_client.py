"""The requests are those of the SDK's client, although it resolves only the first of a method."""

from collections.abc import AsyncIterator
from pathlib import Path

import aioboto3
import pytest
from pydantic.alias_generators import to_pascal, to_snake

from tests.support import ACCESS_KEY
from tests.wire import Request, WireServer
from worker.operations.aws import SERVICE, Aws
from worker.operations.registry import OPERATIONS

REGION = "eu-central-1"
WHERE = {"AppId": "d1", "BackendEnvironmentName": "staging"}
TELEMETRY = {"amz-sdk-invocation-id", "amz-sdk-request"}
"""Headers that number the SDK's own retries. Only the SDK's client sends them."""

CALLS: dict[str, dict[str, object]] = {
    "get_backend_job": {"JobId": "a job/ä?"},
    "list_backend_jobs": {"MaxResults": 25, "NextToken": "é="},
    **{
        to_snake(name): {to_pascal(member): f"{member} ü" for member in operation.members()}
        for name, operation in OPERATIONS.operations.items()
    },
}


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "not-a-token")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with WireServer() as server:
        yield server


def comparable(request: Request) -> tuple[str, str, bytes, dict[str, str], str, set[str]]:
    """Return the request without its time: also the scope and the signed headers."""
    headers = {name: value for name, value in request.headers.items() if name not in TELEMETRY}
    del headers["x-amz-date"]
    credential, signed, _ = headers.pop("authorization").split(", ")
    names = set(signed.removeprefix("SignedHeaders=").split(";")) - TELEMETRY
    return request.method, request.path, request.body, headers, credential, names


@pytest.mark.parametrize("path", ["", "/", "/stage", "/stage/"])
@pytest.mark.parametrize("method", CALLS)
async def test_each_request_is_that_of_the_sdks_client(
    api: WireServer, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", api.url + path)
    aws = Aws(30.0, max_connections=1)
    params = {**WHERE, **CALLS[method]}
    others = {name: value if isinstance(value, int) else "x" for name, value in params.items()}
    async with aioboto3.Session().client(SERVICE, region_name=REGION) as plain:
        for sent in (others, params, others, {**params, "AppId": "d2"}):
            api.requests.clear()
            await aws.call("default", REGION, method, sent)
            await getattr(plain, method)(**sent)
            ours, theirs = map(comparable, api.requests)
            # What a user agent tells besides depends on the settings that `Aws` fixes.
            for request in (ours, theirs):
                assert request[3].pop("user-agent").startswith("aiobotocore/")
            assert ours == theirs
    await aws.close()


@pytest.mark.parametrize(("method", "times"), [("get_backend_job", 1), ("list_backend_jobs", 0)])
async def test_the_sdks_client_resolves_only_the_first_request_of_a_method(
    api: WireServer, method: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", api.url)
    aws = Aws(30.0, max_connections=1)
    resolved: list[str] = []
    await aws.call("default", REGION, "list_backend_jobs", WHERE)
    used = aws._account("default")  # noqa: SLF001 - the test watches the SDK's client
    client = await used.client(REGION, aws._config)  # noqa: SLF001 - as above
    events = client._sdk_client.meta.events  # noqa: SLF001 - as above
    events.register("before-endpoint-resolution", lambda **_: resolved.append(method))
    for _ in range(3):
        await aws.call("default", REGION, method, {**WHERE, **CALLS[method]})
    await aws.close()
    assert resolved == [method] * times
    assert len(api.requests) == 4
