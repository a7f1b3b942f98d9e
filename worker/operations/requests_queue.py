"""The queue of Amazon SQS from which workers take requests."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from config.names import TRACEPARENT_HEADER, TRACESTATE_HEADER
from config.text import shown_reason
from worker.operations.services import open_client
from worker.operations.transport import Progress, progress_of_call

LONG_POLL_SECONDS: Final = 20
"""The longest that SQS offers. An idle worker makes 180 calls an hour."""
CALL_SECONDS: Final = 10.0
"""How long a call may take beyond that."""
RECEIVED_AT_ONCE: Final = 10

Called = Callable[[str, int, float], None]
"""Is told of each call: the SDK's method, the HTTP status (0 for no answer), and the seconds."""


class QueueFailedError(Exception):
    """A call to the queue failed. `code` is AWS's, or the class of the error."""

    def __init__(self, method: str, code: str, said: str) -> None:
        self.method = method
        self.code = code
        super().__init__(said)


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A message that was received. Until the queue's visibility timeout ends, nobody else gets it.

    `attributes` are its attributes `traceparent` and `tracestate`, as far as it has them.
    """

    id: str
    receipt: str
    body: str
    attributes: Mapping[str, str]


class RequestsQueue:
    """Makes calls to one queue, one at a time. Every method but `close` raises QueueFailedError.

    After a failure, the next call gets a new client, which looks for credentials again.
    """

    def __init__(
        self, url: str, called: Called, long_poll_seconds: int = LONG_POLL_SECONDS
    ) -> None:
        self.url = url
        self._called = called
        self._long_poll_seconds = long_poll_seconds
        self._opened = AsyncExitStack()
        self._client: Any = None

    @property
    def name(self) -> str:
        """The account and the name of the queue, whatever endpoint it is reached by."""
        return urlsplit(self.url).path.strip("/")

    async def receive(self) -> list[QueueMessage]:
        """Return up to ten messages; wait for the first. Return none after the long poll."""
        answer = await self._call(
            "receive_message",
            self._long_poll_seconds + CALL_SECONDS,
            MaxNumberOfMessages=RECEIVED_AT_ONCE,
            WaitTimeSeconds=self._long_poll_seconds,
            MessageAttributeNames=[TRACEPARENT_HEADER, TRACESTATE_HEADER],
        )
        return [_message(each) for each in answer.get("Messages", ())]

    async def delete(self, messages: Sequence[QueueMessage]) -> None:
        """Delete messages, ten at most. If one can't be deleted, the others still are."""
        await self._call_each("delete_message_batch", messages)

    async def release(self, messages: Sequence[QueueMessage]) -> None:
        """Make messages, ten at most, visible to other workers."""
        await self._call_each("change_message_visibility_batch", messages, VisibilityTimeout=0)

    async def attributes(self) -> Mapping[str, str]:
        """Return the attributes of the queue."""
        answer = await self._call("get_queue_attributes", AttributeNames=["All"])
        found: Mapping[str, str] = answer.get("Attributes", {})
        return found

    async def close(self) -> None:
        """Close the connections. The next call opens them again."""
        self._client = None
        await self._opened.aclose()

    async def _call_each(
        self, method: str, messages: Sequence[QueueMessage], **more: object
    ) -> None:
        entries = [
            {"Id": str(number), "ReceiptHandle": message.receipt, **more}
            for number, message in enumerate(messages)
        ]
        answer = await self._call(method, Entries=entries)
        for each in answer.get("Failed", ()):
            code = str(each.get("Code", ""))
            raise QueueFailedError(method, code, shown_reason(f"{code}: {each.get('Message', '')}"))

    async def _call(self, method: str, seconds: float = CALL_SECONDS, **params: object) -> Any:
        progress_of_call.set(Progress())
        began, status = time.monotonic(), 0
        try:
            async with asyncio.timeout(seconds):
                client = await self._open()
                answer = await getattr(client, method)(QueueUrl=self.url, **params)
            status = 200
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(error.response.get("Error", {}).get("Code", "")) or str(status)
            await self.close()
            raise QueueFailedError(method, code, shown_reason(error)) from error
        except Exception as error:  # providers of credentials and parsers raise errors of any kind
            await self.close()
            said = "no answer in time" if isinstance(error, TimeoutError) else shown_reason(error)
            raise QueueFailedError(method, type(error).__name__, said) from error
        finally:
            self._called(method, status, time.monotonic() - began)
        return answer

    async def _open(self) -> Any:
        if self._client is None:
            seconds = self._long_poll_seconds + CALL_SECONDS
            client = open_client("sqs", self.url, timeout_seconds=seconds, max_connections=2)
            self._client = await self._opened.enter_async_context(client)
        return self._client


def _message(raw: Mapping[str, Any]) -> QueueMessage:
    attributes = raw.get("MessageAttributes", {}).items()
    texts = {name: str(each.get("StringValue", "")) for name, each in attributes}
    return QueueMessage(raw["MessageId"], raw["ReceiptHandle"], raw.get("Body", ""), texts)
