"""Who may make requests, and how many: bearer tokens (RFC 6750), each with a rate."""

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from worker.doors.http.problems import Handler, ProblemError

BURST_SECONDS: Final = 2.0
"""For how many seconds' requests a token may make at once."""

OPEN_PATHS: Final = frozenset({"/openapi.json", "/livez", "/readyz"})
"""Paths that need no token."""


class Bucket:
    """A token bucket: `rate` requests a second, up to those of `BURST_SECONDS` at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate * BURST_SECONDS)
        self._left = self._size
        self._clock = clock
        self._at = clock()

    def take(self) -> float:
        """Take one request, and return 0; or return the seconds until there is one."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class Access:
    """Lets requests with one of the tokens pass, each token at the rate."""

    def __init__(self, tokens: Sequence[str], rate: float) -> None:
        self._known = [(_digest(token), Bucket(rate)) for token in tokens]

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer with 401 without a valid token, and with 429 above the rate."""
        if request.path not in OPEN_PATHS:
            bucket = self._bucket_of(request.headers.get(hdrs.AUTHORIZATION, ""))
            if seconds := bucket.take():
                raise ProblemError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "This token makes too many requests; see IMPORTS_HTTP_RATE.",
                    headers={"Retry-After": str(math.ceil(seconds))},
                )
        return await handler(request)

    def _bucket_of(self, authorization: str) -> Bucket:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("The header Authorization must be: Bearer TOKEN.", "Bearer")
        given = _digest(token.strip())
        # compares with all tokens, so that the time tells nothing
        found = [bucket for known, bucket in self._known if hmac.compare_digest(known, given)]
        if not found:
            raise _unauthorized("The token is not valid.", 'Bearer error="invalid_token"')
        return found[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _unauthorized(detail: str, challenge: str) -> ProblemError:
    headers = {"WWW-Authenticate": challenge}
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers=headers)
