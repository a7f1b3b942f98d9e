"""NATS JetStream: each event is a message in CloudEvents' binary mode, once it is stored.

It needs the extra `nats` of this package.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import nats.errors
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError

from config.text import shown_reason
from worker.relay.event import Event
from worker.relay.secrets import read_secret
from worker.relay.sink import Delivered, Failed, Fault, Outcome
from worker.relay.sinksfile import NatsSettings

_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What stands for itself in a header, by the CloudEvents bindings."""


class JetStream:
    """Publishes each event to the subject PREFIX.TYPE, and waits until a stream has stored it."""

    most = 1
    most_bytes = 1_000_000

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._opening = asyncio.Lock()
        self._client: Client | None = None

    async def send(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Publish the only event."""
        (event,) = events
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                stream = await self._open()
        except (nats.errors.Error, OSError) as error:
            return [Failed(f"no connection: {shown_reason(error)}", Fault.SINK)]
        return [await self._publish(stream, event)]

    async def _publish(self, stream: JetStreamContext, event: Event) -> Outcome:
        try:
            await stream.publish(
                f"{self._settings.prefix}.{event.type}",
                event.data_text.encode(),
                headers=headers_of(event),
                timeout=self._settings.timeout_seconds,
            )
        except nats.errors.MaxPayloadError as error:
            return Failed(shown_reason(error), Fault.EVENT)
        except NoStreamResponseError:
            reason = f"no stream stores the subject {self._settings.prefix}.{event.type}"
            return Failed(reason, Fault.SINK)
        except (nats.errors.TimeoutError, APIError) as error:
            return Failed(shown_reason(error), Fault.UNCLEAR)
        except (nats.errors.Error, OSError) as error:
            return Failed(shown_reason(error), Fault.SINK)
        return Delivered()

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> JetStreamContext:
        async with self._opening:
            if self._client is None:
                self._client = await _connected(self._settings)
        return self._client.jetstream()


async def _connected(settings: NatsSettings) -> Client:
    """Connect once. The client connects again by itself when it has lost its connection."""
    client = Client()
    await client.connect(
        settings.url,
        name="amplify-import-relay",
        token=read_secret(settings.token) if settings.token else None,
        user_credentials=str(settings.credentials_file) if settings.credentials_file else None,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        connect_timeout=math.ceil(settings.timeout_seconds),
        error_cb=_ignore,
    )
    return client


async def _ignore(_error: Exception) -> None:
    """Log nothing: what fails because of it says so itself."""


def headers_of(event: Event) -> dict[str, str]:
    """Return an event's attributes as headers, and its id, by which a stream drops repeats."""
    attributes = {
        f"ce-{name}": str(value)
        for name, value in event.attributes.items()
        if name not in {"data", "datacontenttype"}
    }
    headers = {"Nats-Msg-Id": f"{event.source}/{event.id}", **attributes}
    encoded = {name: quote(value, safe=_PLAIN) for name, value in headers.items()}
    return {**encoded, "content-type": "application/json"}
