"""Draws dashboards of config/grafana without Grafana, from Prometheus's answers."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLUMNS: Final = 24
"""The width of Grafana's grid."""

RATES_OVER: Final = "20s"
STEP_SECONDS: Final = 2
STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e4e7ea",
}

Series = Mapping[str, Any]
"""A series of Prometheus's answer: its labels (`metric`), and its `value` or `values`."""


class Prometheus:
    """Asks a Prometheus for the last `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self.end = time.time()
        self.start = self.end - seconds

    def at_the_end(self, query: str) -> Sequence[Series]:
        """Return the values of the query now."""
        return self._ask("query", query=query, time=self.end)

    def over_time(self, query: str) -> Sequence[Series]:
        """Return the values of the query over time."""
        return self._ask(
            "query_range", query=query, start=self.start, end=self.end, step=STEP_SECONDS
        )

    def _ask(self, path: str, **parameters: Any) -> Sequence[Series]:
        url = f"{self._url}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=30) as reply:  # noqa: S310 - it is http
            result: Sequence[Series] = json.load(reply)["data"]["result"]
            return result


def draw_dashboard(
    dashboard: Path, prometheus: Prometheus, variables: Mapping[str, str], picture: Path
) -> list[str]:
    """Draw a dashboard with these values of its variables; return the panels without any data."""
    panels = json.loads(dashboard.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(14, rows * 0.28))
        empty = [
            panel["title"]
            for panel in panels
            if not _Panel(panel, prometheus, variables).draw(_place(figure, panel, rows))
        ]
        figure.savefig(picture, dpi=90)
        plt.close(figure)
    return empty


def _place(figure: Figure, panel: Mapping[str, Any], rows: int) -> Axes:
    place = panel["gridPos"]
    left = place["x"] / COLUMNS + 0.035
    bottom = 1 - (place["y"] + place["h"] - 1.6) / rows
    width = place["w"] / COLUMNS - 0.05
    return figure.add_axes((left, bottom, width, (place["h"] - 3) / rows))


class _Panel:
    def __init__(
        self, panel: Mapping[str, Any], prometheus: Prometheus, variables: Mapping[str, str]
    ) -> None:
        self._panel = panel
        self._prometheus = prometheus
        self._variables = {"__rate_interval": RATES_OVER, "__range": "2m", **variables}
        self._unit = panel["fieldConfig"]["defaults"].get("unit", "none")

    def draw(self, axes: Axes) -> bool:
        """Draw the panel; return whether there was anything to draw."""
        axes.set_title(self._panel["title"])
        draw = {"stat": self._stat, "table": self._table, "timeseries": self._lines}
        return draw[self._panel["type"]](axes)

    def _stat(self, axes: Axes) -> bool:
        axes.set_axis_off()
        found = self._prometheus.at_the_end(self._query(self._panel["targets"][0]))
        text = self._formatted(float(found[0]["value"][1])) if found else "no data"
        axes.text(0.5, 0.4, text, ha="center", va="center", fontsize=20)
        return bool(found)

    def _table(self, axes: Axes) -> bool:
        axes.set_axis_off()
        found = self._prometheus.at_the_end(self._query(self._panel["targets"][0]))
        lines = [
            "  ".join([*series["metric"].values(), self._formatted(float(series["value"][1]))])
            for series in found
        ]
        axes.text(0, 1, "\n".join(lines) or "(none)", va="top", family="monospace")
        return bool(found)

    def _lines(self, axes: Axes) -> bool:
        drawn = 0
        for target in self._panel["targets"]:
            for series in self._prometheus.over_time(self._query(target)):
                times = [float(at) - self._prometheus.end for at, _ in series["values"]]
                values = [float(value) for _, value in series["values"]]
                axes.plot(times, values, label=_legend(target, series["metric"]), linewidth=1.4)
                drawn += 1
        axes.set_xlim(self._prometheus.start - self._prometheus.end, 0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: self._formatted(value)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
        if drawn:
            axes.set_ylim(bottom=0)
            axes.legend(loc="upper left", fontsize=7, ncols=2, framealpha=0.7)
        else:
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center")
        return bool(drawn)

    def _query(self, target: Mapping[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            return self._variables[match[1] or match[2]]

        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, target["expr"])

    def _formatted(self, value: float) -> str:
        if self._unit == "percentunit":
            return f"{value:.1%}"
        unit = {"ops": "/s", "reqps": "/s", "s": " s"}.get(self._unit, "")
        return f"{value:,.3g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def _legend(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    text: str = target.get("legendFormat") or "value"
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), text)
