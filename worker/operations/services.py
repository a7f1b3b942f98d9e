"""Clients of AWS services that are not imported into, such as SQS.

They share the accounts' sessions: credentials are found in the same way, and no call is repeated by
the SDK, which leaves retries to the caller.
"""

import os
import re
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig

from worker.domain.requests import DEFAULT_ACCOUNT
from worker.operations.sessions import AccountSession

_REGION_OF_QUEUE: Final = re.compile(
    r"(?:[a-z0-9-]+\.)?sqs(?:-fips)?\.([a-z0-9-]+)\..+|([a-z0-9-]+)\.queue\..+"
)
_PUBLIC_QUEUE: Final = re.compile(
    r"(?:sqs(?:-fips)?\.[a-z0-9-]+|([a-z0-9-]+\.)?queue)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)"
)
"""Hosts to which the SDK itself sends calls. Others are those of VPC endpoints and emulators."""


def open_client(
    service: str,
    place: str,
    *,
    profile: str = "",
    region: str = "",
    timeout_seconds: float,
    max_connections: int,
) -> AbstractAsyncContextManager[Any]:
    """Return the SDK's client of a service, to be entered.

    `place` is the ARN, the name or the URL of what the client is for. The region is `region`, else
    that of the place, else `AWS_REGION`, else the profile's. `profile` is '' for the ambient
    credentials. Every task that makes calls needs a `progress_of_call`.
    """
    account = AccountSession(profile or DEFAULT_ACCOUNT, timeout_seconds)
    config = AioConfig(
        connect_timeout=timeout_seconds,
        read_timeout=timeout_seconds,
        max_pool_connections=max_connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    client: AbstractAsyncContextManager[Any] = aioboto3.Session(botocore_session=account).client(
        service,
        # botocore itself reads only AWS_DEFAULT_REGION
        region_name=region or region_of(place) or os.environ.get("AWS_REGION") or None,
        endpoint_url=endpoint_of(place),
        config=config,
    )
    return client


def region_of(place: str) -> str:
    """Return the region that an ARN or the URL of a queue names; '' if it names none."""
    if place.startswith("arn:"):
        return [*place.split(":"), "", "", ""][3]
    found = _REGION_OF_QUEUE.fullmatch(urlsplit(place).hostname or "")
    return (found[1] or found[2]) if found else ""


def endpoint_of(place: str) -> str | None:
    """Return the endpoint that the URL of a queue names, or None if the SDK finds it.

    AWS's own variables take precedence. The SDK does not use the URL of a queue as an endpoint.
    """
    parts = urlsplit(place)
    is_named = any(os.environ.get(f"AWS_ENDPOINT_URL{suffix}") for suffix in ("", "_SQS"))
    is_url = parts.scheme in {"http", "https"}
    if is_named or not is_url or _PUBLIC_QUEUE.fullmatch(parts.hostname or ""):
        return None
    return f"{parts.scheme}://{parts.netloc}"
