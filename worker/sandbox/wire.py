"""Writes HTTP answers: JSON bodies, and error codes with the scenario's names and place."""

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
# Some AWS services append this to the error code in the header. SDKs have to remove it.
_CODE_URL = ":http://internal.amazon.com/coral/com.amazonaws.amplifybackend/"
_BOTOCORE_NAMES = {
    "LimitExceededException": "TooManyRequestsException",
    "InternalServiceException": "GatewayTimeoutException",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that has not been sent yet."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def cut_off(self) -> "Reply":
        """Return a reply with only the first half of the text, which looks complete to HTTP."""
        return replace(self, text=self.text[: len(self.text) // 2])

    def to_response(self, request_id: str) -> web.Response:
        """Return the HTTP response."""
        return web.Response(
            status=self.status,
            text=self.text,
            content_type=self.content_type,
            headers={**CORS_HEADERS, **self.headers, "x-amzn-RequestId": request_id},
        )


def success(body: Body) -> Reply:
    """Return an answer with status 200."""
    return Reply(200, json.dumps(body))


def failure(error: ApiError, scenario: Scenario) -> Reply:
    """Return the answer for an error, with the code's name and place as the scenario says."""
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
    """Return the answer that a proxy gives when the service behind it is unavailable."""
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body>"
    return Reply(502, f"{page}</html>", content_type="text/html")


def _code(error: ApiError, names: ErrorNames) -> str:
    if names is ErrorNames.NONE:
        return ""
    if names is ErrorNames.BOTOCORE:
        return _BOTOCORE_NAMES.get(error.code, error.code)
    return error.code
