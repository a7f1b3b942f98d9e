"""Lists of jobs are read completely, however many pages they have."""

import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.support import ACCESS_KEY, members
from worker.domain.answers import Answer, Kind
from worker.domain.imports import Import
from worker.operations.aws import Aws
from worker.operations.import_backend_auth import ImportBackendAuth
from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer

TARGET = {"app_id": "d1", "backend_environment_name": "staging"}
ITEM = Import.from_fields(
    "i",
    {
        "state": "starting",
        "account": "default",
        "region": "us-east-1",
        **TARGET,
        "request_json": json.dumps(members("d1")),
    },
)


@pytest.fixture
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    aws = Aws(10.0, max_connections=10)
    yield aws
    await aws.close()


@pytest.mark.parametrize(
    ("jobs", "faults", "granted"),
    [
        (1, [], 0),
        (25, [], 0),
        (60, [], 2),
        (60, [{"kind": "empty_pages", "times": 1}], 4),
    ],
    ids=["one", "a full page", "three pages", "three pages behind empty ones"],
)
async def test_every_page_of_a_list_is_read_and_each_but_the_first_is_granted(
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
    faults: list[Mapping[str, Any]],
    granted: int,
) -> None:
    grants = []

    async def another() -> None:
        grants.append(1)

    target = {"app_id": "d1", "duration_seconds": 0, "faults": faults}
    async with SandboxServer(Scenario.model_validate({"targets": [target]})) as sandbox:
        monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", sandbox.url)
        operation = ImportBackendAuth(aws)
        started = [await operation.submit(ITEM, math.inf) for _ in range(jobs)]
        found: Answer = await operation.find(ITEM, another)
    assert found.kind is Kind.OK
    assert {job.job_id for job in found.jobs} == {answer.job.job_id for answer in started}
    assert len(grants) == granted
