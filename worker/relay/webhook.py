"""A webhook: each event is one HTTP request, in CloudEvents' structured mode, signed."""

import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import aiohttp

from config.text import shown_reason
from worker.relay.addresses import PublicResolver
from worker.relay.event import Event
from worker.relay.signature import message_id, signed_headers
from worker.relay.sink import Delivered, Failed, Fault, Gone, Outcome
from worker.relay.sinksfile import WebhookSettings

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
SHOWN_BYTES: Final = 1024
"""How much of an answer is read: to say why the event was refused."""

_OF_EVENT: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_OF_SINK: Final = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY}
)


class Webhook:
    """Sends events to a URL. Redirects are not followed."""

    most = 1
    most_bytes = 1_000_000

    def __init__(self, settings: WebhookSettings) -> None:
        self._url = settings.url
        self._keys = settings.keys
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=None if settings.allow_private else PublicResolver()
            ),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
            headers={"Content-Type": CONTENT_TYPE, "User-Agent": "amplify-import-worker"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Send the only event."""
        (event,) = events
        try:
            return [await self._post(event)]
        except aiohttp.ClientConnectorError as error:
            return [Failed(shown_reason(error), Fault.SINK)]
        except TimeoutError:
            return [Failed("no answer in time", Fault.UNCLEAR)]
        except (aiohttp.ClientError, OSError) as error:
            return [Failed(f"no answer: {shown_reason(error)}", Fault.UNCLEAR)]

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, event: Event) -> Outcome:
        body = event.text.encode()
        headers = signed_headers(message_id(event), int(time.time()), body, self._keys)
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            if answer.status == HTTPStatus.GONE:
                return Gone("HTTP 410: the receiver wants no more events")
            if 200 <= answer.status < 300:
                return Delivered()
            said = await answer.content.read(SHOWN_BYTES)
        return _failed(answer.status, answer.headers.get("Retry-After", ""), said)


def _failed(status: int, retry_after: str, said: bytes) -> Failed:
    reason = f"HTTP {status}: {shown_reason(said.decode(errors='replace'))}".rstrip(": ")
    if status in _OF_SINK or retry_after:
        return Failed(reason, Fault.SINK, seconds_of(retry_after, time.time()))
    return Failed(reason, Fault.EVENT if status in _OF_EVENT else Fault.UNCLEAR)


def seconds_of(retry_after: str, now: float) -> float | None:
    """Return how long a header Retry-After asks to wait: it has seconds or a date."""
    if re.fullmatch(r"\s*\d{1,9}\s*", retry_after, re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None
