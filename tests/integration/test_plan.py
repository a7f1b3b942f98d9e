"""`plan` lists app environments of the simulated API as a batch file."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ACCESS_KEY, CommandLine, Sandbox, wait_until
from tests.support.command_line import Done
from worker.cli.batchfile import read_batch
from worker.operations.aws import Aws
from worker.sandbox.scenario import Credentials, Scenario

POOL = "us-east-1_AbCdEf123,web1,native1"
APPS = {"d1shop": ("dev", "prod"), "d2blog": ("prod",), "d3empty": ()}

Plan = Callable[..., Done]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "apps.csv"


@pytest.fixture
def plan(sandbox: Sandbox, command: CommandLine, file: Path) -> Plan:
    """The command, writing `file` unless an argument names another one."""
    sandbox.reset(Scenario(apps=APPS))

    def run(*arguments: str | Path) -> Done:
        output = () if "-o" in arguments else ("-o", file)
        return command(
            "plan",
            *arguments,
            *output,
            AWS_ENDPOINT_URL_AMPLIFY=sandbox.url,
            AWS_ENDPOINT_URL_AMPLIFYBACKEND=sandbox.url,
        )

    return run


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def targets(file: Path) -> list[str]:
    return [f"{row['appId']}/{row['backendEnvironmentName']}" for row in rows(file)]


def test_every_environment_is_a_row_without_a_pool(plan: Plan, file: Path) -> None:
    done = plan()
    assert (done.returncode, done.stdout) == (0, "")
    assert "3 environments of 3 apps: 3 rows, 3 of them without a complete pool." in done.stderr
    assert targets(file) == ["d1shop/dev", "d1shop/prod", "d2blog/prod"]
    assert rows(file)[0]["metadata.appName"] == "app-d1shop"
    problems = {str(problem) for problem in read_batch(file).problems}
    assert "line 2: userPoolId: is required" in problems


def test_pools_are_filled_in_by_the_first_line_that_fits(
    plan: Plan, file: Path, tmp_path: Path
) -> None:
    pools = tmp_path / "pools.csv"
    pools.write_text(
        "App Name,backendEnvironmentName,userPoolId,webClientId,nativeClientId\n"
        f"app-d1*,dev,{POOL}\n"
        f"app-d1*,,{POOL.replace('AbC', 'Other')}\n"
        f"app-d9*,,{POOL}\n"
    )
    done = plan("--pools", pools)
    assert done.returncode == 0
    assert "These lines of --pools fit no environment: 4." in done.stderr
    found = [row["userPoolId"] for row in rows(file)]
    assert found == ["us-east-1_AbCdEf123", "us-east-1_OtherdEf123", ""]

    again = plan("--pools", file, "-o", tmp_path / "again.csv")
    assert again.returncode == 0
    assert (tmp_path / "again.csv").read_text() == file.read_text()


def test_a_pool_that_no_request_may_have_is_named(plan: Plan, file: Path, tmp_path: Path) -> None:
    pools = tmp_path / "pools.csv"
    pools.write_text("appId,userPoolId,webClientId,nativeClientId\nd2blog,no pool,web1,native1\n")
    done = plan("--pools", pools)
    assert done.returncode == 1
    assert "d2blog/prod: userPoolId: must look like" in done.stderr
    assert len(rows(file)) == 3


async def test_environments_with_an_imported_pool_are_left_out(
    plan: Plan, file: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox.reset(
        Scenario.model_validate({"apps": APPS, "jobs": {"max_seconds": 0, "min_seconds": 0}})
    )
    await import_pool(sandbox, "d2blog", "prod", monkeypatch)
    done = plan("--json")
    assert targets(file) == ["d1shop/dev", "d1shop/prod"]
    assert (
        "1 were left out, because they have authentication (1 imported, 0 managed)" in done.stderr
    )
    assert json.loads(done.stdout)["authentication"]["imported"] == 1
    plan("--all", "-o", tmp_path / "all.csv")
    assert len(rows(tmp_path / "all.csv")) == 3


async def import_pool(
    sandbox: Sandbox, app: str, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_AMPLIFYBACKEND", sandbox.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    aws = Aws(timeout_seconds=30, max_connections=1)
    members = {
        "AppId": app,
        "BackendEnvironmentName": environment,
        "UserPoolId": "us-east-1_A",
        "WebClientId": "w",
        "NativeClientId": "n",
    }
    response = await aws.call("default", "us-east-1", "import_backend_auth", members)
    await aws.close()
    assert response.status == 200
    wait_until(lambda: sandbox.jobs(app), "the job exists")


def test_lists_of_several_pages_are_read_to_their_end(
    plan: Plan, file: Path, sandbox: Sandbox
) -> None:
    sandbox.reset(Scenario(apps={f"d{n:03}": ("prod",) for n in range(201)}))
    assert plan().returncode == 0
    assert targets(file) == [f"d{n:03}/prod" for n in range(201)]


def test_a_file_is_replaced_only_if_asked(plan: Plan, file: Path) -> None:
    file.write_text("filled in")
    refused = plan()
    assert refused.returncode == 2
    assert "somebody may have filled in its pools" in refused.stderr
    assert file.read_text() == "filled in"
    assert plan("--replace").returncode == 0
    assert len(rows(file)) == 3


def test_an_account_that_may_not_list_is_named_and_the_others_are_listed(
    plan: Plan, file: Path, sandbox: Sandbox
) -> None:
    sandbox.set_credentials(ACCESS_KEY, Credentials.DENIED)
    done = plan("--region", "us-east-1", "--region", "eu-west-1")
    assert done.returncode == 1
    for region in ("us-east-1", "eu-west-1"):
        assert f"default/{region}: list_apps: " in done.stderr
    assert "AccessDeniedException" in done.stderr
    assert rows(file) == []


def test_an_unknown_profile_is_named(plan: Plan) -> None:
    done = plan("--account", "nobody", "--region", "us-east-1")
    assert done.returncode == 1
    assert "nobody/us-east-1: The config profile (nobody) could not be found" in done.stderr
