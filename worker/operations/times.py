"""Reads times in the formats of AWS's services: epoch numbers, ISO 8601, HTTP dates.

The AmplifyBackend API documents no format for the times of its jobs. So a reading says how far off
it may be: by a second for whole seconds, by half a day for a time without a zone.
"""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

DAY: Final = 86400.0
ANY_ZONE_SECONDS: Final = 14 * 3600.0
"""No time zone is further from UTC."""

_EPOCH_UNITS: Final = (
    (1e11, 1.0, "epoch seconds"),
    (1e14, 1e3, "epoch milliseconds"),
    (1e17, 1e6, "epoch microseconds"),
    (math.inf, 1e9, "epoch nanoseconds"),
)
"""Up to which number each unit is assumed: the year 5138 in each unit."""

_TIME_OF_DAY: Final = re.compile(r"[T ](\d\d)(?::?(\d\d)(?::?(\d\d)([.,]\d+)?)?)?")


@dataclass(frozen=True, slots=True)
class Reading:
    """A time in seconds since the epoch, how far off it may be either way, and its format."""

    seconds: float
    within: float
    format: str


def read_time(value: object) -> Reading | None:
    """Read a time, given as a JSON number or text; None if it is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return _read_text(str(value).strip())


@lru_cache(maxsize=1024)  # answers of a second have one Date, polls of a job one createTime
def _read_text(text: str) -> Reading | None:
    for parse in (_epoch, _iso, _http_date):
        try:
            return parse(text)
        except (ValueError, OverflowError):
            continue
    return None


def _epoch(text: str) -> Reading:
    number = float(text)
    if not math.isfinite(number):
        raise OverflowError
    unit, name = next((unit, name) for below, unit, name in _EPOCH_UNITS if abs(number) < below)
    within = 1.0 if unit == 1 and number.is_integer() else 0.001
    return Reading(number / unit, within, name)


def _iso(text: str) -> Reading:
    moment = datetime.fromisoformat(text)
    zone, name = (0.0, "ISO 8601") if moment.tzinfo else (ANY_ZONE_SECONDS, "ISO 8601, no zone")
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Reading(aware.timestamp(), _grain_of(text) + zone, name)


def _grain_of(text: str) -> float:
    """Return the unit of the last part of an ISO 8601 time, in seconds."""
    time_of_day = _TIME_OF_DAY.search(text)
    if time_of_day is None:
        return DAY
    _, minutes, seconds, fraction = time_of_day.groups()
    if fraction:
        return 0.001
    return 1.0 if seconds else 60.0 if minutes else 3600.0


def _http_date(text: str) -> Reading:
    return Reading(parsedate_to_datetime(text).timestamp(), 1.0, "HTTP date")
