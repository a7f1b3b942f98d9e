"""Reads the raw HTTP answers of the AmplifyBackend API; the one place that looks at their text.

The published page and botocore's model name the errors differently, and the name may stand in a
header, in the body or nowhere: the HTTP status decides, names only refine. Figures measured of
botocore 1.40: `limitType` is lost unless the code is `TooManyRequestsException`, `Retry-After` is
never read, and a 200 that is cut off parses into nothing without an error.
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
"""A lane is asked again after an hour at the latest, whatever a server wishes."""

TIME_CHARACTERS: Final = 64

CLOCK_TOLERANCE_SECONDS: Final = 240.0
"""AWS refuses what was signed five minutes before or after its own time."""

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
"""Errors that AWS and botocore send with a 400 at times, though they say nothing of the request.

As AWS's lists of common errors and botocore's retry rules have them, without `Exception`, `Error`.
"""


@dataclass(frozen=True, slots=True)
class Response:
    """A raw HTTP answer. Header names are lower case.

    `received_at` is when it came on this machine's own clock (Unix time, seconds). Of one that was
    `cut_off`, the body did not come. `clock_is_right` says that AWS has just taken our time.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float = math.nan
    cut_off: bool = False
    clock_is_right: bool = False


def read(response: Response) -> Answer:
    """Return what a response means. Jobs are those of a `jobs` list, or the one in the body."""
    members = _members_of(response.body)
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


def _is_concurrent(limit_type: str, message: str) -> bool:
    """Return whether a 429 says that too many jobs are unfinished; AWS documents no words."""
    said = limit_type or message
    return bool(CONCURRENCY_TEXT.search(said))


def _read_jobs(response: Response, members: Mapping[str, Any] | None) -> Answer:
    if members is None:
        return Answer(kind=Kind.UNKNOWN, error="the answer was cut off or is not JSON")
    listed = members.get("jobs")
    found = listed if isinstance(listed, list) else [members]
    now = _time_of(response.headers.get("date", ""))
    jobs = tuple(_job_of(job, now) for job in found if isinstance(job, dict))
    return Answer(kind=Kind.OK, jobs=jobs)


def holds_a_list(response: Response) -> bool:
    """Return whether a 200 really lists jobs; one that holds no list proves no absence."""
    return isinstance((_members_of(response.body) or {}).get("jobs"), list)


def next_token_of(response: Response) -> str:
    """Return the token for the next page of a list, empty on the last one."""
    return _text(_members_of(response.body) or {}, "nextToken")


def clock_off(headers: Mapping[str, str], received_at: float) -> str:
    """Return how far this machine's clock is "ahead of" or "behind" AWS's, '' if AWS may bear it.

    AWS tells its time in every answer (`Date`; RFC 9110, 6.6.1). One that a cache kept is as old as
    it says (`Age`; RFC 9111, 5.1).
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
    """Return whether an error speaks of something between us and AWS, or was not read whole.

    The API answers in JSON; pages and plain text are proxies', and say nothing of a request.
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
            # A lone surrogate is legal JSON and no text that can be stored.
            return value[:ERROR_CHARACTERS].encode(errors="ignore").decode()
    return ""


def _code_of(response: Response, members: Mapping[str, Any]) -> str:
    # AWS restJson1: the header may carry ":http://…" behind the code, __type a "namespace#" before.
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
    # Both times are the remote side's: no two machines' clocks are compared.
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
    """Read Retry-After (RFC 9110, 10.2.3): seconds, here also fractions, or an HTTP date."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until, now = _time_of(text), _time_of(headers.get("date", ""))
        seconds = math.nan if until is None or now is None else until - now
    return min(max(0.0, seconds), RETRY_AFTER_MAX_SECONDS) if math.isfinite(seconds) else None


def one_line(text: str) -> str:
    """Return a text for people on one printable line, cut to what an event may hold."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:ERROR_CHARACTERS]
