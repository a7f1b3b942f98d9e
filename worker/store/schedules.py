"""Computes when the windows of batches are open, for the scripts, which know no time zones.

The scripts compare the openings with the server's time, and they are computed from it. So no
worker's clock matters. A worker that knows a time zone by older rules than the others may compute
other openings: the last one to do so counts, until the next time.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from worker.domain.schedules import ScheduleError, Window
from worker.store.scripts import Scripts

log = structlog.get_logger()

HORIZON: Final = timedelta(days=8)
"""A week, so that a window that opens once a week is known in advance, and a day to renew it."""

RENEWED_MS: Final = 3_600_000
TAKEN_MS: Final = 60_000
TAKEN_AT_ONCE: Final = 100


async def renew_openings(scripts: Scripts) -> None:
    """Compute the openings of batches whose time for it has come.

    A batch whose window this machine can't read, because it does not know the time zone, is logged
    and left to other workers.
    """
    taken = await scripts.call("take_schedules", limit=TAKEN_AT_ONCE, delay_ms=TAKEN_MS)
    now = datetime.fromtimestamp(taken["now_ms"] / 1000, UTC)
    for batch_id, window in taken["windows"].items():
        try:
            openings = openings_of(window, now)
        except ScheduleError as error:
            log.error("schedule.unreadable", batch_id=batch_id, error=str(error))  # noqa: TRY400 - the text or the machine is wrong, not the code
            continue
        await scripts.call(
            "renew_openings",
            batch_id=batch_id,
            window=window,
            openings=openings,
            delay_ms=RENEWED_MS,
        )


def openings_of(window: str, now: datetime) -> list[tuple[int, int]]:
    """Return when a window is open from `now` on, in milliseconds since the epoch.

    Raises:
        ScheduleError: if the text of the window is invalid, or this machine does not know the zone.

    """
    return [
        (round(opens.timestamp() * 1000), round(closes.timestamp() * 1000))
        for opens, closes in Window.parse(window).openings(now, now + HORIZON)
    ]
