"""SigV4 Authorization headers: parsed, not verified, for the sandbox has no secrets.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html
"""

import re
from dataclasses import dataclass

from worker.sandbox.api import forbidden

SERVICE = "amplifybackend"

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +"
    r"Credential=(?P<access_key_id>[\w-]+)/\d{8}/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[\w-]+)/aws4_request, *"
    r"SignedHeaders=[\w;-]+, *"
    r"Signature=[0-9a-f]{64}"
)


@dataclass(frozen=True, slots=True)
class CredentialScope:
    """Who signed a request, and for where."""

    access_key_id: str
    region: str


def parse_authorization(header: str | None) -> CredentialScope:
    """Read the header's credential scope; raises the 403 that AWS answers to a bad one."""
    if not header:
        raise forbidden("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(header)
    if not match:
        raise forbidden(
            "MissingAuthenticationTokenException",
            "Missing Authentication Token: the Authorization header is not well-formed SigV4.",
        )
    if match["service"] != SERVICE:
        raise forbidden(
            "InvalidSignatureException",
            f"Credential should be scoped to correct service: '{SERVICE}'.",
        )
    return CredentialScope(match["access_key_id"], match["region"])
