"""The sandbox as seen by botocore, whose model is the second publication of the API."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from worker.sandbox.scenario import Credentials, Scenario, ScriptedTarget
from worker.sandbox.server import SandboxServer

TARGET = {"AppId": "d1", "BackendEnvironmentName": "prod"}
IMPORT = {
    **TARGET,
    "UserPoolId": "eu-west-1_Pool",
    "NativeClientId": "native",
    "WebClientId": "web",
    "IdentityPoolId": "eu-west-1:identity",
}
BUCKET = {**TARGET, "BucketName": "uploads", "ServiceName": "S3"}
RESULTS = {
    "ImportBackendAuth",
    "GetBackendJob",
    "ListBackendJobs",
    "GetBackendAuth",
    "ImportBackendStorage",
    "GetBackendStorage",
}


FACTS = {
    "operation": "ImportBackendAuth",
    "list_operation": "ImportBackendAuth",
    "under_way": "IN_PROGRESS",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "times": "epoch",
    "list_order": "newest",
}
"""Undocumented facts of AWS as these tests set them; see test_sandbox_undocumented.py."""


def connect(sandbox: SandboxServer, access_key_id: str = "AKIATEST") -> Any:
    return botocore.session.get_session().create_client(
        "amplifybackend",
        region_name="eu-west-1",
        endpoint_url=sandbox.url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key="any",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=3),
    )


async def call(method: Callable[..., Any], **parameters: Any) -> Any:
    return await asyncio.to_thread(method, **parameters)


async def failed_call(method: Callable[..., Any], **parameters: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await call(method, **parameters)
    return caught.value


async def wait_for_status(client: Any, job_id: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        job: dict[str, Any] = await call(client.get_backend_job, **TARGET, JobId=job_id)
        if job["Status"] == status:
            return job
        await asyncio.sleep(0.02)
    pytest.fail(f"waited for job {job_id} to become {status}, last seen: {job}")


def scripted(**settings: Any) -> Scenario:
    target = {"app_id": "d1", "environment": "prod", **settings}
    return Scenario.model_validate({"targets": [target], "undocumented": FACTS})


def missing_members(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name not in value:
                yield f"{path}.{name}"
            else:
                yield from missing_members(member, value[name], f"{path}.{name}")
    elif shape.type_name == "list":
        if not value:
            yield f"{path}[]"
        for item in value:
            yield from missing_members(shape.member, item, f"{path}[]")


async def test_an_import_is_followed_from_its_start_to_its_config() -> None:
    async with SandboxServer(scripted(outcome="succeed", duration_seconds=0.1)) as sandbox:
        client = connect(sandbox)
        before = time.time()

        started = await call(client.import_backend_auth, **IMPORT)

        assert started["AppId"] == "d1"
        assert started["BackendEnvironmentName"] == "prod"
        assert started["Operation"] == "ImportBackendAuth"
        assert started["Status"] == "IN_PROGRESS"
        assert "Error" not in started
        early = await failed_call(client.get_backend_auth, **TARGET, ResourceName="auth")
        assert early.response["ResourceType"] == "BackendAuth"
        job = await wait_for_status(client, started["JobId"], "COMPLETED")
        assert before - 1 < float(job["CreateTime"]) <= time.time()
        assert float(job["UpdateTime"]) == pytest.approx(float(job["CreateTime"]) + 0.1, abs=0.002)
        details = await call(client.get_backend_auth, **TARGET, ResourceName="auth")
        assert details["ResourceName"] == "auth"
        config = details["ResourceConfig"]
        assert config["AuthResources"] == "IDENTITY_POOL_AND_USER_POOL"
        assert config["UserPoolConfigs"]["UserPoolName"] == "eu-west-1_Pool"
        assert config["IdentityPoolConfigs"]["IdentityPoolName"] == "eu-west-1:identity"


async def test_a_bucket_is_imported_beside_a_user_pool() -> None:
    async with SandboxServer(scripted(outcome="succeed", duration_seconds=0.1)) as sandbox:
        client = connect(sandbox)
        pool = await call(client.import_backend_auth, **IMPORT)
        pending = await failed_call(client.import_backend_storage, **BUCKET)
        assert "already a pending job" in pending.response["Error"]["Message"]
        await wait_for_status(client, pool["JobId"], "COMPLETED")

        started = await call(client.import_backend_storage, **BUCKET)
        assert started["Status"] == "IN_PROGRESS"
        early = await failed_call(client.get_backend_storage, **TARGET, ResourceName="bucket")
        assert early.response["ResourceType"] == "BackendStorage"
        job = await wait_for_status(client, started["JobId"], "COMPLETED")
        assert job["Operation"] == "ImportBackendStorage"
        details = await call(client.get_backend_storage, **TARGET, ResourceName="bucket")
        assert details["ResourceConfig"]["BucketName"] == "uploads"
        auth = await call(client.get_backend_auth, **TARGET, ResourceName="auth")
        assert auth["ResourceConfig"]["UserPoolConfigs"]["UserPoolName"] == "eu-west-1_Pool"


async def test_a_bucket_must_be_of_s3() -> None:
    async with SandboxServer(scripted()) as sandbox:
        refused = await failed_call(
            connect(sandbox).import_backend_storage, **{**BUCKET, "ServiceName": "Drive"}
        )
        assert "serviceName must be one of S3" in refused.response["Error"]["Message"]


async def test_without_an_identity_pool_only_the_user_pool_is_imported() -> None:
    async with SandboxServer(scripted(outcome="succeed", duration_seconds=0)) as sandbox:
        client = connect(sandbox)
        request = {name: value for name, value in IMPORT.items() if name != "IdentityPoolId"}
        await call(client.import_backend_auth, **request)
        details = await call(client.get_backend_auth, **TARGET, ResourceName="auth")
        assert details["ResourceConfig"]["AuthResources"] == "USER_POOL_ONLY"
        assert "IdentityPoolConfigs" not in details["ResourceConfig"]


async def test_every_modelled_output_member_is_served() -> None:
    """A job that fails at once after one that succeeded shows all members, including errors."""
    async with SandboxServer(scripted(outcome="succeed", duration_seconds=0)) as sandbox:
        client = connect(sandbox)
        model = client.meta.service_model
        await call(client.import_backend_auth, **IMPORT)
        sandbox.script(
            ScriptedTarget.model_validate(
                {"app_id": "d1", "environment": "prod", "outcome": "fail", "duration_seconds": 0}
            )
        )
        await call(client.import_backend_auth, **IMPORT)
        imported = await call(client.import_backend_auth, **IMPORT)
        answers = {
            "ImportBackendAuth": imported,
            "GetBackendJob": await call(client.get_backend_job, **TARGET, JobId=imported["JobId"]),
            "ListBackendJobs": await call(client.list_backend_jobs, **TARGET, MaxResults=2),
            "GetBackendAuth": await call(client.get_backend_auth, **TARGET, ResourceName="auth"),
        }
        sandbox.script(ScriptedTarget(app_id="d1", environment="prod", duration_seconds=0))
        answers["ImportBackendStorage"] = await call(client.import_backend_storage, **BUCKET)
        answers["GetBackendStorage"] = await call(
            client.get_backend_storage, **TARGET, ResourceName="bucket"
        )

        assert answers.keys() == RESULTS
        for name, answer in answers.items():
            shape = model.operation_model(name).output_shape
            assert list(missing_members(shape, answer, name)) == []


def test_the_check_for_missing_members_can_fail() -> None:
    model = botocore.session.get_session().get_service_model("amplifybackend")
    shape = model.operation_model("ListBackendJobs").output_shape
    partial = {"Jobs": [{"AppId": "d1"}]}
    assert "out.NextToken" in list(missing_members(shape, partial, "out"))
    assert "out.Jobs[].Status" in list(missing_members(shape, partial, "out"))


@pytest.mark.parametrize("place", ["header", "header-url", "code", "type"])
@pytest.mark.parametrize(
    ("names", "throttled", "timed_out"),
    [
        ("page", "LimitExceededException", "InternalServiceException"),
        ("botocore", "TooManyRequestsException", "GatewayTimeoutException"),
    ],
)
async def test_each_documented_error_has_its_status_and_name(
    names: str, throttled: str, timed_out: str, place: str
) -> None:
    fault = {"app_id": "d504", "faults": [{"kind": "error_504_before"}]}
    scenario = Scenario.model_validate(
        {
            "error_names": names,
            "error_code_in": place,
            "missing_app_prefixes": ["d0missing"],
            "targets": [{"app_id": "d400", "outcome": "reject"}, fault],
            "quota": {"starts": {"rate": 0.001, "burst": 3}, "limit_type": "IMPORTS"},
        }
    )
    async with SandboxServer(scenario) as sandbox:
        client = connect(sandbox)
        errors = [
            await failed_call(client.import_backend_auth, **{**IMPORT, "AppId": app_id})
            for app_id in ("d400", "d0missing1", "d504", "d429")
        ]

        seen = [
            (e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"])
            for e in errors
        ]
        assert seen == [
            (400, "BadRequestException"),
            (404, "NotFoundException"),
            (504, timed_out),
            (429, throttled),
        ]
        assert all(error.response["Error"]["Message"] for error in errors)
        assert errors[1].response["ResourceType"] == "App"


async def test_botocore_raises_its_own_exceptions_under_its_own_names() -> None:
    fault = {"app_id": "d504", "faults": [{"kind": "error_504_before"}]}
    scenario = Scenario.model_validate(
        {
            "error_names": "botocore",
            "targets": [fault],
            "quota": {"starts": {"rate": 0.001, "burst": 1}, "limit_type": "IMPORTS"},
        }
    )
    async with SandboxServer(scenario) as sandbox:
        client = connect(sandbox)
        with pytest.raises(client.exceptions.GatewayTimeoutException):
            await call(client.import_backend_auth, **{**IMPORT, "AppId": "d504"})
        with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
            await call(client.import_backend_auth, **IMPORT)
        assert caught.value.response["LimitType"] == "IMPORTS"
        with pytest.raises(client.exceptions.NotFoundException) as caught:
            await call(client.get_backend_job, **TARGET, JobId="none")
        assert caught.value.response["ResourceType"] == "Job"


@pytest.mark.parametrize(
    "settings", [{"error_names": "none"}, {"error_code_in": "nowhere"}], ids=["none", "nowhere"]
)
async def test_an_error_may_come_without_any_code(settings: dict[str, str]) -> None:
    quota = {"shared": {"rate": 0.001, "burst": 1}}
    scenario = Scenario.model_validate({**settings, "quota": quota})
    async with SandboxServer(scenario) as sandbox:
        client = connect(sandbox)
        await call(client.import_backend_auth, **IMPORT)
        error = await failed_call(client.list_backend_jobs, **TARGET)
        assert error.response["Error"]["Code"] == "429"


@pytest.mark.parametrize("code", ["BadRequestException", "ValidationException"])
async def test_a_second_import_on_a_target_is_refused_while_one_is_pending(code: str) -> None:
    scenario = Scenario.model_validate(
        {
            "pending_conflict_code": code,
            "targets": [{"app_id": "d1", "environment": "prod", "outcome": "never"}],
        }
    )
    async with SandboxServer(scenario) as sandbox:
        client = connect(sandbox)
        await call(client.import_backend_auth, **IMPORT)
        error = await failed_call(client.import_backend_auth, **IMPORT)
        assert error.response["Error"]["Code"] == code
        assert error.response["Error"]["Message"].startswith("There is already a pending job")
        await call(client.import_backend_auth, **{**IMPORT, "BackendEnvironmentName": "dev"})
        assert len(sandbox.ledger.jobs) == 2


async def test_a_job_may_fail_with_an_error() -> None:
    settings = {"outcome": "fail", "duration_seconds": 0.05}
    async with SandboxServer(scripted(**settings)) as sandbox:
        client = connect(sandbox)
        started = await call(client.import_backend_auth, **IMPORT)
        job = await wait_for_status(client, started["JobId"], "FAILED")
        assert job["Error"] == "The user pool could not be imported."


async def test_jobs_are_listed_newest_first_in_pages_and_by_filter() -> None:
    async with SandboxServer(scripted(outcome="succeed", duration_seconds=0)) as sandbox:
        client = connect(sandbox)
        created = [(await call(client.import_backend_auth, **IMPORT))["JobId"] for _ in range(5)]
        seen: list[str] = []
        token: dict[str, str] = {}
        while True:
            answer = await call(client.list_backend_jobs, **TARGET, MaxResults=2, **token)
            seen += [job["JobId"] for job in answer["Jobs"]]
            if "NextToken" not in answer:
                break
            token = {"NextToken": answer["NextToken"]}
            # A new job must neither repeat nor hide others.
            await call(client.import_backend_auth, **IMPORT)
        assert seen == created[::-1]

        async def listed(**filters: str) -> list[str]:
            answer = await call(client.list_backend_jobs, **TARGET, **filters)
            return [job["JobId"] for job in answer["Jobs"]]

        assert await listed(JobId=created[1]) == [created[1]]
        assert await listed(Status="FAILED") == []
        assert len(await listed(Status="COMPLETED", Operation="ImportBackendAuth")) == 7
        assert await listed(Operation="CreateBackendAuth") == []


@pytest.mark.parametrize(
    ("kind", "exception"),
    [
        ("reset_before", (ConnectionClosedError, EndpointConnectionError)),
        ("reset_after", (ConnectionClosedError, EndpointConnectionError)),
        ("hang", ReadTimeoutError),
    ],
)
async def test_a_broken_connection_is_raised_as_one(
    kind: str, exception: type[Exception] | tuple[type[Exception], ...]
) -> None:
    async with SandboxServer(scripted(faults=[{"kind": kind, "times": 1}])) as sandbox:
        client = connect(sandbox)
        with pytest.raises(exception):
            await call(client.import_backend_auth, **IMPORT)
        executed = 0 if kind == "reset_before" else 1
        assert len(sandbox.ledger.jobs) == executed


async def test_a_truncated_answer_parses_to_nothing() -> None:
    async with SandboxServer(scripted(faults=[{"kind": "truncated", "times": 1}])) as sandbox:
        answer = await call(connect(sandbox).import_backend_auth, **IMPORT)
        assert answer.keys() == {"ResponseMetadata"}
        assert len(sandbox.ledger.jobs) == 1


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        (Credentials.EXPIRED, "ExpiredTokenException"),
        (Credentials.DENIED, "AccessDeniedException"),
    ],
)
async def test_an_accounts_credentials_may_turn_bad_and_good_again(
    credentials: Credentials, code: str
) -> None:
    scenario = Scenario.model_validate({"accounts": {"acme": {"access_key_id": "AKIAACME"}}})
    async with SandboxServer(scenario) as sandbox:
        acme, other = connect(sandbox, "AKIAACME"), connect(sandbox, "AKIAOTHER")
        sandbox.set_credentials("acme", credentials)
        error = await failed_call(acme.list_backend_jobs, **TARGET)
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert error.response["Error"]["Code"] == code
        await call(other.list_backend_jobs, **TARGET)
        sandbox.set_credentials("acme", Credentials.OK)
        await call(acme.list_backend_jobs, **TARGET)
        assert [c.account for c in sandbox.ledger.calls] == ["acme", "AKIAOTHER", "acme"]
        assert {c.region for c in sandbox.ledger.calls} == {"eu-west-1"}


async def test_unknown_access_keys_may_be_refused() -> None:
    async with SandboxServer(Scenario(require_known_accounts=True)) as sandbox:
        error = await failed_call(connect(sandbox).list_backend_jobs, **TARGET)
        assert error.response["Error"]["Code"] == "UnrecognizedClientException"


async def test_dates_of_a_job_are_epoch_seconds_with_milliseconds() -> None:
    async with SandboxServer(scripted(duration_seconds=0)) as sandbox:
        client = connect(sandbox)
        job_id = (await call(client.import_backend_auth, **IMPORT))["JobId"]
        job = await call(client.get_backend_job, **TARGET, JobId=job_id)
        seconds, _, millis = job["CreateTime"].partition(".")
        assert len(millis) == 3
        created = datetime.fromtimestamp(int(seconds), tz=UTC)
        assert abs((datetime.now(tz=UTC) - created).total_seconds()) < 10
