"""The published schemas: they agree with the models, and nothing in them has changed for worse."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT, members, storage_members
from tests.support.compatibility import breaks_readers, breaks_writers
from tests.support.contract import SCHEMAS, Draft202012Validator, problems_of_event
from worker.domain.batches import BatchMessage
from worker.domain.requests import InvalidRequestError
from worker.operations.registry import OPERATIONS

PUBLISHED = PROJECT / "tests" / "golden" / "contract"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PARSER = PROJECT / "tests" / "contract"


def schema(name: str, directory: Path = SCHEMAS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", ["request", "batch", "event"])
def test_a_document_is_a_valid_schema(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"region": "eu-central-1", "account": "acme", "priority": "high"},
        {"deadlineSeconds": 60, "metadata": {"ticket": "4711"}, "idempotencyKey": "key"},
        {"identityPoolId": "us-east-1:0a1b", "batchId": "wave-1"},
        {"appId": "D1"},
        {"appId": None},
        {"unknown": "member"},
        {"priority": "urgent"},
        {"deadlineSeconds": 0},
        {"deadlineSeconds": "60"},
        {"metadata": {"ticket": 4711}},
        {"metadata": {str(n): "" for n in range(17)}},
        {"userPoolId": "no pool"},
        {"operation": "ImportBackendStorage"},
        {"operation": "ImportBackendAuth"},
        {"bucketName": "bucket"},
    ],
    ids=str,
)
def test_the_schema_and_the_model_accept_the_same_requests(changes: dict[str, Any]) -> None:
    request = members("d1", **changes)
    try:
        OPERATIONS.parse(request)
    except InvalidRequestError:
        accepted = False
    else:
        accepted = True
    assert Draft202012Validator(schema("request")).is_valid(request) == accepted


def test_the_schema_accepts_a_storage_request_and_an_import_id_and_a_trace() -> None:
    traced = {"traceparent": TRACEPARENT, "tracestate": "vendor=blue"}
    request = {**storage_members("d1"), "importId": "move-0001", **traced}
    assert [*Draft202012Validator(schema("request")).iter_errors(request)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"offset": 0, "total": 1, "canary": 1, "stopPercent": 5.5},
        {"requests": []},
        {"requests": [members("d1")] * 1001},
        {"batchId": "no batch"},
        {"stopPercent": 101},
        {"offset": -1},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_the_schema_and_the_model_accept_the_same_batches(changes: dict[str, Any]) -> None:
    batch = {"batchId": "b", "requests": [members("d1")], **changes}
    try:
        BatchMessage.parse(batch)
    except InvalidRequestError:
        accepted = False
    else:
        accepted = True
    assert Draft202012Validator(schema("batch")).is_valid(batch) == accepted


def test_a_wrong_event_is_noticed() -> None:
    event = {"specversion": "1.0", "id": "i/accepted", "source": "s", "type": "import.accepted"}
    assert problems_of_event(event)


@pytest.mark.parametrize("name", ["request", "batch"])
def test_what_producers_send_is_still_accepted(name: str) -> None:
    assert breaks_writers(schema(name, PUBLISHED), schema(name)) == []


def test_what_readers_rely_on_is_still_sent() -> None:
    assert breaks_readers(schema("event", PUBLISHED), schema("event")) == []


OLD_A = {"type": "string", "maxLength": 5}
OLD: dict[str, Any] = {
    "type": "object",
    "required": ["a"],
    "additionalProperties": False,
    "properties": {"a": OLD_A, "b": {"enum": ["x", "y"]}},
}


@pytest.mark.parametrize(
    ("change", "of_writers", "of_readers"),
    [
        ({"required": ["a", "b"]}, "b is required", None),
        ({"required": []}, None, "a is no longer there"),
        ({"properties": {"a": {"type": "string", "maxLength": 4}, "b": {}}}, "a: maxLength", "b:"),
        ({"properties": {"a": {"type": "string", "maxLength": 6}, "b": {}}}, None, "a: maxLength"),
        ({"properties": {"a": {"type": "integer"}, "b": {}}}, "a: type", "a: type"),
        ({"properties": {"a": OLD_A}}, "b is no longer allowed", None),
        ({"properties": {**OLD["properties"], "b": {"enum": ["x"]}}}, "b: 'y'", None),
        ({"properties": {**OLD["properties"], "b": {"enum": ["x", "y", "z"]}}}, None, "b: 'z'"),
        ({"properties": {**OLD["properties"], "c": {}}}, None, None),
    ],
)
def test_a_change_that_breaks_others_is_noticed(
    change: dict[str, Any], of_writers: str | None, of_readers: str | None
) -> None:
    new = {**OLD, **change}
    for found, expected in (
        (breaks_writers(OLD, new), of_writers),
        (breaks_readers(OLD, new), of_readers),
    ):
        if expected is None:
            assert found == []
        else:
            assert any(expected in each for each in found), found


def test_the_parser_of_asyncapi_accepts_the_document() -> None:
    node = shutil.which("node")
    if not node or not (PARSER / "node_modules").exists():
        pytest.skip("NO ASYNCAPI PARSER here, run `make node-packages`")
    done = subprocess.run(
        [node, PARSER / "parse.mjs", SCHEMAS / "asyncapi.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
