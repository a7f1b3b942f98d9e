"""The events of a batch as server-sent events, until the batch is complete.

The format is that of the HTML standard: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import web

from worker.client import AsyncImportClient, BatchCounts, NotKnownError, StoreUnavailableError
from worker.client.feed import START, Entry, Follower
from worker.domain.events import EventType
from worker.doors.http.problems import ProblemError, identifier_in

log = structlog.get_logger()

LAST_EVENT_ID: Final = "Last-Event-ID"
POSITION: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")
PROGRESS_SECONDS: Final = 1.0
"""The shortest time between two messages about the progress of a batch."""

HEARTBEAT_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 30.0
"""How long a reader may take to take a message."""

MOST_STREAMS: Final = 200
AGAIN_SECONDS: Final = 10


class BatchStreams:
    """Sends batches' events to any number of readers, from one reader of the event stream.

    A reader that is slow holds a position in the stream, and up to one page of events.
    """

    def __init__(self, client: AsyncImportClient) -> None:
        self._client = client
        self.number = 0
        """How many streams are open."""
        self._is_closing = False

    def close(self) -> None:
        """End all streams, each after its current message."""
        self._is_closing = True
        self._client.feed.wake()

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Answer with a batch's events behind `Last-Event-ID`; by default, with all there are."""
        if self.number >= MOST_STREAMS:
            detail = f"{MOST_STREAMS} event streams are open already."
            headers = {"Retry-After": str(AGAIN_SECONDS)}
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)
        counts = await self._client.batch(identifier_in(request, "batchId"))
        last = request.headers.get(LAST_EVENT_ID, "")
        if last and not POSITION.fullmatch(last):
            detail = f"The header {LAST_EVENT_ID} must be the id of an event of this stream."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
        self.number += 1
        try:
            with self._client.feed.follow(last or _before(counts)) as follower:
                stream = _BatchStream(self._client, counts.batch_id, follower)
                if last and counts.completed and not await stream.has_more():
                    # tells a browser's EventSource not to connect again
                    return web.Response(status=HTTPStatus.NO_CONTENT)
                return await self._answer(request, stream)
        finally:
            self.number -= 1

    async def _answer(self, request: web.Request, stream: "_BatchStream") -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        try:
            await stream.send_to(response, lambda: self._is_closing)
            await response.write_eof()
        except (ConnectionError, TimeoutError, StoreUnavailableError, NotKnownError) as error:
            # The reader is gone or too slow, or the store is away. It may resume.
            if isinstance(error, StoreUnavailableError):
                log.warning("store.unreachable", error=str(error))
            if request.transport is not None:
                request.transport.abort()
        return response


class _BatchStream:
    """What one reader gets of a batch: its events, and its counts as they change."""

    def __init__(self, client: AsyncImportClient, batch_id: str, follower: Follower) -> None:
        self._client = client
        self._batch_id = batch_id
        self._follower = follower
        self._written_at = time.monotonic()
        self._progress_due_at: float | None = 0.0
        self._shown: Mapping[str, Any] = {}

    async def has_more(self) -> bool:
        """Return whether the store has events of the batch behind the follower."""
        position = self._follower.position
        while entries := await self._follower.drain():
            if self._wanted(entries):
                self._follower.position = position
                return True
        return False

    async def send_to(self, response: web.StreamResponse, is_closing: Callable[[], bool]) -> None:
        """Send events until the batch is complete, or until `is_closing`."""
        while not is_closing():
            now = time.monotonic()
            if self._progress_due_at is not None and now >= self._progress_due_at:
                if await self._send_progress(response):
                    return
                continue
            due_at = self._written_at + HEARTBEAT_SECONDS
            if now >= due_at:
                await self._write(response, ": still there\n\n")
                continue
            entries = await self._follower.read(min(due_at, self._progress_due_at or due_at) - now)
            if wanted := self._wanted(entries):
                await self._write(response, "".join(map(_message_of, wanted)))
                self._note_change(wanted)

    async def _send_progress(self, response: web.StreamResponse) -> bool:
        """Send the counts if they have changed; return whether the batch is complete.

        Before the last counts, the reader gets all events that the store has.
        """
        self._progress_due_at = None
        counts = await self._client.batch(self._batch_id)
        while counts.completed and (entries := await self._follower.drain()):
            await self._write(response, "".join(map(_message_of, self._wanted(entries))))
        if (shown := counts.as_json()) != self._shown:
            self._shown = shown
            await self._write(response, f"event: progress\ndata: {json.dumps(shown)}\n\n")
        return counts.completed

    def _note_change(self, entries: Sequence[Entry]) -> None:
        """Let the next progress follow soon, or at once if the batch may be complete."""
        if any(event["type"] == EventType.BATCH_COMPLETED for _, event in entries):
            self._progress_due_at = 0.0
        elif self._progress_due_at is None:
            self._progress_due_at = time.monotonic() + PROGRESS_SECONDS

    def _wanted(self, entries: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry[1]["data"].get("batchId") == self._batch_id]

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        if text:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(text.encode())
        self._written_at = time.monotonic()


def _message_of(entry: Entry) -> str:
    position, event = entry
    return f"id: {position}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"


def _before(counts: BatchCounts) -> str:
    """Return a position before the first event of a batch: entries are named by the store's time.

    An earlier release may not have written when the batch was created.
    """
    return str(counts.created_at_ms - 1) if counts.created_at_ms else START
