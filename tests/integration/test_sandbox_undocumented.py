"""Each undocumented fact of AWS is a setting of the sandbox, and its effect is seen over HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from worker.operations.times import read_time
from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer
from worker.sandbox.undocumented import DRAWN_TIMES, OPERATIONS, TimeStyle, Undocumented

SCOPE = "AKIATEST/20250101/us-east-1/amplifybackend/aws4_request"
SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host, Signature="
    + "0" * 64
}
BODY = {"userPoolId": "pool", "nativeClientId": "native", "webClientId": "web"}


class Client:
    """The calls of one target."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url

    async def start(self) -> dict[str, Any]:
        return await self._ask("POST", "/backend/d1/auth/prod/import", BODY)

    async def job(self, job_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/backend/d1/job/prod/{job_id}")

    async def jobs(self, **filters: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await self._ask("POST", "/backend/d1/job/prod", filters))[
            "jobs"
        ]
        return listed

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        async with self._http.request(method, self._url + path, data=data, headers=SIGNED) as reply:
            return {"httpStatus": reply.status, **await reply.json()}


Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(seconds: float = 0.0, **facts: Any) -> Client:
            jobs = {"min_seconds": seconds, "max_seconds": seconds}
            scenario = Scenario.model_validate({"jobs": jobs, "undocumented": facts})
            sandbox = await stack.enter_async_context(SandboxServer(scenario))
            return Client(http, sandbox.url)

        yield start


async def test_names_and_statuses_come_from_the_scenario(serve: Serve) -> None:
    client = await serve(
        seconds=0.2, operation="A", list_operation="B", under_way="busy", completed="done"
    )
    started = await client.start()
    assert (started["operation"], started["status"]) == ("A", "busy")
    await asyncio.sleep(0.3)
    job = await client.job(started["jobId"])
    (listed,) = await client.jobs()
    assert (job["operation"], job["status"]) == ("A", "done")
    assert (listed["operation"], listed["status"]) == ("B", "done")


def test_names_and_statuses_that_are_not_given_depend_on_the_seed() -> None:
    drawn = [Undocumented().drawn(seed) for seed in range(200)]
    assert {facts.operation for facts in drawn} == set(OPERATIONS)
    assert {facts.times for facts in drawn} == set(DRAWN_TIMES)
    assert {facts.completed for facts in drawn} == {"COMPLETED", "Completed", "completed"}
    assert Undocumented().drawn(7) == drawn[7]
    assert Undocumented(operation="mine").drawn(7).operation == "mine"


@pytest.mark.parametrize("style", [style for style in TimeStyle if style is not TimeStyle.ABSENT])
async def test_times_are_written_in_the_style_of_the_scenario(
    serve: Serve, style: TimeStyle
) -> None:
    client = await serve(times=style)
    job = await client.job((await client.start())["jobId"])
    reading = read_time(job["createTime"])
    assert reading is not None
    assert abs(reading.seconds - time.time()) <= reading.within + 5


async def test_times_may_be_absent(serve: Serve) -> None:
    client = await serve(times="absent")
    await client.start()
    (job,) = await client.jobs()
    assert job.keys().isdisjoint({"createTime", "updateTime"})


@pytest.mark.parametrize(
    ("match", "found"), [("name", [1, 0]), ("nothing", [0, 0]), ("everything", [1, 1])]
)
async def test_a_filter_matches_what_the_scenario_says(
    serve: Serve, match: str, found: list[int]
) -> None:
    client = await serve(operation_filter=match, list_operation="X")
    await client.start()
    assert [len(await client.jobs(operation=name)) for name in ("X", "Y")] == found
    assert len(await client.jobs()) == 1


async def test_the_order_of_a_list_is_that_of_the_scenario(serve: Serve) -> None:
    orders = {}
    for order in ("newest", "oldest", "shuffled"):
        client = await serve(list_order=order)
        started = [(await client.start())["jobId"] for _ in range(8)]
        orders[order] = [started.index(job["jobId"]) for job in await client.jobs()]
    assert orders["newest"] == list(range(8))[::-1]
    assert orders["oldest"] == list(range(8))
    assert sorted(orders["shuffled"]) == list(range(8))


async def test_finished_jobs_may_be_hidden_or_forgotten(serve: Serve) -> None:
    hiding = await serve(lists_finished=False)
    started = await hiding.start()
    assert await hiding.jobs() == []
    assert (await hiding.job(started["jobId"]))["httpStatus"] == 200

    forgetting = await serve(list_memory_seconds=0.1, job_memory_seconds=0.1)
    started = await forgetting.start()
    assert len(await forgetting.jobs()) == 1
    await asyncio.sleep(0.2)
    assert await forgetting.jobs() == []
    assert (await forgetting.job(started["jobId"]))["httpStatus"] == 404


@pytest.mark.parametrize(("blocks", "status"), [(True, 400), (False, 200)])
async def test_jobs_of_another_kind_may_block_a_start(
    serve: Serve, *, blocks: bool, status: int
) -> None:
    client = await serve(
        other_jobs=1, others_running=1, others_block=blocks, other_operation="Z", under_way="busy",
        completed="done", pending_message="{target} is not free",
    )  # fmt: skip
    started = await client.start()
    assert started["httpStatus"] == status
    others = [job["status"] for job in await client.jobs() if job["operation"] == "Z"]
    assert sorted(others) == ["busy", "done"]
    if blocks:
        assert started["message"] == "d1/prod is not free"
