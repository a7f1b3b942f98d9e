"""The results of a batch as CSV or JSON, written page by page."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from config.text import shown
from worker.cli.explain import what_to_do
from worker.cli.status import import_as_json
from worker.domain.imports import Import
from worker.store.batchview import BatchCounts

COLUMNS: Final = (
    *("importId", "appId", "backendEnvironmentName", "account", "region", "requestedOperation"),
    *("state", "error", "toDo", "jobId", "status", "attempts", "polls"),
    *("acceptedAt", "startedAt", "finishedAt", "lateOutcome", "retriedBy"),
)

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\n")
"""A cell that begins with one of these is a formula for some spreadsheets. (So is one that begins
with CR, which `shown` replaces.)"""


class CsvResults:
    """One row for each import, under a header."""

    def begin(self, counts: BatchCounts) -> str:  # noqa: ARG002 - as JsonResults
        """Return the header."""
        return _csv([COLUMNS])

    def page(self, items: Iterable[Import]) -> str:
        """Return the rows of some imports."""
        rows = (_result(item) for item in items)
        return _csv([safe_cell(row[name]) for name in COLUMNS] for row in rows)

    def end(self, expired: int) -> str:  # noqa: ARG002 - as JsonResults
        """Return nothing: a table has no place for what is missing from it."""
        return ""


class JsonResults:
    """One object with the batch's id and counts, an array of its imports, and what is missing."""

    def __init__(self) -> None:
        self._separator = ""

    def begin(self, counts: BatchCounts) -> str:
        """Return the members before the imports."""
        head = {
            "batchId": counts.batch_id,
            "completed": counts.completed,
            "total": counts.total,
            "left": counts.left,
            "known": counts.known,
            **{str(state): number for state, number in counts.by_state.items()},
        }
        return f'{json.dumps(head)[:-1]}, "imports": ['

    def page(self, items: Iterable[Import]) -> str:
        """Return some elements of the array."""
        parts = []
        for item in items:
            parts.append(f"{self._separator}\n{json.dumps(_result(item))}")
            self._separator = ","
        return "".join(parts)

    def end(self, expired: int) -> str:
        """Return the members after the imports: how many records have expired."""
        return f'\n], "expired": {expired}}}\n'


Results = CsvResults | JsonResults
WRITERS: Final[Mapping[str, Callable[[], Results]]] = {"csv": CsvResults, "json": JsonResults}


def safe_cell(value: object) -> object:
    """Return a value that no spreadsheet takes for a formula, without control characters."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _result(item: Import) -> dict[str, Any]:
    found = {
        **import_as_json(item, None),
        "retriedBy": item.retried_by or None,
        "toDo": what_to_do(item) if item.is_terminal else None,
    }
    return {name: found[name] for name in COLUMNS}


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
