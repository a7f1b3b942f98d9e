"""Preflight checks against moto's Cognito: the rules, the calls they take, and files of rows."""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import CommandLine, members
from tests.support.cognito import BROKEN, DENIED, REGION, THROTTLED, CognitoServer
from tests.support.command_line import Done
from worker.domain.preflight import Checked, Place
from worker.operations import cognito as module
from worker.operations.aws import Aws
from worker.operations.registry import OPERATIONS

HERE = Place("default", REGION)
OAUTH: dict[str, Any] = {
    "SupportedIdentityProviders": ["COGNITO"],
    "CallbackURLs": ["https://a.example.com/", "https://b.example.com/"],
    "LogoutURLs": ["https://a.example.com/out"],
    "AllowedOAuthFlows": ["code"],
    "AllowedOAuthScopes": ["openid", "email"],
    "AllowedOAuthFlowsUserPoolClient": True,
}

Names = dict[str, str]
Check = Callable[[Mapping[str, str]], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[CognitoServer]:
    with CognitoServer() as cognito:
        yield cognito


@pytest.fixture
def cognito(server: CognitoServer, monkeypatch: pytest.MonkeyPatch) -> CognitoServer:
    """The services, which this process uses, too."""
    server.forget_calls()
    for name, value in {
        **server.environment,
        "AWS_ACCESS_KEY_ID": "AKIATESTDEFAULT00000",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "BACK_OFF_SECONDS", 0.01)
    return server


@pytest.fixture
async def check(cognito: CognitoServer) -> AsyncIterator[Check]:  # noqa: ARG001 - it is asked
    """Check names with one process's cache."""
    aws = Aws(timeout_seconds=10, max_connections=4)
    remote = OPERATIONS.bind(aws)

    async def run(names: Mapping[str, str]) -> Checked:
        return await remote.preflight("ImportBackendAuth", names, HERE)

    yield run
    await aws.close()


def with_identity_pool(cognito: CognitoServer, named: Names, *listed: str, **more: Any) -> Names:
    clients = [named[member] for member in listed]
    return {**named, "identityPoolId": cognito.identity_pool(named["userPoolId"], *clients, **more)}


def shown(checked: Checked, named: Names) -> list[str]:
    """Return the findings with the members' names in place of their values."""
    assert checked.unchecked == ""
    lines = [f"{finding.severity} {finding}" for finding in checked.findings]
    for member, value in named.items():
        lines = [line.replace(value, f"<{member}>") for line in lines]
    return lines


async def test_what_amplify_accepts_passes(cognito: CognitoServer, check: Check) -> None:
    plain = cognito.names(native={"secret": True})
    reordered = {**OAUTH, "CallbackURLs": OAUTH["CallbackURLs"][::-1]}
    oauth = cognito.names(OAUTH, {**reordered, "secret": True})
    for named in (
        plain,
        cognito.names(),  # since 2021, a native client needs no secret
        oauth,
        with_identity_pool(cognito, plain, "webClientId", "nativeClientId"),
    ):
        assert shown(await check(named), named) == []


async def test_what_does_not_exist_is_an_error(cognito: CognitoServer, check: Check) -> None:
    named = cognito.names()
    for member, value, expected in (
        (
            "userPoolId",
            "us-east-1_Missing00",
            "there is no user pool <userPoolId> in default/us-east-1; check the id and the account",
        ),
        (
            "userPoolId",
            "eu-west-1_Missing00",
            (
                "there is no user pool <userPoolId> in default/us-east-1; its id names the region"
                " eu-west-1, in which its app must be, too"
            ),
        ),
        ("webClientId", "missing", "user pool <userPoolId> has no app client <webClientId>"),
        ("nativeClientId", "missing", "user pool <userPoolId> has no app client <nativeClientId>"),
        (
            "identityPoolId",
            "us-east-1:0a1b2c3d-0123-4567-89ab-0123456789ab",
            "there is no identity pool <identityPoolId> in default/us-east-1",
        ),
    ):
        wrong = {**named, member: value}
        assert shown(await check(wrong), wrong) == [f"error {member}: {expected}"]


async def test_app_clients_follow_the_rules(cognito: CognitoServer, check: Check) -> None:
    secret = cognito.names(web={"secret": True})
    assert shown(await check(secret), secret) == [
        (
            "error webClientId: app client <webClientId> has a secret, which no web app can keep;"
            " name a client without one"
        )
    ]
    once = cognito.names()
    once["nativeClientId"] = once["webClientId"]
    assert shown(await check(once), {"webClientId": once["webClientId"]}) == [
        (
            "warning nativeClientId: app client <webClientId> is also the webClientId; a client for"
            " each is better"
        )
    ]
    for setting, other in {
        "SupportedIdentityProviders": [],
        "CallbackURLs": ["https://a.example.com/"],
        "LogoutURLs": ["https://b.example.com/out"],
        "AllowedOAuthFlows": ["implicit"],
        "AllowedOAuthScopes": ["openid"],
        "AllowedOAuthFlowsUserPoolClient": False,
    }.items():
        differ = cognito.names(OAUTH, {**OAUTH, setting: other})
        assert shown(await check(differ), differ) == [
            (
                f"error nativeClientId: app clients <webClientId> and <nativeClientId> differ in"
                f" {setting}; give both the same OAuth settings"
            )
        ]
    unused = cognito.names({"CallbackURLs": ["https://a.example.com/"]})
    (found,) = shown(await check(unused), unused)
    assert found.startswith("warning nativeClientId: app clients ")


async def test_identity_pools_follow_the_rules(cognito: CognitoServer, check: Check) -> None:
    named = cognito.names()
    for listed, lacking in (
        ((), "<webClientId> and <nativeClientId>"),
        (("webClientId",), "<nativeClientId>"),
        (("nativeClientId",), "<webClientId>"),
    ):
        wrong = with_identity_pool(cognito, named, *listed)
        assert shown(await check(wrong), wrong) == [
            (
                f"error identityPoolId: identity pool <identityPoolId> does not list {lacking} of"
                " user pool <userPoolId> as identity providers; add what is missing"
            )
        ]
    both = ("webClientId", "nativeClientId")
    for roles, missing in (
        ((), "authenticated and no unauthenticated"),
        (("authenticated",), "unauthenticated"),
        (("unauthenticated",), "authenticated"),
    ):
        wrong = with_identity_pool(cognito, named, *both, roles=roles)
        assert shown(await check(wrong), wrong) == [
            (
                f"error identityPoolId: identity pool <identityPoolId> has no {missing} role; set"
                " both roles"
            )
        ]
    other = cognito.names()
    foreign = {
        **other,
        "identityPoolId": with_identity_pool(cognito, named, *both)["identityPoolId"],
    }
    assert "does not list <webClientId> and" in shown(await check(foreign), foreign)[0]


async def test_each_description_is_asked_for_once(cognito: CognitoServer, check: Check) -> None:
    named = with_identity_pool(cognito, cognito.names(), "webClientId", "nativeClientId")
    cognito.forget_calls()
    for _ in range(3):
        assert (await check(named)).findings == ()
    assert cognito.calls == {
        "DescribeUserPool": 1,
        "DescribeUserPoolClient": 2,
        "DescribeIdentityPool": 1,
        "GetIdentityPoolRoles": 1,
    }


async def test_throttling_and_failures_are_waited_for(cognito: CognitoServer, check: Check) -> None:
    named = cognito.names()
    cognito.refusals = {"DescribeUserPool": THROTTLED, "DescribeUserPoolClient": BROKEN}
    cognito.times = {"DescribeUserPool": 6, "DescribeUserPoolClient": 2}
    assert shown(await check(named), named) == []
    assert cognito.calls["DescribeUserPool"] == 7


async def test_an_outage_is_no_finding(cognito: CognitoServer, check: Check) -> None:
    cognito.refusals = {"DescribeUserPool": BROKEN}
    failed = [await check(cognito.names()) for _ in range(2)]
    assert [checked.findings for checked in failed] == [(), ()]
    assert failed[0].unchecked == failed[1].unchecked
    assert failed[0].unchecked.startswith(
        "default/us-east-1: cognito-idp:DescribeUserPool: HTTP 500"
    )
    assert cognito.calls["DescribeUserPool"] == module.ATTEMPTS


async def test_what_was_found_before_a_refusal_counts(cognito: CognitoServer, check: Check) -> None:
    named = with_identity_pool(cognito, cognito.names(web={"secret": True}))
    cognito.refusals = {"DescribeIdentityPool": DENIED}
    checked = await check(named)
    assert [finding.member for finding in checked.findings] == ["webClientId"]
    assert "cognito-identity:DescribeIdentityPool" in checked.unchecked


@pytest.fixture
def submit(command: CommandLine, server: CognitoServer, tmp_path: Path) -> Callable[..., Done]:
    """Run `submit` on a file of these rows."""
    server.forget_calls()
    file = tmp_path / "apps.jsonl"

    def run(rows: list[dict[str, Any]], *options: str, **settings: str) -> Done:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return command("submit", file, *options, **server.environment, **settings)

    return run


def rows_of(number: int, named: Names, prefix: str = "d", **more: str) -> list[dict[str, Any]]:
    return [{**members(f"{prefix}{n}"), **named, **more} for n in range(number)]


def test_a_file_is_refused_with_each_cause_once(
    server: CognitoServer, submit: Callable[..., Done]
) -> None:
    good, gone = server.names(), {**server.names(), "userPoolId": "us-east-1_Missing00"}
    once = {**good, "nativeClientId": good["webClientId"]}
    rows = [*rows_of(3000, gone), *rows_of(2, good, "dg"), *rows_of(2, once, "dw")]
    done = submit(rows, "--preflight")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Preflight: 3,004 rows were checked.",
        (
            f"warning: lines 3003, 3004: nativeClientId: app client {good['webClientId']} is also"
            " the webClientId; a client for each is better"
        ),
        (
            "lines 1, 2, 3, 4, 5 and 2,995 more: userPoolId: there is no user pool"
            " us-east-1_Missing00 in default/us-east-1; check the id and the account"
        ),
        "Error: Nothing was submitted: 3,000 rows bad (--skip-invalid submits the others).",
    ]
    assert server.calls["DescribeUserPool"] == 2
    done = submit(rows, "--preflight", "--skip-invalid", "--json")
    sent = json.loads(done.stdout)
    assert (done.returncode, sent["submitted"], sent["skipped"]) == (0, 4, 3000)
    assert sent["problems"][0]["member"] == "userPoolId"
    assert [warning["line"] for warning in sent["warnings"]] == [3003, 3004]


def test_a_file_with_other_problems_costs_no_call(
    server: CognitoServer, submit: Callable[..., Done]
) -> None:
    rows = [*rows_of(1, server.names()), {"appId": "d2"}]
    server.forget_calls()
    assert submit(rows, "--preflight").returncode == 2
    assert submit(rows[:1]).returncode == 0
    assert server.calls == {}


def test_a_missing_permission_is_said_once_for_each_account_and_region(
    server: CognitoServer, submit: Callable[..., Done], tmp_path: Path
) -> None:
    config = tmp_path / "config"
    keys = "aws_access_key_id = AKIAACME\naws_secret_access_key = not-a-secret\n"
    config.write_text(f"[profile acme]\n{keys}")
    rows = [
        *rows_of(2, server.names()),
        *rows_of(2, server.names(), "da", account="acme"),
        *rows_of(1, server.names(), "db", account="acme", region="eu-west-1"),
    ]
    server.forget_calls()
    server.refusals = {"DescribeUserPool": DENIED}
    settings = {"AWS_CONFIG_FILE": str(config)}
    done = submit(rows, "--preflight", **settings)
    assert done.returncode == 0
    denied = "cognito-idp:DescribeUserPool: HTTP 400 AccessDeniedException: not authorized"
    assert [line.split(" to perform")[0] for line in done.stderr.splitlines()] == [
        "Preflight: 0 rows were checked.",
        f"warning: lines 1, 2: row: was not checked: default/us-east-1: {denied}",
        f"warning: lines 3, 4: row: was not checked: acme/us-east-1: {denied}",
        f"warning: line 5: row: was not checked: acme/eu-west-1: {denied}",
    ]
    assert server.callers["AKIAACME"] == 2
    done = submit(rows, "--require-preflight", **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert "5 rows bad (no row is valid)" in done.stderr


def test_run_checks_a_file_too_but_not_against_the_sandbox(
    server: CognitoServer, command: CommandLine, tmp_path: Path
) -> None:
    server.forget_calls()
    file = tmp_path / "apps.jsonl"
    file.write_text(json.dumps({**members("d1"), "userPoolId": "us-east-1_Missing00"}))
    state = tmp_path / "state"
    arguments = ("run", file, "--state-dir", state, "--preflight")
    done = command(*arguments, **server.environment)
    assert done.returncode == 2
    assert "line 1: userPoolId: there is no user pool us-east-1_Missing00" in done.stderr
    assert not state.exists()
    assert command(*arguments, "--sandbox").returncode == 2
