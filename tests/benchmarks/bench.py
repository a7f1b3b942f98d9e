"""`make bench`: everything that is measured against a goal, in one table.

Each part runs `--runs` times, all parts after each other, so that the ratios of a run are of the
same minutes. The table shows the medians and the spread. The parts whose data take long to make run
once. `--tiny` shows in seconds that everything runs; its figures mean nothing.

It writes the table and its plots into the documentation, and all values into `build/bench.json`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.benchmarks import entry_points, polling, store_costs
from tests.benchmarks.plot import Curve, draw_curves
from tests.benchmarks.rows import Result, results_of
from tests.benchmarks.size import FULL, TINY, Figures, Part, Size
from tests.support import PROJECT

RUNS: Final = 3
EACH_RUN: Final = (
    entry_points.entry_points,
    entry_points.trickle,
    polling.polls,
    store_costs.admission,
    polling.lag,
)
ONCE: Final = (store_costs.claims, polling.memory)
LANES: Final = (1, 4, 16, 64)
MESSAGES: Final = (1, 10, 100, 500)
PROCESSES: Final = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, and where."""

    results: Sequence[Result]
    curves: Sequence[Curve]
    machine: str
    minutes: float

    def as_json(self) -> str:
        """Return everything as JSON."""
        document = {
            "machine": self.machine,
            "minutes": round(self.minutes, 1),
            "rows": [result.as_json() for result in self.results],
            "curves": [asdict(curve) for curve in self.curves],
        }
        return json.dumps(document, indent=2)

    def as_page(self) -> str:
        """Return the page of the documentation."""
        return page(
            f"Measured on {self.machine}, in {self.minutes:.0f} minutes.",
            "\n".join((*_HEADER, *map(_line, self.results))),
            *(f"![{curve.title}](images/bench-{curve.name}.svg)" for curve in self.curves),
        )


_HEADER: Final = ("| what | unit | median | spread | goal | |", "|---|---|---|---|---|---|")
_METHOD: Final = """\
`make bench` measures what imports cost, and compares it with goals. Workers, store, broker, API and
producer share one machine, so it has to be quiet. The real AWS API takes no part.

- A figure is the median of three runs, and the spread is that of the runs. The parts whose data
  take long to make (claims, memory) run once. Ratios compare figures of the same run.
- The store, and the broker with the results, are two embedded Valkey servers.
- The API is a stub in a process of its own, which answers at once and has no quotas. Rows show its
  share of a core, and its own ceiling. It is not the limit as long as its share is below one core.
- *A bare aioboto3 client* makes the same calls to the same stub, without a queue, a store or a
  record. *A plain task* is a Celery task that calls boto3 and polls by countdown
  (`tests/benchmarks/alternatives.py`)."""


def page(*parts: str) -> str:
    """Return the page of the documentation, with these parts behind what is always there."""
    return "\n\n".join(("<!-- Made by `make bench`. -->", "# Benchmarks", _METHOD, *parts)) + "\n"


def _line(result: Result) -> str:
    mark = {True: "met", False: "**missed**", None: ""}[result.is_met]
    spread = f"{_number(min(result.values))} to {_number(max(result.values))}"
    goal = result.row.goal or ""
    cells = (result.row.name, result.row.unit, _number(result.median), spread, str(goal), mark)
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def run(size: Size, runs: int) -> Report:
    """Measure everything."""
    began = time.monotonic()
    once = _figures(ONCE, size)
    each = [once | _figures(EACH_RUN, size) for _ in range(runs)]
    curves = [curve(size) for curve in CURVES]
    return Report(
        results_of(each), [*curves, throughput(each)], _machine(), (time.monotonic() - began) / 60
    )


def _figures(parts: Sequence[Part], size: Size) -> Figures:
    figures: Figures = {}
    for part in parts:
        began = time.monotonic()
        measured = part(size)
        shown = ", ".join(f"{name} {_number(value)}" for name, value in measured.items())
        seconds = time.monotonic() - began
        print(f"{part.__name__}, {seconds:.0f} s: {shown}", file=sys.stderr, flush=True)
        figures |= measured
    return figures


def in_flight(size: Size) -> Curve:
    """Measure the cost of a poll against the number of running imports."""
    numbers = [size.polled // 10, size.polled, size.polled * 3][: size.points]
    costs = [polling.polls_at(size, number, 1) for number in numbers]
    return _cost("in-flight", "A poll, by running imports", "running imports", numbers, costs)


def lanes(size: Size) -> Curve:
    """Measure the cost of a poll against the number of lanes."""
    numbers = LANES[: size.points]
    costs = [polling.polls_at(size, size.polled // 3, number) for number in numbers]
    return _cost("lanes", "A poll, by lanes", "lanes", numbers, costs)


def messages(size: Size) -> Curve:
    """Measure the cost of an admission against the size of the batch messages."""
    numbers = MESSAGES[: size.points]
    costs = [store_costs.messages(size, number) for number in numbers]
    return _cost("messages", "An admission, by message", "requests a message", numbers, costs)


CURVES: Final = (in_flight, lanes, messages)


def _cost(
    name: str, title: str, along: str, numbers: Sequence[int], costs: Sequence[Figures]
) -> Curve:
    lines = {
        who: [*zip(numbers, (cost[key] for cost in costs), strict=True)]
        for who, key in (("worker", "worker_ms"), ("store", "store_ms"))
    }
    return Curve(name, title, along, "ms CPU", lines)


def throughput(results: Sequence[Figures]) -> Curve:
    """Return the throughput against the number of workers, as the medians of the runs."""
    medians = [
        (number, statistics.median(figures[f"polls_{number}"] for figures in results))
        for number in PROCESSES
    ]
    title, lines = "Throughput, by workers on one store", {"measured": medians}
    return Curve("processes", title, "workers", "polls per second", lines, is_log=False)


def _machine() -> str:
    python = f"{platform.machine()}, Python {platform.python_version()}"
    return f"a machine with {os.cpu_count()} cores ({python}) on {datetime.now(UTC).date()}"


def write(report: Report, directory: Path) -> None:
    """Write the JSON file, the page and its plots into a copy of the project's tree."""
    images = directory / "docs" / "images"
    for path in (directory / "build", images):
        path.mkdir(parents=True, exist_ok=True)
    (directory / "build" / "bench.json").write_text(report.as_json())
    (directory / "docs" / "benchmarks.md").write_text(report.as_page())
    for curve in report.curves:
        draw_curves(curve, images / f"bench-{curve.name}.svg")


def main() -> None:
    """Measure everything, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--tiny", action="store_true", help="only show that everything runs")
    parser.add_argument("--directory", type=Path, default=PROJECT, help="where to write")
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("the benchmark reads /proc, so it runs on Linux only")
    report = run(TINY if options.tiny else FULL, options.runs)
    write(report, options.directory)
    print("\n".join(map(_line, report.results)))


if __name__ == "__main__":
    main()
