"""What it means if a call has no HTTP answer.

What decides is how far the call came, not the name of the exception. A request that was not sent
has had no effect; one that was sent may have had.
"""

import time
from typing import Final

from aiohttp import ClientConnectorCertificateError
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from config.text import mask_text
from worker.domain.answers import Answer, Kind
from worker.operations.http import clock_off, one_line
from worker.operations.transport import Progress

_NOBODY_THERE: Final = (EndpointConnectionError, ConnectTimeoutError, SSLError, TimeoutError)


def read_failure(
    error: Exception, progress: Progress, timeout_seconds: float, *, clock_is_right: bool
) -> Answer:
    """Return what an exception means for the call that it ended."""
    kind = _kind_of(error, progress)
    if kind is Kind.CREDENTIALS and not clock_is_right and _is_clock(error):
        kind = Kind.CLOCK
    return Answer(kind=kind, error=one_line(mask_text(_describe(error, progress, timeout_seconds))))


def _kind_of(error: Exception, progress: Progress) -> Kind:
    if progress.sent or progress.too_late:
        return Kind.UNKNOWN
    is_untrusted = isinstance(error.__context__, ClientConnectorCertificateError)
    if progress.begun and isinstance(error, _NOBODY_THERE) and not is_untrusted:
        return Kind.UNREACHABLE
    # Nothing was sent, and nothing will be until an operator fixes the lane's configuration.
    return Kind.CREDENTIALS


def _is_clock(error: Exception) -> bool:
    """Return whether STS or SSO refused a call because of its time."""
    if not isinstance(error, ClientError):
        return False
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return bool(clock_off(headers, time.time()))


def _describe(error: Exception, progress: Progress, timeout_seconds: float) -> str:
    name, text = type(error).__name__, str(error)
    if isinstance(error, ResponseParserError):  # its text may repeat credentials
        return f"{name}: the answer that was to bring credentials makes no sense"
    if isinstance(error, TimeoutError) and not text:
        return f"{timeout_seconds:g} s were not enough {progress.stage}"
    return f"{name}: {text}" if text else name
