"""The IAM policy allows the calls that workers make, and nothing else."""

import json
import re

from botocore.session import Session

from tests.support import PROJECT
from worker.operations.cognito import permission_of
from worker.operations.registry import OPERATIONS

POLICY = (PROJECT / "config" / "aws" / "iam-policy.json").read_text()
QUEUE_POLICY = (PROJECT / "config" / "aws" / "iam-policy-sqs.json").read_text()
QUEUE_PAGE = (PROJECT / "docs" / "guides" / "sqs.md").read_text()
CHECKS_POLICY = (PROJECT / "config" / "aws" / "iam-policy-checks.json").read_text()
PAGE = (PROJECT / "docs" / "guides" / "credentials.md").read_text()
CHECKS_PAGE = (PROJECT / "docs" / "guides" / "preflight.md").read_text()
VERIFICATION = "GetBackend"
"""The call that only workers with IMPORTS_VERIFY make."""


def calls() -> set[str]:
    """Return the API's operations that the code of `worker/operations` names."""
    shared = (PROJECT / "worker" / "operations" / "backend_operation.py").read_text()
    model = Session().get_service_model("amplifybackend")
    snake = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): name for name in model.operation_names}
    return {snake[word] for word in re.findall(r'"([a-z_]+)"', shared) if word in snake}


def test_the_policy_allows_the_calls_that_workers_make_and_no_other() -> None:
    (statement,) = json.loads(POLICY)["Statement"]
    assert statement["Effect"] == "Allow"
    made = {*OPERATIONS.operations, *calls()} - {VERIFICATION}
    assert {"GetBackendJob", "ListBackendJobs"} <= made
    assert sorted(statement["Action"]) == sorted(f"amplifybackend:{call}" for call in made)


def test_the_policy_of_the_queue_allows_the_calls_to_it_and_no_other() -> None:
    code = (PROJECT / "worker" / "operations" / "requests_queue.py").read_text()
    made = {"".join(map(str.title, name.split("_"))) for name in re.findall(r'"(\w+_\w+)"', code)}
    known = set(Session().get_service_model("sqs").operation_names)
    (statement,) = json.loads(QUEUE_POLICY)["Statement"]
    # the permission for a single message includes that for a batch
    allowed = sorted(f"sqs:{call.removesuffix('Batch')}" for call in made & known)
    assert sorted(statement["Action"]) == allowed
    assert statement["Resource"].startswith("arn:aws:sqs:")


def test_the_page_of_the_queue_shows_its_policy() -> None:
    assert f"```json\n{QUEUE_POLICY}```" in QUEUE_PAGE


def test_the_policy_of_checks_allows_their_calls_and_no_other() -> None:
    module = (PROJECT / "worker" / "operations" / "cognito.py").read_text()
    statement, verification = json.loads(CHECKS_POLICY)["Statement"]
    assert statement["Effect"] == verification["Effect"] == "Allow"
    assert verification["Action"] == f"amplifybackend:{VERIFICATION}"
    made = re.findall(r'"((?:describe|get)_[a-z_]+)"', module)
    assert len(made) == 4
    assert sorted(statement["Action"]) == sorted(map(permission_of, made))


def test_the_pages_show_the_policies() -> None:
    assert f"```json\n{POLICY}```" in PAGE
    assert f"```json\n{CHECKS_POLICY}```" in CHECKS_PAGE
