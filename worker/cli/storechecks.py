"""The checks of `doctor` that look at the store's contents, its memory and its clock."""

import time
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from config.settings import Settings
from worker.cli.checks import Check, Verdict
from worker.store.overview import Group, read_event_groups
from worker.store.serverview import ServerFacts
from worker.store.views import ImportViews

CLOCK_SECONDS: Final = 5.0
"""A larger difference between two clocks is reported."""

FULL_SHARE: Final = 0.8
"""From this share of `maxmemory` on, a batch may not fit any more."""

LAG_SHARE: Final = 0.5
"""A consumer group that lags by this share of the event stream is about to lose events."""

MEGABYTE: Final = 1024 * 1024


async def check_clock(views: ImportViews) -> list[Check]:
    """Return a warning if this machine's clock differs from the store's."""
    before = time.time()
    theirs = await views.now()
    after = time.time()
    return judge_clock(before - theirs, after - theirs)


def judge_clock(least: float, most: float) -> list[Check]:
    """Return a warning if this machine is far ahead of the store, by `least` to `most` seconds."""
    if least <= CLOCK_SECONDS and most >= -CLOCK_SECONDS:
        return []
    seconds, which = (least, "ahead of") if least > 0 else (-most, "behind")
    detail = f"this machine's clock is {seconds:.0f} s {which} the store's"
    remedy = (
        "synchronize both clocks: AWS refuses what is signed five minutes off, and `expires` and"
        " `recover --since` are compared with the store's time"
    )
    return [Check("clock", Verdict.WARN, detail, remedy)]


def check_memory(facts: ServerFacts) -> list[Check]:
    """Return a warning if little of the server's memory is left for a batch."""
    if not facts.maxmemory_bytes or facts.used_bytes < FULL_SHARE * facts.maxmemory_bytes:
        return []
    used, most = facts.used_bytes / MEGABYTE, facts.maxmemory_bytes / MEGABYTE
    remedy = "raise maxmemory before the next batch: a full server refuses imports"
    return [Check("memory", Verdict.WARN, f"{used:,.0f} of {most:,.0f} MB are used", remedy)]


async def check_events(redis: "Redis", settings: Settings) -> list[Check]:
    """Check that somebody reads the events, and return a warning for each group that loses some."""
    try:
        events, groups = await read_event_groups(redis)
    except ResponseError:  # a user without this permission reads no groups
        return []
    if events and not groups:
        return [_about_readers(events, settings.events_max_length)]
    checks = (_about_lag(group, events, settings.events_max_length) for group in groups)
    return [check for check in checks if check]


def _about_readers(events: int, most: int) -> Check:
    """Return a hint that no group reads; a warning once the stream drops events."""
    dropped = "; the oldest are dropped" if events >= most else ""
    detail = f"no consumer group reads the {events:,} events{dropped}"
    remedy = "if a program should know how imports end, let it read them: docs/reference/events.md"
    return Check("events", Verdict.WARN if dropped else Verdict.OK, detail, remedy)


def _about_lag(group: Group, events: int, most: int) -> Check | None:
    lag = group.lag or 0
    if lag <= events and lag < LAG_SHARE * most:
        return None
    lost = f", of which {lag - events:,} were dropped" if lag > events else ""
    detail = f"consumer group {group.name} has not read {lag:,} events{lost}"
    remedy = (
        "start its consumers, or raise IMPORTS_EVENTS_MAX_LENGTH: the oldest events are dropped;"
        " if nobody needs the group: XGROUP DESTROY"
    )
    return Check("events", Verdict.WARN, detail, remedy)
