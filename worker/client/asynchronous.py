"""The client for programs with an event loop."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Self

from config.settings import SettingsError, load_settings
from worker.client.feed import EventFeed
from worker.client.regions import ConfiguredRegions
from worker.client.results import Event, ImportResult
from worker.domain.batches import MAX_BATCH_REQUESTS, BatchMessage
from worker.domain.imports import Import
from worker.domain.outcomes import Cancellation, Retried
from worker.domain.requests import InvalidRequestError, shown
from worker.domain.submissions import InvalidSubmissionError, Problem, SubmissionError
from worker.domain.traces import TraceContext
from worker.engine.accounts import WorkersCheck
from worker.engine.checking import RequestCheck
from worker.engine.submission import Submitter
from worker.engine.tracing import UNTRACED, Tracer
from worker.operations.registry import OPERATIONS
from worker.parameters import store_config
from worker.store.batchview import BatchCounts
from worker.store.connection import connect, translated
from worker.store.store import ImportStore
from worker.store.views import ImportViews

Members = Mapping[str, Any]
"""A request: its members, as docs/reference/requests.md lists them."""

LONGEST_KEY: Final = 256
ONE_KEY: Final = "differs from the key that was given beside the request"
BAD_KEY: Final = f"must be text of 1 to {LONGEST_KEY} printable characters"
CANCELLED: Final = "by a client, no reason given"


class NotKnownError(LookupError):
    """There is no such import or batch, or its record has expired."""


class AsyncImportClient:
    """Submits imports and follows them, through the store alone. One object serves one event loop.

    `url` is the store's; by default IMPORTS_REDIS_URL. The other settings that concern the store
    (retention, length and source of the events) come from the environment and must be those of the
    workers. Use it in an `async with` block, or call `close` at the end.

    All methods raise StoreUnavailableError if the store can't be reached or refuses. To repeat a
    call then is safe if its requests have ids or idempotency keys.

    Raises:
        config.settings.SettingsError: if a setting or the URL is invalid.

    """

    def __init__(self, url: str = "", *, tracer: Tracer = UNTRACED) -> None:
        settings = load_settings()
        if url:
            settings = settings.model_copy(update={"redis_url": url})
        try:
            self._redis = connect(settings.redis_url)
        except ValueError as error:
            raise SettingsError(f"the store's URL: {error}") from error
        self._store = ImportStore(self._redis, store_config(settings))
        self._views = ImportViews(self._redis)
        check = RequestCheck(OPERATIONS, WorkersCheck(self._store), ConfiguredRegions())
        self._submitter = Submitter(check, self._store, tracer)
        self.feed = EventFeed(self._views)
        """The event stream, read once for all that follow it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Whoever still waits for events gets StoreUnavailableError."""
        await self.feed.close()
        await self._redis.aclose()

    async def submit(
        self, request: Members, *, idempotency_key: str = "", trace: TraceContext | None = None
    ) -> str:
        """Admit one request; return its import id.

        With the same idempotency key (a parameter or a member), the same request is one import.

        Raises:
            InvalidSubmissionError: if the request is invalid. Nothing is stored.
            ConflictError: if its importId or its key belongs to another request.

        """
        try:
            members = _with_key(request, idempotency_key)
            (import_id,) = await self._submitter.submit([members], trace=trace)
        except SubmissionError as error:
            only = tuple(replace(each, position=None) for each in error.problems)
            raise type(error)(only) from None
        return import_id

    async def submit_many(
        self,
        requests: Sequence[Members],
        *,
        idempotency_key: str = "",
        trace: TraceContext | None = None,
    ) -> list[str]:
        """Admit all of these requests or none; return their import ids, in the same order.

        With an idempotency key, each request gets an import id that follows from the key and its
        position, unless it has an importId or a key of its own. So the same list again is the same
        imports.

        Raises:
            InvalidSubmissionError: if any request is invalid. Nothing is stored.
            ConflictError: if any importId or key belongs to another request.

        """
        if idempotency_key and not _is_key(idempotency_key):
            raise InvalidSubmissionError((Problem("idempotencyKey", BAD_KEY),))
        return await self._submitter.submit(requests, idempotency_key, trace)

    async def submit_batch(
        self,
        batch_id: str,
        requests: Sequence[Members],
        *,
        offset: int = 0,
        total: int | None = None,
        canary: int | None = None,
        stop_percent: float | None = None,
        start_at: str | None = None,
        window: str | None = None,
        max_per_hour: int | None = None,
    ) -> list[str]:
        """Admit all of these requests of a batch or none; return their import ids.

        Parameters and ids are those of a batch message (docs/guides/produce.md), and there may be
        more than 1,000 requests. To submit the same batch again is safe.

        Raises:
            InvalidSubmissionError: if a parameter or any request is invalid. Nothing is stored.
            ConflictError: if any importId or key belongs to another request.

        """
        of_all = {"batchId": batch_id, "total": max(offset + len(requests), total or 0)}
        given = {
            "canary": canary,
            "stopPercent": stop_percent,
            "startAt": start_at,
            "window": window,
            "maxPerHour": max_per_hour,
        }
        of_all |= {name: value for name, value in given.items() if value is not None}
        return await self._submitter.submit_batch(_messages(of_all, requests, offset))

    async def get(self, import_id: str) -> ImportResult:
        """Return an import as it stands. Raises NotKnownError."""
        return ImportResult.of(await self._find(import_id))

    async def wait(self, import_id: str, timeout: float | None = None) -> ImportResult:  # noqa: ASYNC109 - as Celery's AsyncResult.get
        """Return an import when it has ended, however it ended. It waits for events, polling none.

        Raises:
            NotKnownError: if there is no such import.
            TimeoutError: if it has not ended after `timeout` seconds.

        """
        position = await self._newest_event_id()
        item = await self._find(import_id)
        async with asyncio.timeout(timeout):
            with self.feed.follow(position) as follower:
                while not item.is_terminal:
                    events = await follower.read()
                    if any(event["data"].get("importId") == import_id for _, event in events):
                        item = await self._find(import_id)
        return ImportResult.of(item)

    async def events(
        self, *, import_id: str = "", batch_id: str = "", after: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield events as they happen, without end: all, or those of an import or of a batch.

        `after` is the `position` behind which to begin; `0` begins with the oldest event. By
        default, it begins with the next event.
        """
        with self.feed.follow(after or await self._newest_event_id()) as follower:
            while True:
                for position, event in await follower.read():
                    data = event["data"]
                    if import_id and data.get("importId") != import_id:
                        continue
                    if batch_id and data.get("batchId") != batch_id:
                        continue
                    yield Event.of(position, event)

    async def batch(self, batch_id: str) -> BatchCounts:
        """Return the counts of a batch. Raises NotKnownError."""
        counts = await self._counts(batch_id)
        if counts is None:
            raise NotKnownError(f"there is no batch {shown(batch_id)}")
        return counts

    async def cancel(self, import_id: str, reason: str = CANCELLED) -> Cancellation:
        """Cancel an import; return what became of it. Raises NotKnownError.

        A job that already runs continues in AWS. An import with a call in progress is cancelled
        when that call is answered (`ASKED`).
        """
        verdict = await self._store.cancel(import_id, reason)
        if verdict is Cancellation.UNKNOWN:
            raise _not_known(import_id)
        return verdict

    async def retry(self, import_id: str) -> Retried:
        """Submit the request of an import that did not succeed again, as a new import.

        Returns the verdict and the id of the new import. Raises NotKnownError.
        """
        return await self._store.retry(await self._find(import_id))

    @translated
    async def ping(self) -> None:
        """Return if the store answers."""
        await self._views.now()

    async def _find(self, import_id: str) -> Import:
        item = await self._store.load(import_id)
        if item is None:
            raise _not_known(import_id)
        return item

    @translated
    async def _counts(self, batch_id: str) -> BatchCounts | None:
        return await self._views.batch(batch_id)

    @translated
    async def _newest_event_id(self) -> str:
        return await self._views.newest_event_id()


def _not_known(import_id: str) -> NotKnownError:
    return NotKnownError(f"there is no import {shown(import_id)}")


def _is_key(key: str) -> bool:
    return len(key) <= LONGEST_KEY and key.isprintable()


def _with_key(request: Members, key: str) -> object:
    """Return the request with its idempotency key, which may also be a member."""
    if not key or not isinstance(request, Mapping):
        return request
    own = request.get("idempotencyKey", request.get("idempotency_key", key))
    if own != key:
        raise InvalidSubmissionError((Problem("idempotencyKey", ONE_KEY),))
    return {**{k: v for k, v in request.items() if k != "idempotency_key"}, "idempotencyKey": key}


def _messages(
    of_all: Mapping[str, Any], requests: Sequence[Members], offset: int
) -> list[BatchMessage]:
    """Return a batch's requests as messages, one even if there are none."""
    parts = range(0, len(requests), MAX_BATCH_REQUESTS) or [0]
    return [
        _message(
            {
                **of_all,
                "offset": offset + first,
                "requests": list(requests[first : first + MAX_BATCH_REQUESTS]),
            }
        )
        for first in parts
    ]


def _message(members: Mapping[str, Any]) -> BatchMessage:
    try:
        return BatchMessage.parse(members)
    except InvalidRequestError as error:
        raise InvalidSubmissionError(
            tuple(Problem(member, reason) for member, reason in error.problems)
        ) from None
