"""Windows follow the clocks of their time zone, also when these change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.schedules import DAYS, Schedule, ScheduleError, Window, local_time

BERLIN = "Europe/Berlin"


def shown(window: str, begin: str, end: str, zone: str = BERLIN) -> list[str]:
    """Return the openings between two local times, as clocks with their offsets show them."""
    local = ZoneInfo(zone)
    since, until = (datetime.fromisoformat(each).replace(tzinfo=local) for each in (begin, end))
    return [
        f"{opens.astimezone(local):%a %H:%M%z} {closes.astimezone(local):%a %H:%M%z}"
        for opens, closes in Window.parse(window).openings(since, until)
    ]


@pytest.mark.parametrize(
    ("window", "begin", "end", "openings"),
    [
        pytest.param(
            f"22:00-06:00 {BERLIN}",
            "2026-12-01T12:00",
            "2026-12-03T12:00",
            ["Tue 22:00+0100 Wed 06:00+0100", "Wed 22:00+0100 Thu 06:00+0100"],
            id="past midnight",
        ),
        pytest.param(
            f"22:00-06:00 {BERLIN}",
            "2026-12-01T23:00",
            "2026-12-02T05:00",
            ["Tue 23:00+0100 Wed 05:00+0100"],
            id="cut at both ends",
        ),
        pytest.param(
            f"22:00-02:30 {BERLIN}",
            "2026-03-28T12:00",
            "2026-03-29T12:00",
            ["Sat 22:00+0100 Sun 03:00+0200"],
            id="it closes at a time that is skipped",
        ),
        pytest.param(
            f"02:30-04:00 {BERLIN}",
            "2026-03-28T12:00",
            "2026-03-29T12:00",
            ["Sun 03:00+0200 Sun 04:00+0200"],
            id="it opens at a time that is skipped",
        ),
        pytest.param(
            f"02:10-02:50 {BERLIN}",
            "2026-03-28T12:00",
            "2026-03-30T12:00",
            ["Mon 02:10+0200 Mon 02:50+0200"],
            id="all of it is skipped",
        ),
        pytest.param(
            f"22:00-02:30 {BERLIN}",
            "2026-10-24T12:00",
            "2026-10-25T12:00",
            ["Sat 22:00+0200 Sun 02:30+0200", "Sun 02:00+0100 Sun 02:30+0100"],
            id="its end is repeated",
        ),
        pytest.param(
            f"02:10-02:50 {BERLIN}",
            "2026-10-24T12:00",
            "2026-10-25T12:00",
            ["Sun 02:10+0200 Sun 02:50+0200", "Sun 02:10+0100 Sun 02:50+0100"],
            id="all of it is repeated",
        ),
        pytest.param(
            f"22:00-06:00 {BERLIN}",
            "2026-10-24T12:00",
            "2026-10-25T12:00",
            ["Sat 22:00+0200 Sun 06:00+0100"],
            id="nine hours in the night of the repeated hour",
        ),
        pytest.param(
            f"Fri 22:00-06:00 {BERLIN}",
            "2026-12-01T00:00",
            "2026-12-08T00:00",
            ["Fri 22:00+0100 Sat 06:00+0100"],
            id="days are those on which it opens",
        ),
        pytest.param(
            f"sat-mon 10:00-11:00, Sun 10:30-12:00 {BERLIN}",
            "2026-12-03T00:00",
            "2026-12-10T00:00",
            [
                "Sat 10:00+0100 Sat 11:00+0100",
                "Sun 10:00+0100 Sun 12:00+0100",
                "Mon 10:00+0100 Mon 11:00+0100",
            ],
            id="spans that overlap, days around the end of the week",
        ),
        pytest.param(
            f"Sat-Sun 00:00-24:00 {BERLIN}",
            "2026-12-03T00:00",
            "2026-12-10T00:00",
            ["Sat 00:00+0100 Mon 00:00+0100"],
            id="whole days",
        ),
    ],
)
def test_openings(window: str, begin: str, end: str, openings: list[str]) -> None:
    assert shown(window, begin, end) == openings


minutes = st.integers(0, 24 * 60 - 1)


@given(
    opens=minutes,
    length=st.integers(1, 24 * 60 - 1),
    day=st.sampled_from(("", *DAYS)),
    zone=st.sampled_from(
        (BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
    ),
    hour=st.integers(0, 366 * 24),
    later=st.integers(0, 3 * 24 * 3600),
)
def test_a_window_is_open_whenever_a_clock_there_shows_a_time_of_it(
    opens: int, length: int, day: str, zone: str, hour: int, later: int
) -> None:
    closes = (opens + length) % (24 * 60)
    text = f"{day} {opens // 60:02}:{opens % 60:02}-{closes // 60:02}:{closes % 60:02} {zone}"
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
    moment = begin + timedelta(seconds=later)
    openings = Window.parse(text).openings(begin, begin + timedelta(days=3, seconds=1))

    clock = moment.astimezone(ZoneInfo(zone))
    time = clock.hour * 60 + clock.minute
    after_midnight = opens + length > 24 * 60 and time < closes
    is_time = opens <= time < opens + length or after_midnight
    opened_on = DAYS[(clock.weekday() - after_midnight) % 7]
    assert any(since <= moment < until for since, until in openings) == (
        is_time and day in {"", opened_on}
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("22:00-06:00", "time zone"),
        ("Europe/Berlin", "time zone"),
        ("22:00-06:00 Europe/Nowhere", "Europe/Nowhere is not a known time zone"),
        ("22:00-06:00 ../../etc/passwd", "is not a known time zone"),
        ("22-06 UTC", "'22-06' is not a span"),
        ("22:00-22:00 UTC", "no length"),
        ("24:00-06:00 UTC", "no length"),
        ("22:60-23:00 UTC", "22:60 is not a time"),
        ("22:00-25:00 UTC", "25:00 is not a time"),
        ("Mox 22:00-23:00 UTC", "Mox is not a day"),
        ("22:00-23:00, UTC", "'' is not a span"),
    ],
)
def test_an_invalid_window_is_refused_by_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        Window.parse(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T22:00+01:00", "2026-12-01T21:00+00:00"),
        ("2026-12-01 22:00:00+01:00", "2026-12-01T21:00+00:00"),
        ("2026-12-01T22:00Z", "2026-12-01T22:00+00:00"),
        ("2026-12-01 22:00 Europe/Berlin", "2026-12-01T21:00+00:00"),
        ("2026-07-01T22:00 Europe/Berlin", "2026-07-01T20:00+00:00"),
    ],
)
def test_a_time_has_an_offset_or_a_time_zone(text: str, moment: str) -> None:
    assert local_time(text) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2026-12-01T22:00", "offset or a time zone"),
        ("2026-12-01 22:00+01:00 Europe/Berlin", "offset or a time zone"),
        ("tomorrow", "offset or a time zone"),
        ("2026-12-01 22:00 Berlin", "Berlin is not a known"),
        ("2026-03-29 02:30 Europe/Berlin", "does not happen"),
        ("2026-10-25 02:30 Europe/Berlin", "happens twice"),
    ],
)
def test_an_invalid_time_is_refused_by_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        local_time(text)


def test_a_schedule_without_members_restricts_nothing() -> None:
    assert not Schedule()
    assert Schedule(max_per_hour=1).members() == {"max_per_hour": 1}
