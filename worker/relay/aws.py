"""What the sinks at AWS share: a client, batches of ten, and what errors mean."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from config.text import shown_reason
from worker.operations.services import open_client
from worker.operations.transport import Progress, progress_of_call
from worker.relay.event import Event
from worker.relay.sink import Failed, Fault, Outcome
from worker.relay.sinksfile import AwsSettings

LARGEST_BATCH: Final = 10
BATCH_BYTES: Final = 200_000
"""Of 256 KiB that a call may have. The rest is for the attributes of ten messages."""

ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time")
CONTENT_TYPE: Final = "application/cloudevents+json"

_INVALID: Final = re.compile(r"Invalid|Validation|Malformed|TooLong|Redaction|Batch|FilterPolicy")
"""Codes of errors that are about what was sent."""

_FIFO_ID: Final = re.compile(r"[!-~]{1,128}")


class AwsSink(ABC):
    """Sends events with a client of one AWS service. The relay decides about retries."""

    most = LARGEST_BATCH
    most_bytes = BATCH_BYTES

    def __init__(self, service: str, settings: AwsSettings) -> None:
        self._service = service
        self._settings = settings
        self._opened = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None

    async def send(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Send up to ten events with one call."""
        progress_of_call.set(Progress())
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                return await self._send(await self._open(), events)
        except ClientError as error:
            failed = _failed(error)
        except TimeoutError:
            failed = Failed("no answer in time", Fault.UNCLEAR)
        except (BotoCoreError, OSError) as error:
            failed = Failed(shown_reason(error), Fault.SINK)
        if failed.fault is Fault.EVENT and len(events) > 1:
            # AWS refused the call because of one of them
            alone = [await self.send([event]) for event in events]
            return [outcome for (outcome,) in alone]
        return [failed] * len(events)

    async def close(self) -> None:
        """Close the client."""
        await self._opened.aclose()

    @abstractmethod
    async def _send(self, client: Any, events: Sequence[Event]) -> Sequence[Outcome]:
        """Make one call, and return what became of each event."""

    async def _open(self) -> Any:
        async with self._opening:
            if self._client is None:
                client = open_client(
                    self._service,
                    self._settings.place,
                    profile=self._settings.profile,
                    region=self._settings.region,
                    timeout_seconds=self._settings.timeout_seconds,
                    max_connections=self._settings.concurrency,
                )
                self._client = await self._opened.enter_async_context(client)
        return self._client


def refused(code: str, message: str, fault: Fault) -> Failed:
    """Return the failure of one event of a batch."""
    return Failed(shown_reason(f"{code}: {message}".rstrip(": ")), fault)


def is_about_the_event(code: str) -> bool:
    """Return whether a code of an error says that the event is invalid."""
    return bool(_INVALID.search(code))


def fifo_id(text: str) -> str:
    """Return a text as an id of a FIFO queue: printable, and of 128 characters at most."""
    return text if _FIFO_ID.fullmatch(text) else sha256(text.encode()).hexdigest()


def message_attributes(event: Event) -> dict[str, dict[str, str]]:
    """Return the CloudEvents attributes as those of a message, for filters."""
    texts = {f"ce-{name}": str(event.attributes[name]) for name in ATTRIBUTES}
    texts["content-type"] = CONTENT_TYPE
    return {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}


def _failed(error: ClientError) -> Failed:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status == 400 and is_about_the_event(code) and "Token" not in code:
        return Failed(shown_reason(error), Fault.EVENT)
    fault = Fault.UNCLEAR if status in {500, 502, 504} else Fault.SINK
    return Failed(shown_reason(error), fault)
