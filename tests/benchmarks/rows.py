"""The rows of the table: what each measures, its goal, and whether the figures meet it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.size import Figures


@dataclass(frozen=True, slots=True)
class Goal:
    """The most or the least that a figure may be."""

    limit: float
    is_most: bool

    def __str__(self) -> str:
        return f"{'≤' if self.is_most else '≥'} {self.limit:,g}"

    def is_met(self, value: float) -> bool:
        """Return whether a figure meets the goal."""
        return value <= self.limit if self.is_most else value >= self.limit


def most(limit: float) -> Goal:
    """Return the goal to stay at or below a limit."""
    return Goal(limit, is_most=True)


def least(limit: float) -> Goal:
    """Return the goal to reach a limit."""
    return Goal(limit, is_most=False)


@dataclass(frozen=True, slots=True)
class Row:
    """A row. Each run gives one value, of the run's figures."""

    name: str
    unit: str
    value: Callable[[Figures], float]
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A row's values in all runs."""

    row: Row
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the goal; None if there is none."""
        return self.row.goal.is_met(self.median) if self.row.goal else None

    def as_json(self) -> dict[str, object]:
        """Return the row for the JSON file."""
        return {
            "name": self.row.name,
            "unit": self.row.unit,
            "goal": str(self.row.goal) if self.row.goal else None,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "met": self.is_met,
        }


def _figure(name: str) -> Callable[[Figures], float]:
    return lambda figures: figures[name]


def _ratio(name: str, to: str) -> Callable[[Figures], float]:
    return lambda figures: figures[name] / figures[to]


OF_BARE: Final = "of a bare aioboto3 client's efficiency"

ROWS: Final = (
    Row("a call for an import by batch", OF_BARE, _figure("batch_efficiency"), least(0.50)),
    Row("a call for an import by stream", OF_BARE, _figure("stream_efficiency"), least(0.45)),
    Row("a call for an import by Celery task", OF_BARE, _figure("task_efficiency"), least(0.35)),
    Row("a poll", OF_BARE, _figure("poll_efficiency_1"), least(0.75)),
    Row(
        "imports by Celery task",
        "per CPU second, of a plain task with boto3",
        _ratio("plain_import_ms", "task_import_ms"),
        least(1.5),
    ),
    Row(
        "from sending a task to its result",
        "of the time of a plain task with boto3",
        _ratio("task_latency", "plain_latency"),
        most(0.5),
    ),
    Row("an import by batch", "ms CPU of the worker", _figure("batch_import_ms")),
    Row("an import by stream", "ms CPU of the worker", _figure("stream_import_ms")),
    Row("an import by Celery task", "ms CPU of the worker", _figure("task_import_ms")),
    Row("an import of a trickle", "ms CPU of the worker", _figure("trickle_worker_ms"), most(6)),
    Row("an import of a trickle", "ms CPU of the store", _figure("trickle_store_ms"), most(1.2)),
    Row("an import of a trickle", "scripts", _figure("trickle_scripts"), most(5)),
    Row("a script of a trickle", "µs of the store", _figure("trickle_script_us"), most(80)),
    Row("an import by batch", "ms CPU of the store", _figure("batch_store_ms")),
    Row("an import by batch", "bytes to and from the store", _figure("batch_store_bytes")),
    Row("an idle worker", "commands per second", _figure("idle_commands"), most(3)),
    Row("an idle worker", "of a core", _figure("idle_cpu")),
    Row("from admission to the recorded start, alone", "ms", _figure("start_ms")),
    Row("a running import", "bytes of the store", _figure("running_bytes"), most(1276)),
    Row("an ended import", "bytes of the store", _figure("batch_finished_bytes"), most(700)),
    Row(
        "a worker's memory with 100,000 running imports",
        "of its memory without",
        _figure("memory_ratio"),
        most(1.15),
    ),
    Row(
        "admission of a file of 100,000 rows",
        "seconds, from the rate of 20,000",
        _figure("admission_seconds"),
        most(30),
    ),
    Row(
        "admission of a file",
        "of the rate of redis-cli --pipe",
        _figure("admission_share"),
        least(0.3),
    ),
    Row("a claim of ten starts", "µs of the store", _figure("claim_us")),
    Row(
        "a claim with 1,000,000 waiting imports",
        "of one with 1,000",
        _figure("claim_waiting"),
        most(1.5),
    ),
    Row("a claim with 5,000 lanes", "of one with a single lane", _figure("claim_lanes"), most(1.5)),
    Row(
        "from a job's end to its event, 10,000 running",
        "intervals between polls, median",
        _figure("lag_p50"),
        most(0.6),
    ),
    Row(
        "from a job's end to its event, 10,000 running",
        "intervals between polls, 99th percentile",
        _figure("lag_p99"),
        most(1.2),
    ),
    Row("one worker", "polls per second", _figure("polls_1")),
    Row("two workers", "of the throughput of one", _ratio("polls_2", "polls_1"), least(1.8)),
    Row("four workers", "of the throughput of one", _ratio("polls_4", "polls_1")),
    Row("a poll by two workers", "of the CPU by one", _ratio("poll_ms_2", "poll_ms_1")),
    Row("a poll by four workers", "of the CPU by one", _ratio("poll_ms_4", "poll_ms_1")),
    Row("the store with four workers", "scripts per second", _figure("scripts_4")),
    Row("the store with four workers", "of a core", _figure("store_share_4")),
    Row("the stub API with four workers", "of a core", _figure("stub_share_4")),
    Row("the stub API alone", "polls per second of its CPU", _figure("stub_ceiling")),
)


def results_of(runs: Sequence[Mapping[str, float]]) -> list[Result]:
    """Return all rows with their values in these runs."""
    return [Result(row, [row.value(dict(figures)) for figures in runs]) for row in ROWS]
