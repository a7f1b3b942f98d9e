"""The full-screen view of `watch`: from a reading to lines, without a terminal and a store."""

from dataclasses import replace
from typing import Any

import pytest
from prompt_toolkit.utils import get_cwidth

from worker.cli.screen.drawing import LOWEST, NARROWEST, draw, heights_of
from worker.cli.screen.reading import Failure, Reading
from worker.cli.screen.rows import bar_of
from worker.cli.screen.state import Page, Pane, ScreenState
from worker.cli.screen.table import fit, wrap
from worker.domain.states import State
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView

HOSTILE = "\x1b]0;taken over\x07\x9b2J\r\n漢字"


def batch_of(batch_id: str = "wave-1", total: int = 10, **more: int | str) -> BatchCounts:
    states = {state: int(more.pop(str(state), 0)) for state in State}
    return BatchCounts(
        batch_id=batch_id,
        accepted=total,
        expected=total,
        by_state=states,
        **more,  # type: ignore[arg-type]
    )


def lane_of(
    name: str = "acme/eu-central-1", granted: int = 0, at: float = 0, **more: str
) -> LaneView:
    return LaneView(
        name=name,
        waiting=int(more.pop("waiting", 0)),
        running=0,
        paused_reason=more.get("paused_reason", ""),
        paused_seconds=0,
        fields=more,
        limiters={"start": {"learned": "1", "rate": "5", "mode": "1", "granted": str(granted)}},
        read_at_ms=at * 1000,
    )


def failure_of(number: int = 1, batch_id: str = "wave-1", reason: str = "no pool") -> Failure:
    return Failure(
        import_id=f"import-{number}",
        batch_id=batch_id,
        target=f"d{number}/prod",
        outcome="failed",
        reason=reason,
        at=f"2026-11-29T12:00:{number % 60:02}.000Z",
    )


def reading_of(*parts: BatchCounts | LaneView | Failure, now: float = 0) -> Reading:
    return Reading(
        now=now,
        batches=tuple(part for part in parts if isinstance(part, BatchCounts)),
        lanes=tuple(part for part in parts if isinstance(part, LaneView)),
        failures=tuple(part for part in parts if isinstance(part, Failure)),
    )


def text_of(state: ScreenState, width: int = 120, height: int = 30) -> list[str]:
    lines = ["".join(text for _, text in line) for line in draw(state, width, height)]
    assert len(lines) == height
    assert {get_cwidth(line) for line in lines} == {width}
    assert "".join(lines).isprintable()
    return lines


def row_of(state: ScreenState, name: str, **size: int) -> str:
    (row,) = [line for line in text_of(state, **size)[:-4] if line.startswith(name)]
    return " ".join(row.split())


@pytest.mark.parametrize("size", [(80, 16), (109, 30), (110, 30), (200, 60)])
@pytest.mark.parametrize("number", [0, 1, 60])
def test_every_line_fits_at_every_size(size: tuple[int, int], number: int) -> None:
    each = range(number)
    hostile = batch_of(f"b{HOSTILE}", 100_000, paused_reason=HOSTILE * 9, held=100_000)
    state = ScreenState(
        reading_of(
            *(replace(hostile, batch_id=f"{hostile.batch_id}{n}") for n in each),
            *(lane_of(f"account{n}/{HOSTILE}", paused_reason=HOSTILE) for n in each),
            *(failure_of(n, HOSTILE, HOSTILE * 20) for n in each),
        )
    )
    for pane in Pane:
        state.active = pane
        text_of(state, *size)
        state.open()
        text_of(state, *size)
        state.back()
    state.is_help_shown = True
    text_of(state, *size)
    state.outage = HOSTILE
    assert text_of(state, *size)[0].startswith(r"The store can't be reached, still trying: \x1b")


def test_a_screen_that_is_too_small_says_so() -> None:
    state = ScreenState(reading_of(batch_of()))
    for width, height in ((NARROWEST - 1, 40), (NARROWEST, LOWEST - 1)):
        assert "q quits" in text_of(state, width, height)[0]


def test_a_batch_shows_its_numbers_its_rate_and_the_time_left() -> None:
    state = ScreenState(reading_of(batch_of(total=100, waiting=90, running=10)))
    later = batch_of(
        total=100, waiting=65, running=7, starting=3, succeeded=19, failed=5, timed_out=1
    )
    state.take(reading_of(later, now=10))
    assert row_of(state, "wave-1").endswith("25% 65 10 19 6 0 30 s 2.5/s running")
    assert row_of(state, "wave-1", width=80).endswith("25% 65 10 19 6 0 30 s")
    assert text_of(state)[0].startswith("10 in flight   2.5/s   75 left")


def test_a_batch_says_what_holds_it_up() -> None:
    for batch, standing in (
        (batch_of(waiting=10, held=10, paused_reason="1 of 1 failed"), "paused: 1 of 1 failed"),
        (batch_of(waiting=10, held=9, canary=1), "its first 1 imports run first, 9 wait for them"),
        (replace(batch_of(), accepted=0), "no worker has picked it up yet"),
        (batch_of(succeeded=9, failed=1), "completed"),
    ):
        state = ScreenState(reading_of(batch))
        assert row_of(state, "wave-1", width=200).endswith(standing)
        assert f"wave-1: {standing}" in " ".join(text_of(state)[-3].split())


@pytest.mark.parametrize(
    ("states", "bar"),
    [
        ({}, "[..........]"),
        ({"succeeded": 5, "running": 2, "failed": 1, "waiting": 2}, "[=====x>>..]"),
        ({"succeeded": 10}, "[==========]"),
        ({"failed": 10}, "[xxxxxxxxxx]"),
    ],
)
def test_the_bar_has_a_mark_for_each_kind_of_state(states: dict[str, Any], bar: str) -> None:
    assert bar_of(batch_of(**states), 12) == bar


def test_the_bar_is_full_only_when_the_batch_has_completed() -> None:
    assert bar_of(batch_of(total=1000, succeeded=999, waiting=1), 12) == "[=========.]"
    assert bar_of(batch_of(total=1000, succeeded=999, failed=1), 12) == "[=========x]"
    mixed = batch_of(total=1000, succeeded=898, failed=1, running=101)
    assert bar_of(mixed, 12) == "[========x>]"


def test_a_lane_shows_the_share_of_its_limit_that_is_in_use() -> None:
    state = ScreenState(reading_of(lane_of(granted=100, waiting="7")))
    state.take(reading_of(lane_of(granted=120, at=10, waiting="7"), now=10))
    assert row_of(state, "acme") == "acme/eu-central-1 7 0 2.0/s 5.0/s learned 40% 1 s open"


def test_paused_lanes_come_first_and_idle_ones_last() -> None:
    state = ScreenState(
        reading_of(
            lane_of("a/r"),
            lane_of("b/r", waiting="1"),
            lane_of("c/r", paused_reason="ExpiredToken", held="1"),
        )
    )
    assert state.names_of(Pane.LANES) == ["c/r", "b/r", "a/r"]
    assert row_of(state, "c/r", width=200).endswith("paused by an operator: ExpiredToken")
    assert "1 lane paused" in text_of(state)[0]


def test_a_selection_follows_its_row() -> None:
    state = ScreenState(reading_of(failure_of(2), failure_of(1)))
    state.active = Pane.FAILURES
    assert state.failure == failure_of(2)
    state.move(5)
    assert state.failure == failure_of(1)
    state.take(reading_of(failure_of(3), failure_of(2), failure_of(1)))
    assert state.failure == failure_of(1)
    state.take(reading_of(failure_of(3)))
    assert state.failure == failure_of(3)


def test_the_first_row_stays_selected_when_rows_are_added() -> None:
    state = ScreenState(reading_of(failure_of(1)))
    state.active = Pane.FAILURES
    state.take(reading_of(failure_of(2), failure_of(1)))
    assert state.failure == failure_of(2)


def test_the_selected_row_is_always_visible() -> None:
    state = ScreenState(reading_of(*(batch_of(f"b{n}") for n in range(100))))
    for _ in range(120):
        assert state.batch is not None
        row_of(state, f"{state.batch.batch_id} ", width=80, height=24)
        state.move(1)
    assert state.batch == batch_of("b99")


def test_panes_take_turns_and_enter_opens_what_is_selected() -> None:
    state = ScreenState(reading_of(batch_of(), lane_of(), failure_of(1), failure_of(9, "other")))
    opened = []
    for _ in Pane:
        opened.append(state.open())
        state.back()
        state.next_pane(1)
    assert state.active is Pane.BATCHES
    assert [(page.pane, page.name) for page in opened if page] == [
        (Pane.BATCHES, "wave-1"),
        (Pane.LANES, "acme/eu-central-1"),
        (Pane.FAILURES, "import-1"),
    ]


def test_a_batchs_page_merges_what_was_read_with_what_came_since() -> None:
    state = ScreenState(reading_of(batch_of(), failure_of(2), failure_of(1)))
    page = state.open()
    assert page == Page(pane=Pane.BATCHES, name="wave-1")
    page.members = [failure_of(0), failure_of(1)]
    state.take(reading_of(batch_of(), failure_of(3), failure_of(9, "other"), failure_of(2)))
    assert state.failures_of(page) == [failure_of(number) for number in (3, 2, 1, 0)]
    state.move(1)
    explained = state.open()
    assert explained is not None
    assert explained.name == "import-2"
    state.back()
    assert state.pages == [page]


def test_a_page_of_text_scrolls_to_its_last_line_and_no_further() -> None:
    state = ScreenState(reading_of())
    state.pages.append(Page(pane=Pane.FAILURES, name="i", lines=["first", *["x"] * 50, "last"]))
    assert text_of(state)[1].rstrip() == "first"
    state.move(100)
    assert text_of(state)[1].rstrip() == "last"
    state.move(-100)
    assert text_of(state)[1].rstrip() == "first"


def test_an_empty_screen_has_nothing_to_open() -> None:
    state = ScreenState(reading_of())
    for _ in Pane:
        state.move(1)
        assert state.open() is None
        state.next_pane(1)


def test_panes_keep_their_height_while_failures_come_in() -> None:
    few = ScreenState(reading_of(batch_of(), lane_of()))
    many = ScreenState(reading_of(batch_of(), lane_of(), *map(failure_of, range(90))))
    assert heights_of(few, 20) == heights_of(many, 20) == [2, 2, 16]


def test_text_is_cut_and_wrapped_by_the_width_of_its_characters() -> None:
    assert fit("漢字漢", 5) == "漢字…"
    assert fit("漢字漢", 4) == "漢… "
    assert fit("ab", 4, right=True) == "  ab"
    assert wrap("one two  three", 8) == ["one two", "three"]
    assert wrap("漢字漢字", 5) == ["漢字", "漢字"]
    assert wrap("  2026 accepted", 8) == ["  2026", "accepted"]
