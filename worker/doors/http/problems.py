"""Errors as answers: problem details in JSON (RFC 9457), never a traceback, never HTML."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import hdrs, web

from worker.client import ConflictError, NotKnownError, StoreUnavailableError, SubmissionError
from worker.domain.requests import IDENTIFIER_PATTERN

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBLEM: Final = "application/problem+json"
INVALID: Final = "Nothing was admitted, because a request is invalid"
TAKEN: Final = "An id or a key belongs to another request"
MOST_ERRORS: Final = 100
AGAIN_SECONDS: Final = 5
"""When a client may try again after the store could not be reached."""


class ProblemError(Exception):
    """A request that is answered with an error. `errors` names members, and their positions."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def response(self) -> web.Response:
        """Return the answer."""
        members: dict[str, Any] = {
            "title": self.status.phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            members["errors"] = self.errors
        return web.Response(
            body=json.dumps(members).encode(),
            status=self.status,
            content_type=PROBLEM,
            headers=self.headers,
        )


def identifier_in(request: web.Request, name: str) -> str:
    """Return an import id or a batchId in the path. Raises NotKnownError if it can't be one."""
    value = request.match_info[name]
    if not IDENTIFIER_PATTERN.fullmatch(value):
        raise NotKnownError("there is no import or batch with such an id")
    return value


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors with problem details."""
    try:
        return await handler(request)
    except ProblemError as error:
        return error.response()
    except web.HTTPMethodNotAllowed as error:
        return _wrong_method(request, error)
    except web.HTTPException as error:
        return ProblemError(HTTPStatus(error.status), _detail_of(error)).response()
    except SubmissionError as error:
        return _refused(error).response()
    except NotKnownError as error:
        return ProblemError(HTTPStatus.NOT_FOUND, _sentence(str(error))).response()
    except StoreUnavailableError as error:
        log.warning("store.unreachable", error=str(error))
        return _unavailable().response()
    except Exception:
        log.exception("http.failed", method=request.method, path=request.path)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return ProblemError(status, "The server failed; its log says why.").response()


def _refused(error: SubmissionError) -> ProblemError:
    errors = [
        {
            **({} if each.position is None else {"position": each.position}),
            "member": each.member,
            "message": each.message,
        }
        for each in error.problems[:MOST_ERRORS]
    ]
    shown = f"the first {MOST_ERRORS} of {len(error.problems):,} errors"
    shown = shown if len(error.problems) > MOST_ERRORS else "each error"
    is_conflict = isinstance(error, ConflictError)
    return ProblemError(
        HTTPStatus.CONFLICT if is_conflict else HTTPStatus.BAD_REQUEST,
        f"{TAKEN if is_conflict else INVALID}; the member errors lists {shown}.",
        errors=errors,
    )


def _unavailable() -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The store can't be reached. Repeat the request with the same Idempotency-Key.",
        headers={"Retry-After": str(AGAIN_SECONDS)},
    )


def _wrong_method(request: web.Request, error: web.HTTPMethodNotAllowed) -> web.Response:
    allow = {"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
    if request.method == hdrs.METH_OPTIONS:
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=allow)
    detail = f"{request.path} does not support this method."
    return ProblemError(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers=allow).response()


def _detail_of(error: web.HTTPException) -> str:
    if error.status == HTTPStatus.NOT_FOUND:
        return "There is nothing at this path; /openapi.json lists the paths."
    return error.reason


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
