"""The registry of operations: which operation a request belongs to, and the errors without one."""

from typing import Any, Literal

import pytest
from botocore import xform_name
from botocore.session import Session
from pydantic.alias_generators import to_pascal

from worker.domain.requests import ImportRequest, InvalidRequestError
from worker.operations.backend_operation import BackendOperation
from worker.operations.import_backend_auth import ImportBackendAuth
from worker.operations.registry import OPERATIONS, Registry

TARGET = {"appId": "d1", "backendEnvironmentName": "staging"}
AUTH = {**TARGET, "userPoolId": "us-east-1_A", "webClientId": "w", "nativeClientId": "n"}
THING = {**TARGET, "thingId": "t1"}


class ImportThingRequest(ImportRequest):
    operation: Literal["ImportThing"] = "ImportThing"
    thing_id: str
    colour: str | None = None


class ImportThing(BackendOperation):
    request = ImportThingRequest


TWO = Registry(ImportBackendAuth, ImportThing)


def problems_of(members: object, operation: str = "") -> dict[str, str]:
    with pytest.raises(InvalidRequestError) as caught:
        TWO.parse(members, operation)
    return dict(caught.value.problems)


def test_a_request_without_an_operation_belongs_to_the_first() -> None:
    assert TWO.parse(AUTH).operation == "ImportBackendAuth"
    assert TWO.name_in(AUTH) == "ImportBackendAuth"


@pytest.mark.parametrize(
    ("members", "operation"),
    [
        ({**THING, "operation": "ImportThing"}, ""),
        (THING, "ImportThing"),
        ({**THING, "operation": "ImportThing"}, "ImportThing"),
    ],
    ids=["request", "door", "both"],
)
def test_the_request_or_its_entry_point_determines_the_operation(
    members: Any, operation: str
) -> None:
    request = TWO.parse(members, operation)
    assert isinstance(request, ImportThingRequest)
    assert (request.operation, request.thing_id) == ("ImportThing", "t1")


@pytest.mark.parametrize("given", ["DeleteBackend", "", 7, ["ImportThing"], {}])
def test_an_unknown_operation_is_named(given: object) -> None:
    errors = problems_of({**THING, "operation": given})
    assert errors == {"operation": f"must be ImportBackendAuth or ImportThing, got {given!a}"}


def test_a_task_of_one_operation_accepts_no_request_of_another() -> None:
    errors = problems_of({**THING, "operation": "ImportThing"}, "ImportBackendAuth")
    assert errors == {"operation": "differs from that of the task, ImportBackendAuth"}


def test_a_member_of_another_operation_is_distinguished_from_an_unknown_one() -> None:
    errors = problems_of({**AUTH, "thingId": "t1", "size": 3})
    assert errors == {
        "thingId": "is a member of ImportThing, and the operation is ImportBackendAuth",
        "size": "is not a member of an import request",
    }


def test_only_operations_other_than_the_first_are_in_the_json_and_the_fingerprint() -> None:
    assert "operation" not in TWO.parse({**AUTH, "operation": "ImportBackendAuth"}).to_json()
    thing = TWO.parse(THING, "ImportThing")
    assert '"operation":"ImportThing"' in thing.to_json()
    assert TWO.parse({**THING, "operation": "ImportThing"}).fingerprint == thing.fingerprint


def test_a_request_has_the_fingerprint_that_the_first_release_gave_it() -> None:
    request = OPERATIONS.parse({**AUTH, "batchId": "b", "metadata": {"a": "b"}})
    assert request.fingerprint == "229554d8b50b6ad62cfa0618a884a7f0"


def test_each_operation_has_a_task_of_its_own() -> None:
    assert TWO.tasks == {
        "ImportBackendAuth": "imports.import_backend_auth",
        "ImportThing": "imports.import_thing",
    }


def test_members_and_what_is_required_are_those_of_the_requests() -> None:
    assert TWO.members[:3] == ("operation", "appId", "backendEnvironmentName")
    assert {"userPoolId", "thingId", "colour"} < set(TWO.members)
    assert len(set(TWO.members)) == len(TWO.members)
    assert TWO.required("ImportThing") == ("appId", "backendEnvironmentName", "thingId")
    assert TWO.required() == ("appId", "backendEnvironmentName")


@pytest.mark.parametrize("operation", OPERATIONS.operations.values(), ids=OPERATIONS.operations)
def test_the_remote_api_has_the_operation_and_its_members(
    operation: type[BackendOperation],
) -> None:
    api = Session().get_service_model("amplifybackend")
    assert operation.name() in api.operation_names
    shape = api.operation_model(operation.name()).input_shape
    assert {to_pascal(name) for name in operation.members()} <= set(shape.members)
    assert operation.task().removeprefix("imports.") == xform_name(operation.name())
