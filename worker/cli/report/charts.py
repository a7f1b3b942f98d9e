"""The report's charts, as SVG. Colors and fonts are those of the page's style sheet.

Lengths are in the units of the drawing, which scales with the page. Every chart has a title and a
description for people who can't see it, and no meaning depends on color alone. `name` is its id on
the page.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Final

from worker.cli.report.figures import MOST_TICKS, DurationBin, axis, duration, rounded, time_step
from worker.cli.report.markup import Html, join, tag

WIDTH: Final = 720
HEIGHT: Final = 250
LEFT: Final = 64
RIGHT: Final = 16
TOP: Final = 34
BOTTOM: Final = 46
GAP: Final = 1.5
MOST_POINTS: Final = 600
MOST_LABELS: Final = 13

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class Period:
    """The span of a time axis, in milliseconds since the epoch; at least a second long."""

    first_ms: int
    last_ms: int

    @property
    def seconds(self) -> float:
        """The length."""
        return max(1.0, (self.last_ms - self.first_ms) / 1000)


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve that rises by one at each of these ascending times. `style` is its CSS class."""

    name: str
    style: str
    times_ms: Sequence[int]


@dataclass(frozen=True, slots=True)
class Bars:
    """Values of steps of equal length from the start of a period."""

    values: Sequence[float]
    step_seconds: int


def cumulative_chart(
    name: str, title: str, period: Period, curves: Sequence[Curve], pauses: Iterable[Period]
) -> Html:
    """Draw how many events had happened at each time, and shade the pauses."""
    x, ticks = _across(period), axis(max(len(curve.times_ms) for curve in curves), least_step=1)
    y = _up(ticks)
    shades = [
        tag(
            "rect",
            x=_n(x(p.first_ms)),
            y=TOP,
            class_="pause",
            height=HEIGHT - TOP - BOTTOM,
            width=_n(max(2.0, x(p.last_ms) - x(p.first_ms))),
        )
        for p in pauses
    ]
    lines = [
        tag("polyline", points=_steps(curve, period, x, y), class_=f"curve {curve.style}")
        for curve in curves
    ]
    described = "; ".join(f"{len(curve.times_ms):,} {curve.name}" for curve in curves)
    names = [(curve.name, curve.style) for curve in curves]
    if shades:
        names.append(("batch paused", "pause"))
    drawing = (*shades, _grid(ticks, "imports"), _time_axis(period), *lines, _legend(names))
    return _chart(name, title, f"By the end of the period: {described}.", drawing)


def rate_chart(name: str, title: str, period: Period, bars: Bars, quota: float | None) -> Html:
    """Draw events per second over time, and the quota as a line if there is one to draw."""
    busiest = max(bars.values, default=0.0)
    ticks = axis(max(busiest, quota or 0.0))
    whole = Period(period.first_ms, period.first_ms + 1000 * bars.step_seconds * len(bars.values))
    x, y = _across(whole), _up(ticks)
    drawn = [
        _bar(x(start), x(start + 1000 * bars.step_seconds), y(value))
        for start, value in zip(count(whole.first_ms, 1000 * bars.step_seconds), bars.values)
        if value
    ]
    described = f"At most {rounded(busiest)} per second, in steps of {duration(bars.step_seconds)}."
    names = [("starts", "bar")]
    line = Html("")
    if quota:
        line = tag(
            "line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y(quota)), y2=_n(y(quota)), class_="quota"
        )
        names.append((f"quota, {rounded(quota)} per second", "quota"))
        described += f" The quota is {rounded(quota)} per second."
    drawing = (_grid(ticks, "per second"), _time_axis(whole), *drawn, line, _legend(names))
    return _chart(name, title, described, drawing)


def duration_chart(name: str, title: str, bins: Sequence[DurationBin]) -> Html:
    """Draw how many durations are in each bin. The bins are wider to the right.

    If there are many bins, some of their labels are left out.
    """
    ticks = axis(max(each.count for each in bins), least_step=1)
    y, width = _up(ticks), (WIDTH - LEFT - RIGHT) / len(bins)
    every = math.ceil(len(bins) / MOST_LABELS)
    parts = [_grid(ticks, "imports")]
    for position, each in enumerate(bins):
        left, right = LEFT + position * width, LEFT + (position + 1) * width
        if each.count:
            parts.append(_bar(left, right, y(each.count)))
        if each.count and every == 1:
            parts.append(_text(f"{each.count:,}", (left + right) / 2, y(each.count) - 5, "middle"))
        if (len(bins) - 1 - position) % every == 0:
            parts.append(_text(_bound(each), right, HEIGHT - BOTTOM + 19, "end"))
    parts.append(_text("at most", LEFT - 8, HEIGHT - BOTTOM + 19, "end"))
    parts.append(_text("duration", WIDTH - RIGHT, HEIGHT - 6, "end"))
    described = "; ".join(f"at most {_bound(e)}: {e.count:,}" for e in bins if e.count)
    return _chart(name, title, f"{described}.", parts)


def _bound(each: DurationBin) -> str:
    return "longer" if math.isinf(each.upper) else duration(each.upper)


def _chart(name: str, title: str, description: str, parts: Iterable[Html]) -> Html:
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _across(period: Period) -> Callable[[float], float]:
    """Return the function from a time in milliseconds to its place on the x axis."""
    scale = (WIDTH - LEFT - RIGHT) / (1000 * period.seconds)
    return lambda at_ms: LEFT + scale * (at_ms - period.first_ms)


def _up(ticks: Sequence[float]) -> Callable[[float], float]:
    """Return the function from a value to its place on the y axis."""
    scale = (HEIGHT - TOP - BOTTOM) / ticks[-1]
    return lambda value: HEIGHT - BOTTOM - scale * value


def _grid(ticks: Sequence[float], unit: str) -> Html:
    """Draw the y axis, with a line across for each tick."""
    y = _up(ticks)
    parts = []
    for tick in ticks:
        style = "grid" if tick else "base"
        parts.append(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y(tick)), y2=_n(y(tick)), class_=style)
        )
        parts.append(_text(f"{tick:,.10g}", LEFT - 8, y(tick) + 4, "end"))
    parts.append(_text(unit, 0, 12, "start"))
    return join(parts)


def _time_axis(period: Period) -> Html:
    """Draw the x axis in UTC."""
    x, step = _across(period), time_step(period.seconds, MOST_TICKS)
    last_ms = period.first_ms + 1000 * period.seconds
    at = -(-period.first_ms // (1000 * step)) * step
    parts = []
    while 1000 * at <= last_ms:
        place = x(1000 * at)
        base = HEIGHT - BOTTOM
        parts.append(tag("line", x1=_n(place), x2=_n(place), y1=base, y2=base + 5, class_="base"))
        parts.append(_text(_clock(at, step), place, base + 19, "middle"))
        at += step
    day = datetime.fromtimestamp(period.first_ms / 1000, tz=UTC)
    title = f"time in UTC, from {day.day} {day:%B %Y}"
    parts.append(_text(title, WIDTH - RIGHT, HEIGHT - 6, "end"))
    return join(parts)


def _clock(seconds: int, step: int) -> str:
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    if step >= _DAY:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M:%S}" if step < 60 else f"{moment:%H:%M}"


def _steps(
    curve: Curve, period: Period, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    """Return the corners of a curve, of which so many are left out that the page stays small."""
    points: list[tuple[float, float]] = [(LEFT, y(0))]
    every = max(1, len(curve.times_ms) // MOST_POINTS)
    for number, at_ms in enumerate(curve.times_ms, 1):
        if number % every == 0 or number == len(curve.times_ms):
            place = min(max(x(at_ms), LEFT), WIDTH - RIGHT)
            points += [(place, points[-1][1]), (place, y(number))]
    points.append((x(period.first_ms + 1000 * period.seconds), points[-1][1]))
    return " ".join(f"{_n(left)},{_n(top)}" for left, top in points)


def _bar(left: float, right: float, top: float) -> Html:
    wide = max(0.5, right - left - GAP)
    return tag(
        "rect",
        x=_n(left + GAP / 2),
        y=_n(top),
        width=_n(wide),
        height=_n(max(1.0, HEIGHT - BOTTOM - top)),
        class_="bar",
    )


def _legend(names: Iterable[tuple[str, str]]) -> Html:
    """Name each style beside a sample of it, above the drawing on the right."""
    parts: list[Html] = []
    left = LEFT + 60.0
    for name, style in names:
        if style in {"bar", "pause"}:
            parts.append(tag("rect", x=_n(left), y=5, width=22, height=9, class_=style))
        else:
            parts.append(
                tag("line", x1=_n(left), x2=_n(left + 22), y1=9, y2=9, class_=f"curve {style}")
            )
        parts.append(_text(name, left + 28, 13, "start"))
        left += 28 + 7 * len(name) + 24
    return join(parts)


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=_n(x), y=_n(y), text_anchor=anchor)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
