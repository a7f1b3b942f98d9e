"""Plot how quotas were used over time, how late polls found the ends of jobs, and what costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

BIN_SECONDS: Final = 3.0
ACCEPTED: Final = "#2f7ebc"
REFUSED: Final = "#e0703a"
QUOTA: Final = "#222222"
STYLE: Final[Any] = {
    "svg.hashsalt": "limits",  # the same data must produce the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
}


@dataclass(frozen=True)
class Graph:
    """How one quota was used. Times are seconds; `rates` are (seconds, calls per second from
    then on)."""

    title: str
    note: str
    rates: Sequence[tuple[float, float]]
    accepted: Sequence[float]
    refused: Sequence[float]


def draw(columns: Sequence[Sequence[Graph]], until: Sequence[float], path: Path) -> None:
    """Draw graphs in columns, each column with one scale, and write them as SVG."""
    rows = max(map(len, columns))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            len(columns),
            figsize=(5.2 * len(columns), 1.55 * rows + 0.5),
            sharex="col",
            squeeze=False,
            layout="constrained",
        )
        for column, (graphs, end) in enumerate(zip(columns, until, strict=True)):
            most = 2.5 * max(rate for _, rate in graphs[0].rates)
            for row, graph in enumerate(graphs):
                _draw_graph(axes[row][column], graph, end, most)
            axes[-1][column].set_xlabel("seconds")
        for row in axes:
            row[0].set_ylabel("calls/s")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_lags(graphs: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw one graph per title, with a curve for each schedule: the percentiles of its lags (s)."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "polls"}):
        figure, axes = plt.subplots(
            1, len(graphs), figsize=(3.6 * len(graphs), 2.6), sharey=True, layout="constrained"
        )
        for each, (title, schedules) in zip(axes, graphs.items(), strict=True):
            for (name, lags), color in zip(
                schedules.items(), (QUOTA, REFUSED, ACCEPTED), strict=True
            ):
                each.plot(lags, range(1, 100), label=name, color=color)
            each.set_title(title)
            each.set_xlim(0, 20)
            each.set_xlabel("lag in seconds")
        axes[0].set_ylabel("percent of the jobs")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


@dataclass(frozen=True)
class Curve:
    """A plot of the benchmark: points of each line, by its name."""

    name: str
    title: str
    along: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    is_log: bool = True


def draw_curves(curve: Curve, path: Path) -> None:
    """Draw the lines of one plot, from zero, and write it as SVG."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": curve.name}):
        figure, axes = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
        for (name, points), color in zip(curve.lines.items(), (ACCEPTED, REFUSED), strict=False):
            axes.plot(*zip(*points, strict=True), label=name, color=color, marker="o")
        if curve.is_log:
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(curve.title, fontweight="bold")
        axes.set_xlabel(curve.along)
        axes.set_ylabel(curve.unit)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _draw_graph(axes: Any, graph: Graph, end: float, most: float) -> None:
    edges = [n * BIN_SECONDS for n in range(int(end / BIN_SECONDS) + 1)]
    axes.hist(
        [graph.accepted, graph.refused],
        bins=edges,
        weights=[[1 / BIN_SECONDS] * len(times) for times in (graph.accepted, graph.refused)],
        stacked=True,
        histtype="stepfilled",
        color=[ACCEPTED, REFUSED],
        label=["accepted", "answered 429"],
    )
    times, rates = zip(*graph.rates, strict=True)
    axes.step(
        [*times, end], [*rates, rates[-1]], where="post", color=QUOTA, linewidth=1, label="quota"
    )
    axes.set_ylim(0, most)
    axes.set_xlim(0, end)
    axes.set_title(graph.title, fontweight="bold")
    axes.text(1, 0.97, graph.note, transform=axes.transAxes, ha="right", va="top", fontsize=8)
