"""The parts of the report that show how the batch went: timeline, throughput, durations."""

from collections.abc import Sequence
from typing import Final

from worker.cli.report.charts import (
    Bars,
    Curve,
    Period,
    cumulative_chart,
    duration_chart,
    rate_chart,
)
from worker.cli.report.figures import (
    MOST_BINS,
    Distribution,
    distribution,
    duration,
    duration_bins,
    mean_rate,
    rounded,
    time_bins,
    time_step,
)
from worker.cli.report.gather import Gathered, LaneUse, Pause
from worker.cli.report.markup import Html, clipped, table, tag
from worker.cli.report.times import moment
from worker.store.laneview import LaneView

UNKNOWN: Final = "-"
LANES_DRAWN: Final = 4
LANES_SHOWN: Final = 50
FAR_ABOVE: Final = 10
"""A quota that is so many times the busiest rate is not drawn: the bars would be too short."""


def timeline(found: Gathered) -> Html:
    """Return the section on how many imports had started and ended at each time."""
    period = Period(found.first_ms, found.last_ms)
    curves = [
        Curve("accepted", "accepted", sorted(found.accepted_ms)),
        Curve("started", "started", sorted(found.starts_ms)),
        Curve("ended", "ended", sorted(found.ends_ms)),
    ]
    pauses = [Period(p.since_ms, p.until_ms or found.last_ms) for p in found.pauses]
    chart = cumulative_chart(
        "timeline", "Imports accepted, started and ended", period, curves, pauses
    )
    text = (
        "How many imports had been accepted, started and had ended at each time. Between the curves"
        " of started and ended imports are those that ran."
    )
    return tag("section", tag("h2", "Timeline"), tag("p", text), chart, _pauses(found))


def _pauses(found: Gathered) -> Html:
    if not found.pauses:
        return Html("")
    rows = [(moment(p.since_ms), _until(p), p.reason) for p in found.pauses]
    return table("Pauses of the batch", ("from", "to", "reason"), rows)


def _until(pause: Pause) -> str:
    return moment(pause.until_ms) if pause.until_ms else "still paused"


def throughput(found: Gathered) -> Html:
    """Return the section on the rate of starts, compared with the lanes' quotas."""
    used = [(name, lane) for name, lane in _by_size(found) if lane.starts_ms]
    if not used:
        return tag("section", tag("h2", "Throughput"), tag("p", "No import has started."))
    first_ms = min(found.starts_ms)
    period = Period(first_ms, max(found.starts_ms))
    step = time_step(period.seconds, MOST_BINS)
    number = (period.last_ms - period.first_ms) // (1000 * step) + 1
    rates = {
        name: [n / step for n in time_bins(lane.starts_ms, first_ms, step, number)]
        for name, lane in used[:LANES_SHOWN]
    }
    rows = [_throughput_row(name, lane, max(rates[name])) for name, lane in used[:LANES_SHOWN]]
    columns = ("lane", "started", "mean", f"busiest {duration(step)}", "quota", "mean of quota")
    charts = [
        part
        for position, (name, lane) in enumerate(used[:LANES_DRAWN], 1)
        for part in _lane_chart(f"starts-{position}", name, lane, period, Bars(rates[name], step))
    ]
    text = (
        "Starts per second, by lane (an account and a region, the scope of one AWS rate limit). A"
        " start counts when its job became known. The quota is the one that the lane knows now;"
        " other batches may have used a part of it."
    )
    return tag(
        "section",
        tag("h2", "Throughput"),
        tag("p", text),
        table("Starts per second", columns, rows, numbers=(1, 2, 3, 5)),
        _more("lanes", len(used) - LANES_SHOWN),
        *charts,
    )


def _throughput_row(name: str, lane: LaneUse, busiest: float) -> Sequence[str]:
    mean, quota = mean_rate(sorted(lane.starts_ms)), _quota(lane.view)
    return (
        clipped(name),
        f"{len(lane.starts_ms):,}",
        f"{rounded(mean)}/s" if mean else UNKNOWN,
        f"{rounded(busiest)}/s",
        quota_text(lane.view),
        f"{rounded(100 * mean / quota)} %" if mean and quota else UNKNOWN,
    )


def _lane_chart(
    chart: str, name: str, lane: LaneUse, period: Period, bars: Bars
) -> tuple[Html, Html, Html]:
    quota, note = _quota(lane.view), ""
    if quota and quota > FAR_ABOVE * max(bars.values):
        note, quota = f"The quota, {rounded(quota)} per second, is far above the chart.", None
    drawn = rate_chart(chart, f"Starts per second in {clipped(name)}", period, bars, quota)
    return tag("h3", clipped(name)), drawn, tag("p", note, class_="quiet") if note else Html("")


def _quota(view: LaneView | None) -> float | None:
    return view.start_budget.rate.value if view else None


def quota_text(view: LaneView | None) -> str:
    """Return the quota of starts that a lane knows, and where it comes from."""
    quota = _quota(view)
    if view is None or not quota:
        return "not known yet"
    shared = ", shared with polls" if view.shared else ""
    return f"{rounded(quota)}/s ({view.start_budget.rate.source}{shared})"


def durations(found: Gathered) -> Html:
    """Return the section on how long imports waited and ran."""
    measured = (("waiting", found.waited), ("running", found.ran))
    known = [(name, values, d) for name, values in measured if (d := distribution(values))]
    if not known:
        return tag("section", tag("h2", "Waiting and running"), tag("p", "No import has started."))
    rows = [(name, *_percentiles(d)) for name, _, d in known]
    columns = ("time", "imports", "median", "90th percentile", "99th percentile", "longest")
    caption = "Waiting times of imports that started, running times of those that also ended"
    return tag(
        "section",
        tag("h2", "Waiting and running"),
        table(caption, columns, rows, numbers=range(1, 6)),
        *(part for name, values, _ in known for part in _duration_chart(name, values)),
    )


def _duration_chart(name: str, values: Sequence[float]) -> tuple[Html, Html]:
    title = f"{name.capitalize()} times"
    return tag("h3", title), duration_chart(name, title, duration_bins(values))


def _percentiles(known: Distribution) -> list[str]:
    values = (known.median, known.p90, known.p99, known.longest)
    return [f"{known.count:,}", *map(duration, values)]


def _by_size(found: Gathered) -> list[tuple[str, LaneUse]]:
    return sorted(found.lanes.items(), key=lambda pair: (-pair[1].imports, pair[0]))


def _more(things: str, number: int) -> Html:
    return tag("p", f"… and {number:,} more {things}.") if number > 0 else Html("")
