"""Reads request bodies and checks them against the members in the published model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.sandbox.api import Operation, bad_request


@dataclass(frozen=True, slots=True)
class Member:
    """The rules for one member of a request body. Without `one_of`, any value is allowed."""

    kind: type
    required: bool = False
    one_of: tuple[str, ...] = ()


_MEMBERS: Mapping[Operation, Mapping[str, Member]] = {
    Operation.IMPORT_BACKEND_AUTH: {
        "userPoolId": Member(str, required=True),
        "nativeClientId": Member(str, required=True),
        "webClientId": Member(str, required=True),
        "identityPoolId": Member(str),
    },
    Operation.IMPORT_BACKEND_STORAGE: {
        "bucketName": Member(str),
        "serviceName": Member(str, required=True, one_of=("S3",)),
    },
    Operation.LIST_BACKEND_JOBS: {
        "jobId": Member(str),
        "maxResults": Member(int),
        "nextToken": Member(str),
        "operation": Member(str),
        "status": Member(str),
    },
    Operation.GET_BACKEND_AUTH: {"resourceName": Member(str, required=True)},
    Operation.GET_BACKEND_STORAGE: {"resourceName": Member(str, required=True)},
    Operation.GET_BACKEND_JOB: {},
}
_KIND_NAMES = {str: "a string", int: "an integer"}
_MAX_RESULTS = range(1, 26)


def parse_body(operation: Operation, raw: bytes) -> dict[str, Any]:
    """Read and check a request's body.

    Raises:
        ApiError: the answer 400, which names the first invalid member.

    """
    body = read_object(raw)
    members = _MEMBERS[operation]
    for name, value in body.items():
        if name not in members:
            raise bad_request(f"Unknown member {name} in the request body.")
        # Compare the exact type: `isinstance` would accept the JSON value true as an integer.
        if type(value) is not members[name].kind:
            raise bad_request(f"Member {name} must be {_KIND_NAMES[members[name].kind]}.")
        if members[name].one_of and value not in members[name].one_of:
            raise bad_request(f"Member {name} must be one of {', '.join(members[name].one_of)}.")
    for name, member in members.items():
        if member.required and name not in body:
            raise bad_request(f"Member {name} is required.")
    if "maxResults" in body and body["maxResults"] not in _MAX_RESULTS:
        raise bad_request("Member maxResults must be between 1 and 25.")
    return body


def read_object(raw: bytes) -> dict[str, Any]:
    """Read a request's body: a JSON object, or nothing.

    Raises:
        ApiError: the answer 400, if it is something else.

    """
    try:
        body = json.loads(raw) if raw else {}
    except (ValueError, RecursionError) as error:
        raise bad_request("The request body is not JSON.") from error
    if not isinstance(body, dict):
        raise bad_request("The request body must be a JSON object.")
    return body
