"""The sandbox over plain HTTP: routes, request checks, quotas, and its control interface."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from worker.sandbox.scenario import Scenario
from worker.sandbox.server import SandboxServer

TARGET = "d1/prod"
IMPORT_PATH = "/backend/d1/auth/prod/import"
LIST_PATH = "/backend/d1/job/prod"
BODY = {"userPoolId": "pool", "nativeClientId": "native", "webClientId": "web"}


def signed(
    access_key_id: str = "AKIATEST", region: str = "us-east-1", service: str = "amplifybackend"
) -> dict[str, str]:
    scope = f"{access_key_id}/20250101/{region}/{service}/aws4_request"
    signature = "0" * 64
    return {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}"
    }


def signing_time(minutes: float) -> str:
    """Return the header of a request that is signed this many minutes from now."""
    return f"{datetime.now(UTC) + timedelta(minutes=minutes):%Y%m%dT%H%M%SZ}"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    http: aiohttp.ClientSession, url: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    async with http.post(url, data=data, headers=headers or signed()) as response:
        return response.status, await response.json(), dict(response.headers)


def scenario(**settings: Any) -> Scenario:
    return Scenario.model_validate(settings)


@pytest.mark.parametrize("prefix", ["", "/prod"])
async def test_every_route_is_served_with_and_without_prod(
    http: aiohttp.ClientSession, prefix: str
) -> None:
    async with SandboxServer(scenario(jobs={"min_seconds": 0, "max_seconds": 0})) as sandbox:
        base = sandbox.url + prefix
        status, started, headers = await post(http, base + IMPORT_PATH, BODY)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == "*"
        async with http.get(f"{base}{LIST_PATH}/{started['jobId']}", headers=signed()) as response:
            assert (await response.json())["status"].upper() == "COMPLETED"
        _, listed, _ = await post(http, base + LIST_PATH)
        assert [job["jobId"] for job in listed["jobs"]] == [started["jobId"]]
        details = {"resourceName": "auth"}
        status, answer, _ = await post(http, f"{base}/backend/d1/auth/prod/details", details)
        assert (status, answer["resourceName"]) == (200, "auth")


@pytest.mark.parametrize("prefix", ["", "/prod"])
async def test_options_enables_cors_without_a_signature(
    http: aiohttp.ClientSession, prefix: str
) -> None:
    async with (
        SandboxServer() as sandbox,
        http.options(sandbox.url + prefix + IMPORT_PATH) as response,
    ):
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"nativeClientId": "n", "webClientId": "w"}, "userPoolId"),
        ({"userPoolId": "p", "webClientId": "w"}, "nativeClientId"),
        ({"userPoolId": "p", "nativeClientId": "n"}, "webClientId"),
        ({**BODY, "identityPoolId": 7}, "identityPoolId"),
        ({**BODY, "webClientId": None}, "webClientId"),
        ({**BODY, "colour": "red"}, "colour"),
        (b"", "userPoolId"),
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "JSON object"),
    ],
)
async def test_a_malformed_import_is_refused_by_name(
    http: aiohttp.ClientSession, body: Any, names: str
) -> None:
    async with SandboxServer() as sandbox:
        status, answer, headers = await post(http, sandbox.url + IMPORT_PATH, body)
        assert status == 400
        assert names in answer["message"]
        assert headers["x-amzn-ErrorType"] == "BadRequestException"
        assert sandbox.ledger.jobs == []


@pytest.mark.parametrize(
    "body",
    [{"maxResults": 0}, {"maxResults": 26}, {"maxResults": True}, {"nextToken": "mine"}],
    ids=str,
)
async def test_a_malformed_listing_is_refused_by_name(
    http: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async with SandboxServer() as sandbox:
        status, answer, _ = await post(http, sandbox.url + LIST_PATH, body)
        assert status == 400
        assert next(iter(body)) in answer["message"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Accept": "*/*"}, "MissingAuthenticationTokenException"),
        ({"Authorization": "Basic abc"}, "MissingAuthenticationTokenException"),
        (signed(service="s3"), "InvalidSignatureException"),
    ],
)
async def test_an_unsigned_request_is_refused(
    http: aiohttp.ClientSession, headers: dict[str, str], code: str
) -> None:
    async with SandboxServer() as sandbox:
        status, _, answered = await post(http, sandbox.url + IMPORT_PATH, BODY, **headers)
        assert (status, answered["x-amzn-ErrorType"]) == (403, code)
        assert sandbox.ledger.jobs == []


@pytest.mark.parametrize(
    ("minutes", "code", "says"),
    [
        (-6, "InvalidSignatureException", "Signature expired: "),
        (6, "InvalidSignatureException", "Signature not yet current: "),
        (None, "IncompleteSignatureException", "ISO-8601"),
    ],
)
async def test_a_request_signed_at_another_time_is_refused(
    http: aiohttp.ClientSession, minutes: float | None, code: str, says: str
) -> None:
    async with SandboxServer() as sandbox:
        signed_at = "today" if minutes is None else signing_time(minutes)
        status, answer, answered = await post(
            http, sandbox.url + IMPORT_PATH, BODY, **signed(), **{"X-Amz-Date": signed_at}
        )
        assert (status, answered["x-amzn-ErrorType"]) == (403, code)
        assert says in answer["message"]
        assert sandbox.ledger.jobs == []


@pytest.mark.parametrize("minutes", [-4, 0, 4])
async def test_a_clock_may_be_off_by_some_minutes(
    http: aiohttp.ClientSession, minutes: float
) -> None:
    async with SandboxServer() as sandbox:
        when = {"X-Amz-Date": signing_time(minutes)}
        status, _, _ = await post(http, sandbox.url + IMPORT_PATH, BODY, **signed(), **when)
        assert status == 200


@pytest.mark.parametrize(
    ("path", "resource_type"),
    [
        ("/backend/d2/auth/prod/import", "App"),
        ("/backend/d0missing1/auth/prod/import", "App"),
        ("/backend/d1/auth/dev/import", "Environment"),
        ("/backend/dgone/auth/prod/import", "App"),
        ("/backend/dhalf/auth/prod/import", "Environment"),
    ],
)
async def test_a_missing_resource_is_named_by_its_type(
    http: aiohttp.ClientSession, path: str, resource_type: str
) -> None:
    settings = scenario(
        apps={"d1": ["prod"], "dany": [], "dgone": [], "dhalf": []},
        missing_app_prefixes=["d0missing"],
        targets=[
            {"app_id": "dgone", "outcome": "not_found"},
            {"app_id": "dhalf", "environment": "prod", "outcome": "not_found"},
        ],
    )
    async with SandboxServer(settings) as sandbox:
        status, answer, _ = await post(http, sandbox.url + path, BODY)
        assert (status, answer["resourceType"]) == (404, resource_type)
        for known in ("/backend/dany/auth/dev/import", "/backend/dhalf/auth/dev/import"):
            assert (await post(http, sandbox.url + known, BODY))[0] == 200


async def test_starts_and_reads_have_separate_buckets(http: aiohttp.ClientSession) -> None:
    quota = {"starts": {"rate": 0.001, "burst": 1}, "reads": {"rate": 0.001, "burst": 2}}
    async with SandboxServer(scenario(quota=quota)) as sandbox:
        starts = [(await post(http, sandbox.url + IMPORT_PATH, BODY))[0] for _ in range(2)]
        reads = [(await post(http, sandbox.url + LIST_PATH))[0] for _ in range(3)]
        assert starts == [200, 429]
        assert reads == [200, 200, 429]


async def test_a_shared_bucket_pays_for_both_and_each_lane_has_its_own(
    http: aiohttp.ClientSession,
) -> None:
    quota = {"shared": {"rate": 0.001, "burst": 1}, "limit_type": "CALLS"}
    generous = {"access_key_id": "AKIARICH", "quota": {}}
    async with SandboxServer(scenario(quota=quota, accounts={"rich": generous})) as sandbox:
        url = sandbox.url + LIST_PATH
        assert (await post(http, sandbox.url + IMPORT_PATH, BODY))[0] == 200
        status, answer, _ = await post(http, url)
        assert (status, answer["limitType"]) == (429, "CALLS")
        assert (await post(http, url, **signed(region="eu-west-1")))[0] == 200
        assert (await post(http, url, **signed("AKIAOTHER")))[0] == 200
        rich = [(await post(http, url, **signed("AKIARICH")))[0] for _ in range(5)]
        assert rich == [200] * 5


@pytest.mark.parametrize("style", ["none", "seconds", "fraction", "date"])
async def test_retry_after_comes_in_every_style(http: aiohttp.ClientSession, style: str) -> None:
    quota = {"reads": {"rate": 0.2, "burst": 1}, "retry_after": style}
    async with SandboxServer(scenario(quota=quota)) as sandbox:
        await post(http, sandbox.url + LIST_PATH)
        status, _, headers = await post(http, sandbox.url + LIST_PATH)
        assert status == 429
        value = headers.get("Retry-After")
        if style == "none":
            assert value is None
            return
        assert value is not None
        if style == "seconds":
            assert value == "5"
        elif style == "fraction":
            assert 4 < float(value) <= 5
            assert "." in value
        else:
            wait_seconds = parsedate_to_datetime(value).timestamp() - time.time()
            assert 4 < wait_seconds <= 6


async def test_unfinished_jobs_are_limited_per_lane(http: aiohttp.ClientSession) -> None:
    settings = scenario(
        quota={"max_running": 1},
        targets=[{"app_id": "dlong", "outcome": "never"}],
        jobs={"min_seconds": 0, "max_seconds": 0},
    )
    async with SandboxServer(settings) as sandbox:
        assert (await post(http, sandbox.url + IMPORT_PATH, BODY))[0] == 200
        long = sandbox.url + "/backend/dlong/auth/prod/import"
        assert (await post(http, long, BODY))[0] == 200
        status, answer, _ = await post(http, sandbox.url + IMPORT_PATH, BODY)
        assert (status, answer["limitType"]) == (429, "CONCURRENT_JOBS")
        elsewhere = signed(region="eu-west-1")
        assert (await post(http, sandbox.url + IMPORT_PATH, BODY, **elsewhere))[0] == 200


async def test_the_ledger_shows_calls_jobs_totals_and_peaks(http: aiohttp.ClientSession) -> None:
    slow = {"app_id": "dslow", "faults": [{"kind": "slow"}]}
    settings = scenario(
        targets=[slow, {"app_id": "d1", "outcome": "fail", "duration_seconds": 0}],
        fault_settings={"slow_seconds": 0.1},
    )
    async with SandboxServer(settings) as sandbox:
        urls = [f"{sandbox.url}/backend/dslow/auth/e{n}/import" for n in range(3)]
        await asyncio.gather(*(post(http, url, BODY) for url in urls))
        _, started, _ = await post(http, sandbox.url + IMPORT_PATH, BODY)
        await post(http, sandbox.url + IMPORT_PATH, {})
        async with http.get(f"{sandbox.url}/sandbox/ledger") as response:
            everything = await response.json()
        async with http.get(f"{sandbox.url}/sandbox/ledger?target={TARGET}") as response:
            of_target = await response.json()

        assert everything["totals"] == {"ImportBackendAuth": {"200": 4, "400": 1}}
        assert everything["max_concurrent"] == {"AKIATEST/us-east-1/starts": 3}
        assert len(everything["calls"]) == 5
        assert len(everything["jobs"]) == 4
        assert [call["seq"] for call in everything["calls"]] == [1, 2, 3, 4, 5]
        assert [call["fault"] for call in everything["calls"][:3]] == ["slow"] * 3
        assert [(c["status"], c["jobId"]) for c in of_target["calls"]] == [
            (200, started["jobId"]),
            (400, None),
        ]
        [job] = of_target["jobs"]
        assert job["request"] == BODY
        assert job["finished"] == job["created"]
        assert (job["status"], job["account"], job["region"], job["target"]) == (
            "FAILED",
            "AKIATEST",
            "us-east-1",
            TARGET,
        )
        assert sandbox.snapshot(TARGET)["jobs"] == [job]


async def test_the_ledger_drops_old_calls_and_says_so(http: aiohttp.ClientSession) -> None:
    async with SandboxServer(scenario(ledger_calls=2)) as sandbox:
        for _ in range(5):
            await post(http, sandbox.url + LIST_PATH)
        snapshot = sandbox.snapshot()
        assert [call["seq"] for call in snapshot["calls"]] == [4, 5]
        assert snapshot["dropped_calls"] == 3
        assert snapshot["totals"] == {"ListBackendJobs": {"200": 5}}


async def test_a_reset_empties_the_ledger_and_may_change_the_scenario(
    http: aiohttp.ClientSession,
) -> None:
    async with SandboxServer() as sandbox:
        await post(http, sandbox.url + IMPORT_PATH, BODY)
        health = {"status": "ok", "calls": 1, "jobs": 1}
        async with http.get(f"{sandbox.url}/sandbox/health") as response:
            assert await response.json() == health
        reset = f"{sandbox.url}/sandbox/reset"
        async with http.post(reset) as response:
            assert response.status == 200
        assert sandbox.snapshot()["calls"] == []
        async with http.post(reset, json={"missing_app_prefixes": ["d1"]}) as response:
            assert response.status == 200
        assert (await post(http, sandbox.url + IMPORT_PATH, BODY))[0] == 404
        async with http.post(reset, json={"quota": {"starts": {"rate": 0}}}) as response:
            assert response.status == 400
            assert "quota.starts.rate" in (await response.json())["message"]


async def test_targets_and_accounts_are_changed_live(http: aiohttp.ClientSession) -> None:
    async with SandboxServer() as sandbox:
        script = {"app_id": "d1", "environment": "prod", "outcome": "reject"}
        async with http.post(f"{sandbox.url}/sandbox/targets", json=script) as response:
            assert response.status == 200
        assert (await post(http, sandbox.url + IMPORT_PATH, BODY))[0] == 400
        account = f"{sandbox.url}/sandbox/accounts/AKIATEST"
        async with http.post(account, json={"credentials": "expired"}) as response:
            assert response.status == 200
        assert (await post(http, sandbox.url + LIST_PATH))[0] == 403
        async with http.post(account, json={"credentials": "lost"}) as response:
            assert response.status == 400
            assert "credentials" in (await response.json())["message"]
        async with http.post(f"{sandbox.url}/sandbox/targets", data=b"{") as response:
            assert response.status == 400
