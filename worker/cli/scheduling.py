"""What a batch's schedule says: when it starts imports, and what it waits for."""

import math
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from worker.domain.schedules import Schedule, ScheduleError, Window
from worker.store.batchview import BatchCounts

_A_MOMENT: Final = timedelta(seconds=1)


def shown(moment: datetime) -> str:
    """Return a moment with its offset, as people read it."""
    return f"{moment:%a %Y-%m-%d %H:%M %Z}"


def long_span(seconds: float) -> str:
    """Return a duration in its two largest units: 3 h 10 min."""
    rest = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number) or "0 s"


def described(schedule: Schedule) -> str:
    """Return a schedule as the end of a sentence; '' if it restricts nothing."""
    start_at = schedule.start_at_ms and moment_of(schedule.start_at_ms, _zone_of(schedule))
    parts = (
        f"from {shown(start_at)}" if start_at else "",
        f"in the window {schedule.window}" if schedule.window else "",
        f"at most {schedule.max_per_hour:,} an hour" if schedule.max_per_hour else "",
    )
    return ", ".join(filter(None, parts))


def reason_to_wait(counts: BatchCounts) -> str:
    """Return what in its schedule a batch waits for, as a clause; '' if it does not."""
    schedule, next_ms = counts.schedule, counts.next_start_ms
    if not counts.is_scheduled or next_ms is None:
        return ""
    now = moment_of(counts.read_at_ms, UTC)
    if schedule.start_at_ms and next_ms == schedule.start_at_ms > counts.read_at_ms:
        begin = shown(moment_of(next_ms, _zone_of(schedule)))
        return f"starts at {begin} (in {_until(counts)})"
    if schedule.window and not _is_open(schedule.window, now):
        if math.isinf(next_ms):
            return f"waits for its window {schedule.window}, for which a worker has to run"
        opens = shown(moment_of(next_ms, _zone_of(schedule)))
        return f"waits for its window {schedule.window}: opens {opens} (in {_until(counts)})"
    return f"at most {schedule.max_per_hour:,} an hour: the next one in {_until(counts)}"


def counts_as_json(counts: BatchCounts) -> dict[str, Any]:
    """Return the counts of a batch for JSON output."""
    schedule = schedule_as_json(counts) if counts.schedule else None
    return {**counts.as_json(), "schedule": schedule}


def schedule_as_json(counts: BatchCounts) -> dict[str, Any]:
    """Return a batch's schedule, and what it waits for, for JSON output."""
    return {**counts.schedule_as_json(), "waitsForSchedule": reason_to_wait(counts) or None}


def seconds_left(counts: BatchCounts, per_second: float) -> float | None:
    """Return in how many seconds the rest of a batch has ended, at a pace; None if unknown."""
    if not counts.schedule:
        return counts.left / per_second if per_second else None
    now = moment_of(counts.read_at_ms, UTC)
    pace = per_second or (counts.schedule.max_per_hour or 0) / 3600
    try:
        end = counts.schedule.finish(counts.left, pace, now)
    except ScheduleError:
        return None
    return (end - now).total_seconds() if end else None


def moment_of(ms: float, zone: tzinfo) -> datetime:
    """Return a moment given in milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, zone)


def _until(counts: BatchCounts) -> str:
    return long_span(((counts.next_start_ms or 0) - counts.read_at_ms) / 1000)


def _zone_of(schedule: Schedule) -> tzinfo:
    """Return the time zone in which to show a schedule's times."""
    try:
        return Window.parse(schedule.window).zone if schedule.window else UTC
    except ScheduleError:
        return UTC


def _is_open(window: str, now: datetime) -> bool:
    try:
        return bool(Window.parse(window).openings(now, now + _A_MOMENT))
    except ScheduleError:
        return False
