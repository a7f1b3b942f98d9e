"""The entry point by Amazon SQS: takes messages off a queue when their requests are admitted.

A message that is delivered again, for whatever reason, is the same import.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from worker.domain.outcomes import Verdict
from worker.doors.sqs_messages import content_of
from worker.engine.admit import Admitter
from worker.operations.requests_queue import QueueFailedError, QueueMessage, RequestsQueue
from worker.store.connection import StoreUnavailableError

log = structlog.get_logger()

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0


class QueueObserver(Protocol):
    """Is told what happens at the queue."""

    def received(self, messages: int) -> None:
        """Count messages that were received."""
        ...

    def queue_failing(self, since: float | None) -> None:
        """Note since when calls to the queue fail (`time.monotonic`); None if they succeed."""
        ...


class SqsDoor:
    """Receives messages, admits their requests, and deletes the messages, in this order.

    It receives no more until it has admitted what it has: so a slow store slows it down.
    """

    def __init__(
        self,
        queue: RequestsQueue,
        admitter: Admitter,
        observer: QueueObserver,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._admitter = admitter
        self._observer = observer
        self._sleep = sleep
        self._received: list[QueueMessage] = []
        self._settling: asyncio.Future[None] | None = None
        # the code of the last failure, by method
        self._failures: dict[str, str] = {}
        self._failing_since: float | None = None
        self._wait_seconds = FIRST_WAIT_SECONDS

    async def take(self) -> None:
        """Take one batch of messages; wait a while if a call to the queue failed.

        May be cancelled while it waits. Raises StoreUnavailableError; the messages are then
        admitted next time, unless their visibility timeout has brought them to another worker.
        """
        try:
            if not self._received:
                self._received = await self._queue.receive()
                self._succeeded("receive_message")
                self._observer.received(len(self._received))
            if self._received:
                self._settling = asyncio.ensure_future(self._settle())
                await asyncio.shield(self._settling)
        except QueueFailedError as error:
            await self._sleep(self._failed(error))

    async def close(self) -> None:
        """Settle what was received, or release it if the store can't be reached."""
        with suppress(TimeoutError, QueueFailedError):
            async with asyncio.timeout(STOP_SECONDS):
                if self._settling is not None:
                    await asyncio.gather(self._settling, return_exceptions=True)
                if self._received:
                    await self._queue.release(self._received)

    async def _settle(self) -> None:
        messages, self._received = self._received, []
        try:
            await self._admit(messages)
        except StoreUnavailableError:
            # Receiving them again and again instead would exhaust the queue's maxReceiveCount.
            self._received = messages
            raise
        await self._queue.delete(messages)
        self._succeeded("delete_message_batch")

    async def _admit(self, messages: Sequence[QueueMessage]) -> None:
        contents = [content_of(self._queue.name, message) for message in messages]
        entries = [(content.id, content.text, content.trace) for content in contents]
        admissions = await self._admitter.admit_entries(entries, origin="sqs")
        for message, admission in zip(messages, admissions, strict=True):
            if admission.verdict is Verdict.REJECTED:
                log.warning(
                    "sqs.request_rejected", message_id=message.id, import_id=admission.import_id
                )

    def _succeeded(self, method: str) -> None:
        if self._failures.pop(method, None):
            log.info("sqs.call_succeeded", method=method, queue=self._queue.name)
        if not self._failures:
            self._wait_seconds = FIRST_WAIT_SECONDS
            self._note_failing(since=None)

    def _failed(self, error: QueueFailedError) -> float:
        """Note a failure; return after how many seconds to try again."""
        wait_seconds = self._wait_seconds * random.uniform(0.5, 1)  # noqa: S311 - spreads workers
        self._wait_seconds = min(2 * self._wait_seconds, LONGEST_WAIT_SECONDS)
        if self._failures.get(error.method) != error.code:
            log.warning(
                "sqs.call_failed", method=error.method, queue=self._queue.name, error=str(error)
            )
        self._failures[error.method] = error.code
        self._note_failing(since=self._failing_since or time.monotonic())
        return wait_seconds

    def _note_failing(self, *, since: float | None) -> None:
        self._failing_since = since
        self._observer.queue_failing(since)
