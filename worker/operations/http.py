"""Reads the raw HTTP answers of the AmplifyBackend API; only this module looks at their text.

The API reference and botocore's model name the errors differently, and the name may be in a header,
in the body or missing. So the HTTP status decides, and names only refine it. In botocore 1.40,
`limitType` is lost unless the code is `TooManyRequestsException`, `Retry-After` is never read, and
a 200 that is cut off is parsed into nothing without an error.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from worker.domain.answers import Answer, Job, Kind
from worker.operations.times import read_time

ERROR_CHARACTERS: Final = 300
RETRY_AFTER_MAX_SECONDS: Final = 3600.0
"""A lane is called again after an hour at the latest, whatever a server asks for."""

TIME_CHARACTERS: Final = 64

ACCESS_DENIED: Final = "AccessDeniedException"
"""The error for credentials that are fine, but lack the permission for a call."""

CLOCK_TOLERANCE_SECONDS: Final = 240.0
"""AWS refuses requests signed more than five minutes before or after its own time."""

CONCURRENCY_TEXT: Final = re.compile(
    r"concurren|simultaneous|parallel|in.?progress|running|unfinished|pending|too many jobs",
    re.IGNORECASE,
)
PENDING_JOB_TEXT: Final = "already a pending job"
THROTTLING_CODES: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2Throttled",
        "LimitExceeded",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "Throttled",
        "Throttling",
        "TooManyRequests",
    }
)
CREDENTIAL_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AuthFailure",
        "ExpiredToken",
        "Forbidden",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignature",
        "InvalidToken",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "NotSignedUp",
        "OptInRequired",
        "PendingVerification",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "SubscriptionRequired",
        "TokenRefreshRequired",
        "Unauthorized",
        "UnauthorizedOperation",
        "UnrecognizedClient",
    }
)
TRANSIENT_CODES: Final = frozenset(
    {
        "IDPCommunication",
        "InternalFailure",
        "Internal",
        "InternalServer",
        "InternalService",
        "RequestTimeout",
        "ServiceUnavailable",
    }
)
"""Errors that AWS and botocore sometimes send with a 400, although the request may be valid.

They are from AWS's lists of common errors and botocore's retry rules, without the suffixes
`Exception` and `Error`.
"""


@dataclass(frozen=True, slots=True)
class Response:
    """A raw HTTP answer. Header names are in lower case.

    `received_at` is when it arrived, on this machine's clock (Unix time, seconds). `cut_off` says
    that the body did not arrive. `clock_is_right` says that AWS has recently accepted this
    machine's time.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float = math.nan
    cut_off: bool = False
    clock_is_right: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a job list. `next_token` requests the next page; '' on the last page."""

    jobs: tuple[Job, ...]
    next_token: str


class CallFailedError(Exception):
    """No HTTP answer arrived. `answer` says what that means."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.error)


def read(response: Response) -> Answer:
    """Return what a response means. The jobs are those in `jobs`, or the one in the body."""
    return _read(response, _members_of(response.body))


def read_page(response: Response) -> "Page | Answer":
    """Return a page of a job list; if the page can't be read completely, the answer.

    Such an answer does not prove that a job is absent.
    """
    members = _members_of(response.body)
    answer = _read(response, members)
    if answer.kind is not Kind.OK:
        return answer
    members = members or {}
    listed, token = members.get("jobs"), members.get("nextToken")
    if not isinstance(listed, list):
        return Answer(kind=Kind.UNKNOWN, error="the answer held no list of jobs")
    if len(listed) != len(answer.jobs):
        return Answer(kind=Kind.UNKNOWN, error="the answer lists what is no job")
    if not isinstance(token, str | None):
        return Answer(kind=Kind.UNKNOWN, error="the answer held a nextToken that is no text")
    return Page(answer.jobs, token or "")


def _read(response: Response, members: Mapping[str, Any] | None) -> Answer:
    if response.status == 200:
        return _read_jobs(response, members)
    members = members or {}
    code, message = _code_of(response, members), _message_of(response, members)
    kind = _kind_of(response, code, message)
    off = "" if response.clock_is_right else clock_off(response.headers, response.received_at)
    if kind is Kind.CREDENTIALS and off:
        kind, message = Kind.CLOCK, f"this machine's clock is {off} AWS's; {message}"
    return Answer(
        kind=kind,
        error=one_line(f"HTTP {response.status}{f' {code}' if code else ''}: {message}"),
        limit_type=_text(members, "limitType", "LimitType"),
        concurrent=_is_concurrent(_text(members, "limitType", "LimitType"), message),
        resource_type=_text(members, "resourceType", "ResourceType"),
        retry_after_seconds=_retry_after(response.headers),
    )


def error_code(response: Response) -> str:
    """Return the name of the error in a response; '' if it names none."""
    if response.status == 200:
        return ""
    return _code_of(response, _members_of(response.body) or {})


def _is_concurrent(limit_type: str, message: str) -> bool:
    """Return whether a 429 means that too many jobs are unfinished. AWS documents no wording."""
    text = limit_type or message
    return bool(CONCURRENCY_TEXT.search(text))


def _read_jobs(response: Response, members: Mapping[str, Any] | None) -> Answer:
    if members is None:
        return Answer(kind=Kind.UNKNOWN, error="the answer was cut off or is not JSON")
    listed = members.get("jobs")
    found = listed if isinstance(listed, list) else [members]
    now = _time_of(response.headers.get("date", ""))
    jobs = tuple(_job_of(job, now) for job in found if isinstance(job, dict))
    return Answer(kind=Kind.OK, jobs=jobs)


def clock_off(headers: Mapping[str, str], received_at: float) -> str:
    """Return how far this machine's clock is ahead of or behind AWS's; '' if AWS accepts it.

    AWS sends its time in every answer (`Date`; RFC 9110, 6.6.1). An answer from a cache is as old
    as its `Age` (RFC 9111, 5.1).
    """
    sent_at = _time_of(headers.get("date", ""))
    age = headers.get("age", "").strip()
    kept_seconds = int(age) if age.isascii() and age.isdigit() and len(age) < 10 else 0
    ahead = math.nan if sent_at is None else received_at - sent_at - kept_seconds
    if abs(ahead) > CLOCK_TOLERANCE_SECONDS:
        return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
    return ""


def _kind_of(response: Response, code: str, message: str) -> Kind:
    match response.status:
        case 401 | 403 | 407:
            return Kind.CREDENTIALS
        case 429:
            return Kind.THROTTLED
        case 409:
            return Kind.CONFLICT
        case status if not 400 <= status < 500 or status == 408 or _is_foreign(response):
            return Kind.UNKNOWN
        case 404:
            return Kind.NOT_FOUND
        case 400:
            return _kind_of_refusal(code, message)
        case _:
            return Kind.BAD_REQUEST


def _kind_of_refusal(code: str, message: str) -> Kind:
    name = code.removesuffix("Exception").removesuffix("Error")
    if PENDING_JOB_TEXT in message.lower():
        return Kind.CONFLICT
    if name in THROTTLING_CODES:
        return Kind.THROTTLED
    if name in CREDENTIAL_CODES:
        return Kind.CREDENTIALS
    return Kind.UNKNOWN if name in TRANSIENT_CODES else Kind.BAD_REQUEST


def _is_foreign(response: Response) -> bool:
    """Return whether an error comes from something between us and AWS, or was not read completely.

    The API answers in JSON. HTML pages and plain text come from proxies and show nothing about the
    request.
    """
    is_text = response.headers.get("content-type", "").lower().startswith("text/")
    is_page = is_text and _members_of(response.body) is None
    return response.cut_off or is_page or response.body.lstrip()[:1] == b"<"


def _members_of(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _text(members: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = members.get(name)
        if isinstance(value, str):
            # A lone surrogate is valid in JSON, but can't be stored.
            return value[:ERROR_CHARACTERS].encode(errors="ignore").decode()
    return ""


def _code_of(response: Response, members: Mapping[str, Any]) -> str:
    # AWS restJson1: the header may have ":http://…" after the code, __type a "namespace#" before
    # it.
    code = response.headers.get("x-amzn-errortype", "") or _text(members, "code", "__type")
    return one_line(code.split(":", 1)[0].rsplit("#", 1)[-1])


def _message_of(response: Response, members: Mapping[str, Any]) -> str:
    message = _text(members, "message", "Message")
    resource = _text(members, "resourceType", "ResourceType")
    if message:
        return f"{message} ({resource})" if resource else message
    return resource or ("an HTML page" if response.body.lstrip()[:1] == b"<" else "no message")


def _job_of(members: Mapping[str, Any], now: float | None) -> Job:
    created = read_time(members.get("createTime"))
    updated = members.get("updateTime")
    job = Job(
        job_id=_text(members, "jobId"),
        operation=_text(members, "operation"),
        status=_text(members, "status"),
        error=one_line(_text(members, "error")),
        updated="" if updated is None else one_line(str(updated))[:TIME_CHARACTERS],
    )
    if created is None or now is None:
        return job
    # Both times come from the remote side, so no clocks of two machines are compared.
    return replace(
        job,
        created_seconds_ago=now - created.seconds,
        created_within_seconds=created.within,
        time_format=created.format,
    )


def _time_of(text: str) -> float | None:
    reading = read_time(text)
    return None if reading is None else reading.seconds


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds, also with fractions, or an HTTP date."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until, now = _time_of(text), _time_of(headers.get("date", ""))
        seconds = math.nan if until is None or now is None else until - now
    return min(max(0.0, seconds), RETRY_AFTER_MAX_SECONDS) if math.isfinite(seconds) else None


def one_line(text: str) -> str:
    """Return a text for people on one printable line, cut to the length that events allow."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())[:ERROR_CHARACTERS]
