"""The signature of a webhook, by the Standard Webhooks specification 1.0.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from worker.relay.event import Event

PREFIX: Final = "whsec_"
SHORTEST: Final = 24
LONGEST: Final = 64
"""Bytes of a key, as the specification has it."""


def key_of(secret: str) -> bytes:
    """Return the key in a secret `whsec_…`.

    Raises:
        ValueError: if it is none. The message does not show it.

    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"is not whsec_ and {SHORTEST} to {LONGEST} bytes in base64")
    return key


def message_id(event: Event) -> str:
    """Return the id of an event's message: the same at each attempt.

    A producer may choose an import id with full stops, and the specification forbids these here:
    the parts that are signed are separated by them. So it is derived from the event's id.
    """
    digest = sha256(f"{event.source}\0{event.id}".encode()).hexdigest()
    return f"evt_{digest[:32]}"


def signed_headers(
    message: str, timestamp: int, body: bytes, keys: Sequence[bytes]
) -> dict[str, str]:
    """Return the headers of a message that is signed with each key."""
    signed = f"{message}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
