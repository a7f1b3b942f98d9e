"""Answers as they go over the wire: JSON bodies, error codes in each naming and place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aiohttp import web

from worker.sandbox.answers import Body
from worker.sandbox.api import ApiError
from worker.sandbox.scenario import ErrorCodePlace, ErrorNames, Scenario

CORS_HEADERS: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET,POST,OPTIONS",
    "Access-Control-Allow-Headers": "Authorization,Content-Type,X-Amz-Date,X-Amz-Security-Token",
}
# AWS appends this to the code in some services' headers; SDKs have to cut it off.
_CODE_URL = ":http://internal.amazon.com/coral/com.amazonaws.amplifybackend/"
_BOTOCORE_NAMES = {
    "LimitExceededException": "TooManyRequestsException",
    "InternalServiceException": "GatewayTimeoutException",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that may still be altered before it is sent."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def cut_off(self) -> "Reply":
        """Keep only the first half of the text, announced as if it were whole."""
        return replace(self, text=self.text[: len(self.text) // 2])

    def to_response(self, request_id: str) -> web.Response:
        """Make the HTTP response."""
        return web.Response(
            status=self.status,
            text=self.text,
            content_type=self.content_type,
            headers={**CORS_HEADERS, **self.headers, "x-amzn-RequestId": request_id},
        )


def success(body: Body) -> Reply:
    """Answer 200."""
    return Reply(200, json.dumps(body))


def failure(error: ApiError, scenario: Scenario) -> Reply:
    """Answer an error, its code named and placed as the scenario says."""
    body = {"message": error.message, **error.members}
    headers = dict(error.headers)
    code = _code(error, scenario.error_names)
    place = scenario.error_code_in if code else ErrorCodePlace.NOWHERE
    if place is ErrorCodePlace.HEADER:
        headers["x-amzn-ErrorType"] = code
    elif place is ErrorCodePlace.HEADER_URL:
        headers["x-amzn-ErrorType"] = code + _CODE_URL
    elif place is ErrorCodePlace.CODE:
        body["code"] = code
    elif place is ErrorCodePlace.TYPE:
        body["__type"] = code
    return Reply(error.status, json.dumps(body), headers)


def bad_gateway() -> Reply:
    """Answer what a proxy answers when the service behind it is away."""
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body>"
    return Reply(502, f"{page}</html>", content_type="text/html")


def _code(error: ApiError, names: ErrorNames) -> str:
    if names is ErrorNames.NONE:
        return ""
    if names is ErrorNames.BOTOCORE:
        return _BOTOCORE_NAMES.get(error.code, error.code)
    return error.code
