"""Request bodies: read and checked against the members that the published model lists."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.sandbox.api import Operation, bad_request


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a request body."""

    kind: type
    required: bool = False


_MEMBERS: Mapping[Operation, Mapping[str, Member]] = {
    Operation.IMPORT_BACKEND_AUTH: {
        "userPoolId": Member(str, required=True),
        "nativeClientId": Member(str, required=True),
        "webClientId": Member(str, required=True),
        "identityPoolId": Member(str),
    },
    Operation.LIST_BACKEND_JOBS: {
        "jobId": Member(str),
        "maxResults": Member(int),
        "nextToken": Member(str),
        "operation": Member(str),
        "status": Member(str),
    },
    Operation.GET_BACKEND_AUTH: {"resourceName": Member(str, required=True)},
    Operation.GET_BACKEND_JOB: {},
}
_KIND_NAMES = {str: "a string", int: "an integer"}
_MAX_RESULTS = range(1, 26)


def parse_body(operation: Operation, raw: bytes) -> dict[str, Any]:
    """Read a request's body; raises a 400 that names the first member that is wrong."""
    body = _read_object(raw)
    members = _MEMBERS[operation]
    for name, value in body.items():
        if name not in members:
            raise bad_request(f"Unknown member {name} in the request body.")
        # By exact type: JSON's true would pass for the integer 1.
        if type(value) is not members[name].kind:
            raise bad_request(f"Member {name} must be {_KIND_NAMES[members[name].kind]}.")
    for name, member in members.items():
        if member.required and name not in body:
            raise bad_request(f"Member {name} is required.")
    if "maxResults" in body and body["maxResults"] not in _MAX_RESULTS:
        raise bad_request("Member maxResults must be between 1 and 25.")
    return body


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError) as error:
        raise bad_request("The request body is not JSON.") from error
    if not isinstance(body, dict):
        raise bad_request("The request body must be a JSON object.")
    return body
