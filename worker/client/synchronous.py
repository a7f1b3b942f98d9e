"""The client for programs without an event loop: the asynchronous one, on a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from worker.client.asynchronous import CANCELLED, AsyncImportClient, Members
from worker.client.results import Event, ImportResult
from worker.domain.outcomes import Cancellation, Retried
from worker.store.batchview import BatchCounts

T = TypeVar("T")


class ImportClient:
    """Submits imports and follows them, through the store alone. Any number of threads may use it.

    The methods are those of AsyncImportClient, which has their contracts. Use it in a `with` block,
    or call `close` at the end. A forked process needs a client of its own.
    """

    def __init__(self, url: str = "") -> None:
        self._client = AsyncImportClient(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="amplify-import-client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end the thread. May be called twice."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, request: Members, *, idempotency_key: str = "") -> str:
        """Admit one request; return its import id."""
        return self._run(self._client.submit(request, idempotency_key=idempotency_key))

    def submit_many(self, requests: Sequence[Members], *, idempotency_key: str = "") -> list[str]:
        """Admit all of these requests or none; return their import ids, in the same order."""
        return self._run(self._client.submit_many(requests, idempotency_key=idempotency_key))

    def submit_batch(
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
        """Admit all of these requests of a batch or none; return their import ids."""
        return self._run(
            self._client.submit_batch(
                batch_id,
                requests,
                offset=offset,
                total=total,
                canary=canary,
                stop_percent=stop_percent,
                start_at=start_at,
                window=window,
                max_per_hour=max_per_hour,
            )
        )

    def get(self, import_id: str) -> ImportResult:
        """Return an import as it stands."""
        return self._run(self._client.get(import_id))

    def wait(self, import_id: str, timeout: float | None = None) -> ImportResult:
        """Return an import when it has ended, however it ended."""
        return self._run(self._client.wait(import_id, timeout))

    def events(
        self, *, import_id: str = "", batch_id: str = "", after: str | None = None
    ) -> Iterator[Event]:
        """Yield events as they happen, without end: all, or those of an import or of a batch."""
        stream = self._client.events(import_id=import_id, batch_id=batch_id, after=after)
        try:
            while True:
                yield self._run(anext(stream))
        finally:
            with suppress(RuntimeError):  # the client was closed before
                self._run(stream.aclose())

    def batch(self, batch_id: str) -> BatchCounts:
        """Return the counts of a batch."""
        return self._run(self._client.batch(batch_id))

    def cancel(self, import_id: str, reason: str = CANCELLED) -> Cancellation:
        """Cancel an import; return what became of it."""
        return self._run(self._client.cancel(import_id, reason))

    def retry(self, import_id: str) -> Retried:
        """Submit the request of an import that did not succeed again, as a new import."""
        return self._run(self._client.retry(import_id))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # also an interrupt, so that nothing is left running
            future.cancel()
            raise
