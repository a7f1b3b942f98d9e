"""Each part of `make bench` runs, at a tiny size, and its figures fill the table."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

from tests.benchmarks import rows
from tests.benchmarks.bench import CURVES, EACH_RUN, ONCE, Report, page, throughput, write
from tests.benchmarks.plot import Curve
from tests.benchmarks.rows import ROWS, Result, Row, least, most, results_of
from tests.benchmarks.size import TINY, Figures, Part, Size
from tests.benchmarks.store_costs import admission
from tests.support import PROJECT

FIGURES: Figures = dict.fromkeys(
    re.findall(r'"([a-z]+_[a-z0-9_]+)"', Path(rows.__file__).read_text()), 2.0
) | {f"polls_{number}": 100.0 * number for number in (1, 2, 4)}
"""A figure for each name that a row uses."""


@pytest.mark.parametrize("part", [*EACH_RUN, *ONCE], ids=lambda part: part.__name__)
def test_a_part_measures_what_the_rows_show(part: Part) -> None:
    if part is admission and which("redis-cli") is None:
        pytest.skip("NO REDIS-CLI on this machine")
    figures = part(TINY)
    assert figures.keys() & FIGURES.keys()
    assert all(value >= 0 for value in figures.values()), figures


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.__name__)
def test_a_plot_has_a_point_for_worker_and_store(curve: Callable[[Size], Curve]) -> None:
    lines = curve(TINY).lines
    assert {name: len(points) for name, points in lines.items()} == {"worker": 1, "store": 1}


def test_the_parts_together_measure_every_row(tmp_path: Path) -> None:
    runs = [FIGURES, {**FIGURES, "idle_commands": 5.0}, {**FIGURES, "idle_commands": 4.0}]
    report = Report(results_of(runs), [throughput(runs)], "a machine", 9.5)
    write(report, tmp_path)
    table = (tmp_path / "docs/benchmarks.md").read_text()
    assert "| an idle worker | commands per second | 4 | 2 to 5 | ≤ 3 | **missed** |" in table
    assert table.count("\n| ") == len(ROWS) + 1
    assert "<svg" in (tmp_path / "docs/images/bench-processes.svg").read_text()
    document = json.loads((tmp_path / "build/bench.json").read_text())
    assert [row["name"] for row in document["rows"]] == [row.name for row in ROWS]


def test_a_goal_may_be_the_most_or_the_least() -> None:
    def is_met(goal: rows.Goal, *values: float) -> bool | None:
        return Result(Row("", "", lambda _: 0, goal), values).is_met

    assert is_met(most(2), 1, 2, 9)
    assert not is_met(most(2), 1, 2.1, 9)
    assert is_met(least(2), 1, 2, 9)
    assert not is_met(least(2), 1, 1.9, 9)


def test_the_page_describes_how_is_measured() -> None:
    committed = (PROJECT / "docs/benchmarks.md").read_text()
    assert committed.startswith(page().rstrip()), "run `make bench`"
