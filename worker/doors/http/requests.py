"""The endpoint that takes requests: one as an object, or several as an array."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from worker.client import AsyncImportClient, InvalidSubmissionError, Problem
from worker.domain.batches import MAX_BATCH_REQUESTS
from worker.domain.traces import read_trace
from worker.doors.http.bodies import read_json
from worker.doors.http.problems import ProblemError

IDEMPOTENCY_KEY: Final = "Idempotency-Key"


class Intake:
    """Admits requests."""

    def __init__(self, client: AsyncImportClient) -> None:
        self._client = client

    async def post(self, request: web.Request) -> web.Response:
        """Admit one request, or all of an array or none; answer with 202 and the import ids."""
        body = await read_json(request)
        key = _key_in(request)
        trace = read_trace(request.headers.get("traceparent"), request.headers.get("tracestate"))
        if not isinstance(body, list):
            import_id = await self._client.submit(body, idempotency_key=key, trace=trace)  # type: ignore[arg-type]  # anything is validated
            where = {"Location": f"/v1/imports/{quote(import_id, safe=':@+=')}"}
            return _accepted({"importId": import_id}, where)
        if not 1 <= len(body) <= MAX_BATCH_REQUESTS:
            detail = f"An array must have 1 to {MAX_BATCH_REQUESTS:,} requests."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
        ids = await self._client.submit_many(body, idempotency_key=key, trace=trace)
        return _accepted([{"importId": import_id} for import_id in ids])


def _accepted(
    content: dict[str, Any] | Sequence[dict[str, Any]], headers: dict[str, str] | None = None
) -> web.Response:
    return web.json_response(content, status=HTTPStatus.ACCEPTED, headers=headers, dumps=json.dumps)


def _key_in(request: web.Request) -> str:
    """Return the idempotency key in the header; '' for none.

    Its draft standard (draft-ietf-httpapi-idempotency-key-header) writes it in quotes; many clients
    send it without.
    """
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return ""
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not bare:
        raise InvalidSubmissionError((Problem(IDEMPOTENCY_KEY, "is empty"),))
    return bare
