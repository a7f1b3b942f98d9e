"""`next-steps` writes a script for the AWS CLI, and the script does what it says."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import CommandLine, members, recording
from tests.support.stores import MakeStore
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS

AWS = """\
#!/usr/bin/env bash
# Notes its arguments, one JSON array for each call, and answers as the AWS CLI does.
jq -cn '$ARGS.positional' --args -- "$@" >> "$CALLS"
case "$2 $*" in
  *broken*) echo "An error occurred (NotFoundException)" >&2; exit 254 ;;
  list-branches*) echo "$BRANCHES" ;;
  get-branch*) echo '{"branch": {"environmentVariables": {"KEPT": "a b"}}}' ;;
esac
"""
BRANCHES = {
    "branches": [
        {"branchName": "main", "backendEnvironmentArn": "arn:x:apps/d/backendenvironments/prod"},
        {"branchName": "dev", "backendEnvironmentArn": "arn:x:apps/d/backendenvironments/dev"},
        {"branchName": "none"},
    ]
}


@pytest.fixture
async def batch(make_store: MakeStore) -> str:
    """A batch with three imports that succeeded and one that failed."""
    store = await make_store()
    requests = [
        members("d1shop", backendEnvironmentName="prod", identityPoolId="us-east-1:0a"),
        members("d2broken", backendEnvironmentName="prod"),
        members("d3other", backendEnvironmentName="staging", account="acme"),
        members("d4failed", backendEnvironmentName="prod"),
    ]
    for n, request in enumerate(requests):
        parsed = OPERATIONS.parse({**request, "batchId": "b"})
        await store.admit(Envelope(import_id=f"i{n}", task_id=f"i{n}"), parsed, "us-east-1")
    while claims := (await store.claim(4))[0]:
        for claim in claims:
            is_failed = claim.item.app_id == "d4failed"
            state = State.FAILED if is_failed else State.SUCCEEDED
            await recording.finish(store, claim, state)
    return "b"


@pytest.fixture
def path_with_aws(tmp_path: Path) -> str:
    if not shutil.which("jq"):
        pytest.skip("NO JQ here, the script is not run")
    program = tmp_path / "bin" / "aws"
    program.parent.mkdir()
    program.write_text(AWS)
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def test_the_script_sets_the_ids_on_the_branches_and_starts_their_builds(
    batch: str, command: CommandLine, tmp_path: Path, path_with_aws: str
) -> None:
    script, calls = tmp_path / "next.sh", tmp_path / "calls"
    done = command("next-steps", batch, "-o", script)
    assert done.returncode == 0
    assert "Wrote the next steps of 3 app environments" in done.stderr
    env = {"PATH": path_with_aws, "CALLS": str(calls), "BRANCHES": json.dumps(BRANCHES)}
    ran = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "d1shop/prod: branch main is set up" in ran.stdout
    assert "d3other/staging: no branch uses this environment" in ran.stdout
    assert "d2broken/prod: failed" in ran.stderr
    assert "1 app environments failed" in ran.stderr

    made = [json.loads(line) for line in calls.read_text().splitlines()]
    of_shop = [call for call in made if "d1shop" in call]
    assert [call[1] for call in of_shop] == [
        *("list-branches", "get-branch", "update-branch", "start-job"),
    ]
    variables = json.loads(of_shop[2][of_shop[2].index("--environment-variables") + 1])
    assert variables == {
        "KEPT": "a b",
        "AMPLIFY_USERPOOL_ID": members("d1shop")["userPoolId"],
        "AMPLIFY_WEBCLIENT_ID": members("d1shop")["webClientId"],
        "AMPLIFY_NATIVECLIENT_ID": members("d1shop")["nativeClientId"],
        "AMPLIFY_IDENTITYPOOL_ID": "us-east-1:0a",
    }
    (of_other,) = (call for call in made if "d3other" in call)
    assert of_other[of_other.index("--profile") + 1] == "acme"
    assert not any("d4failed" in call for call in made)


def test_an_unknown_batch_is_named_and_no_file_is_left(
    command: CommandLine, tmp_path: Path
) -> None:
    done = command("next-steps", "nothing", "-o", tmp_path / "next.sh")
    assert done.returncode == 4
    assert "There is no batch nothing" in done.stderr
    assert list(tmp_path.iterdir()) == []
