"""When a batch may start imports: from a time on, in windows of the day, and so many in an hour.

A window follows the clocks of its time zone: it is open whenever a clock there shows a time of the
window. So a time that daylight saving time skips is in no window, and one that it repeats is in the
window twice.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from worker.domain.imports import iso_time

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MAX_WINDOW_LENGTH: Final = 500

_SPAN: Final = re.compile(
    r"(?:(?P<first>[A-Za-z]{3})(?:-(?P<last>[A-Za-z]{3}))?\s+)?"
    r"(?P<opens>\d{1,2}:\d{2})\s*-\s*(?P<closes>\d{1,2}:\d{2})"
)
_EXAMPLE: Final = '"22:00-06:00 Europe/Berlin" or "Mon-Fri 22:00-06:00, Sat 00:00-24:00 UTC"'
_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)
_YEAR: Final = timedelta(days=365)
_STEP: Final = timedelta(hours=6)
"""Time zones change their offsets at most once in this time."""


class ScheduleError(ValueError):
    """A part of a schedule is invalid. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a window: from `opens` to `closes`, on the days of the week on which it opens.

    Times are since midnight. `closes` is later than `opens`, and more than a day if the span goes
    past midnight.
    """

    days: frozenset[int]
    opens: timedelta
    closes: timedelta


@dataclass(frozen=True, slots=True)
class Window:
    """The times at which imports may start, by the clocks of a time zone. `text` is as given."""

    text: str
    spans: tuple[Span, ...]
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read spans, separated by commas, and a time zone: `Mon-Fri 22:00-06:00 Europe/Berlin`.

        A span without days opens on every day. Days are those on which it opens.

        Raises:
            ScheduleError: if it is invalid, or this machine does not know the time zone.

        """
        spans, _, zone = text.strip().rpartition(" ")
        if not spans or ":" in zone or len(text) > MAX_WINDOW_LENGTH:
            raise ScheduleError(f"must be times and a time zone, such as {_EXAMPLE}")
        return cls(text.strip(), tuple(map(_span, spans.split(","))), zone_named(zone))

    def openings(self, begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """Return when the window is open between two moments: from and until, in order, in UTC."""
        found: list[tuple[datetime, datetime]] = []
        for opens, closes in sorted(self._pieces(begin, end)):
            if found and opens <= found[-1][1]:
                found[-1] = (found[-1][0], max(closes, found[-1][1]))
            else:
                found.append((opens, closes))
        return found

    def _pieces(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        for since, until, offset in _constant_offsets(self.zone, begin, end):
            midnight = (since + offset).replace(hour=0, minute=0, second=0, microsecond=0) - _DAY
            while midnight - offset < until:
                for span in self.spans:
                    opens = max(midnight + span.opens - offset, since)
                    closes = min(midnight + span.closes - offset, until)
                    if midnight.weekday() in span.days and opens < closes:
                        yield opens, closes
                midnight += _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a batch may start imports. None of a member that does not restrict it.

    `start_at_ms` is in milliseconds since the epoch, `window` the text of a window.
    """

    start_at_ms: int | None = None
    window: str | None = None
    max_per_hour: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is restricted."""
        return any(value is not None for value in self.members().values())

    def members(self) -> dict[str, int | str]:
        """Return the members that are set, by name."""
        members = {
            "start_at_ms": self.start_at_ms,
            "window": self.window,
            "max_per_hour": self.max_per_hour,
        }
        return {name: value for name, value in members.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object with the names of the contract; None for what is not set."""
        return {
            "startAt": iso_time(self.start_at_ms) if self.start_at_ms else None,
            "window": self.window,
            "maxPerHour": self.max_per_hour,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Build from the text fields of a batch's hash; other fields are ignored."""
        start_at_ms, most = fields.get("start_at_ms"), fields.get("max_per_hour")
        return cls(
            start_at_ms=int(float(start_at_ms)) if start_at_ms else None,
            window=fields.get("window"),
            max_per_hour=int(float(most)) if most else None,
        )

    def finish(self, starts: int, per_second: float, now: datetime) -> datetime | None:
        """Return when so many imports have started, if `per_second` start while it is allowed.

        None if that takes more than a year, or never happens.

        Raises:
            ScheduleError: if this machine does not know the window's time zone.

        """
        if self.max_per_hour is not None:
            per_second = min(per_second, self.max_per_hour / 3600)
        begin = max(now, datetime.fromtimestamp((self.start_at_ms or 0) / 1000, UTC))
        if not per_second or starts / per_second > _YEAR.total_seconds():
            return None
        left = timedelta(seconds=starts / per_second)
        if self.window is None:
            return begin + left
        window = Window.parse(self.window)
        for week in range(-(-_YEAR // _WEEK)):
            since = begin + week * _WEEK
            for opens, closes in window.openings(since, since + _WEEK):
                if left <= closes - opens:
                    return opens + left
                left -= closes - opens
        return None


AT_ONCE: Final = Schedule()


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        ScheduleError: if this machine does not know it.

    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ScheduleError(
            f"{name} is not a known time zone; use an IANA name such as Europe/Berlin"
        ) from None


def local_time(text: str) -> datetime:
    """Return a moment given as ISO 8601 with an offset, or with a time zone behind it.

    Raises:
        ScheduleError: if it is invalid, has neither, or if daylight saving time skips or repeats
            it.

    """
    moment, _, name = text.strip().rpartition(" ")
    if not moment or name[:1].isdigit():
        moment, name = text.strip(), ""
    try:
        read = datetime.fromisoformat(moment)
    except ValueError:
        raise ScheduleError(_TIME_FORMS) from None
    if bool(name) == bool(read.tzinfo):
        raise ScheduleError(_TIME_FORMS)
    return read if read.tzinfo else _in_zone(read, zone_named(name))


_TIME_FORMS: Final = (
    'must be a time with an offset or a time zone: "2026-12-01T22:00+01:00",'
    ' "2026-12-01T21:00Z" or "2026-12-01 22:00 Europe/Berlin"'
)


def _in_zone(moment: datetime, zone: ZoneInfo) -> datetime:
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    is_skipped = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment
    happens = "does not happen" if is_skipped else "happens twice"
    raise ScheduleError(f"{moment} {happens} in {zone.key}, as its clocks change; give an offset")


def _span(text: str) -> Span:
    found = _SPAN.fullmatch(text.strip())
    if not found:
        raise ScheduleError(f"{text.strip()!r} is not a span of time, such as {_EXAMPLE}")
    opens, closes = _since_midnight(found["opens"]), _since_midnight(found["closes"])
    if opens in {closes, _DAY}:
        raise ScheduleError(f"{text.strip()!r} has no length; a whole day is 00:00-24:00")
    return Span(_days(found), opens, closes if closes > opens else closes + _DAY)


def _since_midnight(text: str) -> timedelta:
    hours, minutes = map(int, text.split(":"))
    time = timedelta(hours=hours, minutes=minutes)
    if minutes > 59 or time > _DAY:
        raise ScheduleError(f"{text} is not a time of day")
    return time


def _days(found: re.Match[str]) -> frozenset[int]:
    if not found["first"]:
        return frozenset(range(len(DAYS)))
    first = _day(found["first"])
    last = _day(found["last"]) if found["last"] else first
    return frozenset((first + n) % len(DAYS) for n in range((last - first) % len(DAYS) + 1))


def _day(name: str) -> int:
    if name.capitalize() not in DAYS:
        raise ScheduleError(f"{name} is not a day; use {', '.join(DAYS)}")
    return DAYS.index(name.capitalize())


def _constant_offsets(
    zone: ZoneInfo, begin: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime, timedelta]]:
    """Yield the parts of a period in which the zone's clocks do not change, and their offset."""
    since, at, end = begin.astimezone(UTC), begin.astimezone(UTC), end.astimezone(UTC)
    while at < end:
        following = min(at + _STEP, end)
        if _offset(zone, at) != _offset(zone, following):
            change = _change_between(zone, at, following)
            yield since, change, _offset(zone, at)
            since = at = change
        else:
            at = following
    if since < end:
        yield since, end, _offset(zone, since)


def _change_between(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the first whole second with another offset than `before`."""
    low, offset = before.replace(microsecond=0), _offset(zone, before)
    seconds = range(int((after - low).total_seconds()) + 2)
    number = bisect_left(
        seconds, 1, key=lambda n: int(_offset(zone, low + timedelta(seconds=n)) != offset)
    )
    return low + timedelta(seconds=number)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()
