"""SigV4 signatures: parses them and checks their time. It can't verify them, as it has no secrets.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from worker.sandbox.api import ApiError, forbidden

SERVICE = "amplifybackend"
TOLERANCE: Final = timedelta(minutes=5)
"""How far the time of a signature may differ from the server's time."""

_TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +"
    r"Credential=(?P<access_key_id>[\w-]+)/\d{8}/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[\w-]+)/aws4_request, *"
    r"SignedHeaders=[\w;-]+, *"
    r"Signature=[0-9a-f]{64}"
)


@dataclass(frozen=True, slots=True)
class CredentialScope:
    """The access key that signed a request, and the region that the request is for."""

    access_key_id: str
    region: str


def parse_authorization(header: str | None, service: str = SERVICE) -> CredentialScope:
    """Return the credential scope of an Authorization header of a request to `service`.

    Raises:
        ApiError: the answer 403 that AWS gives to a missing or malformed header.

    """
    if not header:
        raise forbidden("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(header)
    if not match:
        raise forbidden(
            "MissingAuthenticationTokenException",
            "Missing Authentication Token: the Authorization header is not well-formed SigV4.",
        )
    if match["service"] != service:
        raise forbidden(
            "InvalidSignatureException",
            f"Credential should be scoped to correct service: '{service}'.",
        )
    return CredentialScope(match["access_key_id"], match["region"])


def check_time(signed_at: str | None, now: float) -> None:
    """Check that a request was signed at about the time `now`, in Unix seconds.

    `signed_at` is the `X-Amz-Date` header. A request without it passes, so that people can try the
    sandbox with curl.

    Raises:
        ApiError: the answer 403 that AWS gives to a request that was signed too early or too late.

    """
    if signed_at is None:
        return
    here = datetime.fromtimestamp(now, UTC)
    try:
        there = datetime.strptime(signed_at, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise forbidden(
            "IncompleteSignatureException", f"Date must be in ISO-8601 'basic format': {signed_at}"
        ) from None
    if there < here - TOLERANCE:
        raise _wrong_time("Signature expired", signed_at, "earlier", here, -TOLERANCE)
    if there > here + TOLERANCE:
        raise _wrong_time("Signature not yet current", signed_at, "later", here, TOLERANCE)


def _wrong_time(
    what: str, signed_at: str, relation: str, here: datetime, borne: timedelta
) -> ApiError:
    return forbidden(
        "InvalidSignatureException",
        f"{what}: {signed_at} is now {relation} than {here + borne:{_TIME_FORMAT}}"
        f" ({here:{_TIME_FORMAT}} {'-' if borne < timedelta() else '+'} 5 min.)",
    )
