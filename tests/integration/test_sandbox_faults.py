"""Each fault over plain HTTP: what the client sees, and what the ledger has recorded."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest

from worker.sandbox.ledger import Call
from worker.sandbox.loader import load_scenario
from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer

T = TypeVar("T")

BODY = {"userPoolId": "pool", "nativeClientId": "native", "webClientId": "web"}
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=AKIATEST/20250101/us-east-1/amplifybackend"
    f"/aws4_request, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
}
QUICK = {"hang_seconds": 0.1, "slow_seconds": 0.1, "lag_seconds": 0.1, "late_404_seconds": 0.1}


class Client:
    def __init__(self, http: aiohttp.ClientSession, url: str, target: str = "d1/prod") -> None:
        self._http = http
        self._url = url
        self._app_id, self._environment = target.split("/")

    async def start(self) -> tuple[int, str]:
        path = f"/backend/{self._app_id}/auth/{self._environment}/import"
        async with self._http.post(self._url + path, json=BODY, headers=SIGNED) as response:
            return response.status, await response.text()

    async def list_jobs(self, **body: Any) -> dict[str, Any]:
        path = f"/backend/{self._app_id}/job/{self._environment}"
        async with self._http.post(self._url + path, json=body, headers=SIGNED) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def get_job(self, job_id: str) -> tuple[int, dict[str, Any]]:
        path = f"/backend/{self._app_id}/job/{self._environment}/{job_id}"
        async with self._http.get(self._url + path, headers=SIGNED) as response:
            return response.status, await response.json()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def scripted(*faults: dict[str, Any], **settings: Any) -> Scenario:
    target = {"app_id": "d1", "duration_seconds": 0, "faults": faults}
    return Scenario.model_validate({"targets": [target], "fault_settings": QUICK, **settings})


async def wait_until(condition: Callable[[], bool], waited_for: str) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, f"waited for {waited_for}"
        await asyncio.sleep(0.005)


async def repeat_until(
    ask: Callable[[], Awaitable[T]], is_enough: Callable[[T], bool], waited_for: str
) -> None:
    deadline = time.monotonic() + 5
    while not is_enough(await ask()):
        assert time.monotonic() < deadline, f"waited for {waited_for}"
        await asyncio.sleep(0.01)


def last_call(sandbox: SandboxServer) -> Call:
    return sandbox.ledger.calls[-1]


@pytest.mark.parametrize(
    ("kind", "status", "jobs"),
    [
        ("error_504_before", 504, 0),
        ("error_504_after", 504, 1),
        ("error_500", 500, 0),
        ("html_502", 502, 0),
    ],
)
async def test_an_error_comes_before_or_after_the_job_was_started(
    http: aiohttp.ClientSession, kind: str, status: int, jobs: int
) -> None:
    async with SandboxServer(scripted({"kind": kind, "times": 1})) as sandbox:
        client = Client(http, sandbox.url)
        answered, text = await client.start()
        assert answered == status
        assert text.startswith("<html>") is (kind == "html_502")
        assert len(sandbox.ledger.jobs) == jobs
        call = last_call(sandbox)
        assert (call.status, call.fault) == (status, kind)
        assert (call.job_id is not None) is bool(jobs)
        assert (await client.start())[0] == 200
        assert last_call(sandbox).fault is None


@pytest.mark.parametrize(("kind", "jobs"), [("reset_before", 0), ("reset_after", 1), ("hang", 1)])
async def test_a_connection_breaks_before_or_after_the_job_was_started(
    http: aiohttp.ClientSession, kind: str, jobs: int
) -> None:
    async with SandboxServer(scripted({"kind": kind, "times": 1})) as sandbox:
        with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
            await Client(http, sandbox.url).start()
        assert len(sandbox.ledger.jobs) == jobs
        assert (last_call(sandbox).status, last_call(sandbox).fault) == (None, kind)
        await wait_until(
            lambda: sandbox.snapshot()["totals"] == {"ImportBackendAuth": {"none": 1}},
            "the call to be counted as unanswered",
        )


async def test_a_hanging_call_ends_when_its_client_gives_up(http: aiohttp.ClientSession) -> None:
    settings = scripted({"kind": "hang"}, fault_settings={"hang_seconds": 60})
    async with SandboxServer(settings) as sandbox:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Client(http, sandbox.url).start(), timeout=0.1)
        await wait_until(
            lambda: sandbox.snapshot()["totals"] == {"ImportBackendAuth": {"none": 1}},
            "the call to end",
        )
        assert len(sandbox.ledger.jobs) == 1


async def test_the_server_stops_although_calls_hang(http: aiohttp.ClientSession) -> None:
    settings = scripted({"kind": "hang"}, fault_settings={"hang_seconds": 60})
    async with SandboxServer(settings) as sandbox:
        client = Client(http, sandbox.url)
        hanging = asyncio.create_task(client.start())
        await wait_until(lambda: len(sandbox.ledger.jobs) == 1, "the call to be executed")
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 5
    with pytest.raises(aiohttp.ClientError):
        await hanging


async def test_a_truncated_answer_is_half_of_one(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "truncated"})) as sandbox:
        status, text = await Client(http, sandbox.url).start()
        assert status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        assert len(sandbox.ledger.jobs) == 1


async def test_an_answer_may_lack_the_job_id(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "no_job_id"})) as sandbox:
        status, text = await Client(http, sandbox.url).start()
        assert status == 200
        assert "jobId" not in json.loads(text)
        assert last_call(sandbox).job_id == sandbox.ledger.jobs[0].job_id


async def test_an_answer_may_be_slow(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "slow"})) as sandbox:
        started = time.monotonic()
        assert (await Client(http, sandbox.url).start())[0] == 200
        assert time.monotonic() - started >= 0.1


async def test_some_polls_show_an_undocumented_status(
    http: aiohttp.ClientSession,
) -> None:
    async with SandboxServer(scripted({"kind": "unknown_status", "times": 2})) as sandbox:
        client = Client(http, sandbox.url)
        job_id = json.loads((await client.start())[1])["jobId"]
        statuses = [(await client.get_job(job_id))[1]["status"] for _ in range(3)]
        assert statuses == ["VALIDATING", "VALIDATING", "COMPLETED"]


async def test_a_young_job_may_be_unknown_to_polls(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "late_404"})) as sandbox:
        client = Client(http, sandbox.url)
        job_id = json.loads((await client.start())[1])["jobId"]
        assert len((await client.list_jobs())["jobs"]) == 1
        status, answer = await client.get_job(job_id)
        assert (status, answer["resourceType"]) == (404, "Job")
        assert last_call(sandbox).fault == "late_404"
        await repeat_until(
            lambda: client.get_job(job_id), lambda answer: answer[0] == 200, "the job to be found"
        )
        assert last_call(sandbox).fault is None


async def test_a_young_job_may_be_missing_from_lists(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "lag"})) as sandbox:
        client = Client(http, sandbox.url)
        job_id = json.loads((await client.start())[1])["jobId"]
        assert (await client.get_job(job_id))[0] == 200
        assert (await client.list_jobs())["jobs"] == []
        assert last_call(sandbox).fault == "lag"
        await repeat_until(
            client.list_jobs, lambda answer: bool(answer["jobs"]), "the job to be listed"
        )
        assert last_call(sandbox).fault is None


async def test_empty_pages_may_come_first(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scripted({"kind": "empty_pages"})) as sandbox:
        client = Client(http, sandbox.url)
        await client.start()
        await client.start()
        sizes: list[int] = []
        token: dict[str, str] = {}
        while True:
            answer = await client.list_jobs(maxResults=1, **token)
            sizes.append(len(answer["jobs"]))
            if "nextToken" not in answer:
                break
            token = {"nextToken": answer["nextToken"]}
        assert sizes == [0, 0, 1, 1]


async def test_scripted_faults_come_in_their_order(http: aiohttp.ClientSession) -> None:
    faults = [{"kind": "error_504_before", "times": 2}, {"kind": "error_500", "times": 1}]
    async with SandboxServer(scripted(*faults)) as sandbox:
        client = Client(http, sandbox.url)
        assert [(await client.start())[0] for _ in range(4)] == [504, 504, 500, 200]
        other = Client(http, sandbox.url, "d1/dev")
        assert (await other.start())[0] == 504


async def test_a_refused_call_has_no_fault_of_a_success(http: aiohttp.ClientSession) -> None:
    target = {"app_id": "d1", "outcome": "reject", "faults": [{"kind": "no_job_id"}]}
    async with SandboxServer(Scenario.model_validate({"targets": [target]})) as sandbox:
        assert (await Client(http, sandbox.url).start())[0] == 400
        assert last_call(sandbox).fault is None


async def test_chance_is_the_same_in_every_order_of_calls(http: aiohttp.ClientSession) -> None:
    settings = Scenario.model_validate(
        {
            "seed": 5,
            "faults": {"ImportBackendAuth": {"error_500": 0.3, "error_504_before": 0.2}},
            "jobs": {"min_seconds": 0, "max_seconds": 0},
        }
    )
    targets = [f"d{number}/prod" for number in range(10)]

    async def run(order: list[str]) -> dict[str, list[int]]:
        seen: dict[str, list[int]] = {target: [] for target in targets}
        async with SandboxServer(settings) as sandbox:
            for target in order:
                seen[target].append((await Client(http, sandbox.url, target).start())[0])
        return seen

    in_rounds = await run(targets * 4)
    one_by_one = await run([target for target in targets for _ in range(4)])
    assert in_rounds == one_by_one
    assert {status for statuses in in_rounds.values() for status in statuses} == {200, 500, 504}


async def test_the_demo_fails_about_as_often_as_it_says(http: aiohttp.ClientSession) -> None:
    demo = load_scenario("demo")
    settings = demo.model_copy(update={"quota": Scenario().quota})
    async with SandboxServer(settings) as sandbox:
        clients = [Client(http, sandbox.url, f"d{number}/prod") for number in range(400)]
        statuses = [(await client.start())[0] for client in clients]
        assert 4 <= statuses.count(504) <= 22
        failing = sum(1 for job in sandbox.ledger.jobs if job.failure)
        assert 10 <= failing <= 32
        assert (await Client(http, sandbox.url, "d0missing1/prod").start())[0] == 404
