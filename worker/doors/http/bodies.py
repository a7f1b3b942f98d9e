"""Reads the JSON bodies of requests, strictly."""

import asyncio
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web

from worker.doors.http.problems import ProblemError

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""The longest body: 1,000 requests of 4 KiB."""

MAX_DEPTH: Final = 16
READ_SECONDS: Final = 30.0
JSON: Final = "application/json"


async def read_json(request: web.Request) -> object:
    """Return the JSON of a request's body.

    Raises:
        ProblemError: if it is none, or if its reading would be ambiguous: by a member that appears
            twice, or a number that is none.

    """
    if hdrs.CONTENT_TYPE in request.headers and request.content_type != JSON:
        detail = f"The body must be {JSON}, and the header Content-Type must not say otherwise."
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept": JSON})
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        detail = "The body must not be compressed."
        headers = {"Accept-Encoding": "identity"}
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers=headers)
    return parse(await _body_of(request))


async def _body_of(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        detail = f"The body is longer than {MAX_BODY_BYTES:,} bytes."
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail) from None
    except TimeoutError:
        detail = f"The body did not arrive within {READ_SECONDS:g} seconds."
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail) from None


def parse(body: bytes) -> object:
    """Return the JSON value of a body. Raises ProblemError."""
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_unambiguous, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise _bad("The body is not UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise _bad(f"The body is not JSON: {_reason_of(error)}.") from None
    if _depth_of(value, MAX_DEPTH) > MAX_DEPTH:
        raise _bad(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _reason_of(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"{error.msg}, at character {error.pos}"
        case _AmbiguousError():
            return str(error)
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return "a number has too many digits"


class _AmbiguousError(ValueError):
    pass


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _AmbiguousError(f"the member {ascii(twice)[:70]} appears twice")
    return members


def _no_constant(name: str) -> object:
    raise _AmbiguousError(f"{name} is no JSON value")


def _depth_of(value: object, most: int) -> int:
    """Return how deeply a value is nested; look no deeper than one level more than `most`."""
    parts: list[object] = []
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list):
        parts = value
    if not parts or most < 0:
        return 0
    return 1 + max(_depth_of(part, most - 1) for part in parts)


def _bad(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, detail)
