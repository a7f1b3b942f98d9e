"""One reader of the event stream for all that follow it in this process.

The reader keeps the newest events in a window. Whoever follows the stream has a position in it, and
nothing else, so a slow one holds no memory. One that falls behind the window reads from the store.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from worker.store.cancellation import cancel_all
from worker.store.connection import StoreUnavailableError, translated
from worker.store.views import READ_AT_ONCE, Event, ImportViews

WINDOW: Final = 2_000
BLOCK_MS: Final = 5_000

Entry = tuple[str, Event]
"""An event with the id of its entry."""

START: Final = "0"
"""The position before the oldest event."""


def place_of(position: str) -> tuple[int, int]:
    """Return a position in a form that can be compared."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)


class EventFeed:
    """Reads the event stream while anybody follows it. One object serves one event loop."""

    def __init__(self, views: ImportViews) -> None:
        self._views = views
        self._window: deque[Entry] = deque()
        self._window_begins: tuple[int, int] | None = None
        self._followers = 0
        self._reading: asyncio.Task[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()
        """The reader, and those before it that have not ended yet."""
        self._news: asyncio.Future[None] | None = None

    @contextmanager
    def follow(self, position: str) -> Iterator["Follower"]:
        """Yield a follower that stands behind the entry `position`."""
        self._followers += 1
        try:
            yield Follower(self, position)
        finally:
            self._followers -= 1
            if not self._followers and self._reading:
                self._reading.cancel()
                self._stop_reading()

    @property
    def is_read(self) -> bool:
        """Whether there is a reader whose window begins now or earlier."""
        return self._window_begins is not None

    async def close(self) -> None:
        """End the reading, and each wait for events with an error."""
        self._stop_reading()
        self._fail(StoreUnavailableError("the client is closed"))
        await cancel_all(self._readers)

    def wake(self) -> None:
        """End each wait for events, as if there were news."""
        news, self._news = self._news, None
        if news and not news.done():
            news.set_result(None)

    def news(self) -> asyncio.Future[None]:
        """Return what is done when there may be more events, or fails with the store's error."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="read_events")
            self._readers.add(self._reading)
            self._reading.add_done_callback(self._note_end)
        return self._news

    async def behind(self, position: str) -> list[Entry]:
        """Return some of the events behind an entry, oldest first; none if there are no more.

        The newest event may be missing; there will be news of it.
        """
        place = place_of(position)
        if self._window_begins is None or place < self._window_begins:
            return await self.stored_behind(position)
        newer = (entry for entry in self._window if place_of(entry[0]) > place)
        return list(islice(newer, READ_AT_ONCE))

    @translated
    async def stored_behind(self, position: str) -> list[Entry]:
        """Return some of the events that the store has behind an entry, oldest first."""
        return await self._views.events(position)

    @translated
    async def _read(self) -> None:
        this = asyncio.current_task()
        position = await self._views.newest_event_id()
        self._window.clear()
        self._window_begins = place_of(position)
        self.wake()  # an event may have come in before the window began
        while True:
            entries = await self._views.events(position, block_ms=BLOCK_MS)
            # The driver may lose a cancellation; see `cancel_all`.
            if self._reading is not this:
                return
            if entries:
                position = entries[-1][0]
                self._keep(entries)
                self.wake()

    def _note_end(self, reading: asyncio.Task[None]) -> None:
        """Pass a failure of the reader on to those who wait."""
        self._readers.discard(reading)
        if self._reading is reading:
            self._stop_reading()
        if not reading.cancelled() and (error := reading.exception()):
            self._fail(error)

    def _stop_reading(self) -> None:
        self._reading = None
        self._window_begins = None

    def _keep(self, entries: list[Entry]) -> None:
        self._window.extend(entries)
        while len(self._window) > WINDOW:
            self._window_begins = place_of(self._window.popleft()[0])

    def _fail(self, error: BaseException) -> None:
        news, self._news = self._news, None
        if news and not news.done():
            news.set_exception(error)
            news.exception()  # even if nobody waits


class Follower:
    """A place in the event stream."""

    def __init__(self, feed: EventFeed, position: str) -> None:
        self._feed = feed
        self.position = position

    async def read(self, seconds: float | None = None) -> list[Entry]:
        """Return the next events, oldest first, waiting up to `seconds` for one.

        There may be none, even if less time has passed.

        Raises:
            StoreUnavailableError: if the store can't be reached.

        """
        news = self._feed.news()  # before looking, so that nothing is missed
        if entries := self._at(await self._feed.behind(self.position)):
            return entries
        done, _ = await asyncio.wait({news}, timeout=seconds)
        for each in done:
            each.result()
        return self._at(await self._feed.behind(self.position))

    async def drain(self) -> list[Entry]:
        """Return the next events that the store has now; none if there are no more."""
        return self._at(await self._feed.stored_behind(self.position))

    def _at(self, entries: list[Entry]) -> list[Entry]:
        """Move behind these events."""
        if entries:
            self.position = entries[-1][0]
        return entries
