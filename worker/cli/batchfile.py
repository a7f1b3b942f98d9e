"""Reads a batch file, CSV or JSON, and reports invalid rows by line and member.

`batchtext` decodes the file, `batchcsv` and `batchjson` read its rows, and this module checks each
row, and the rows against each other. The header of a CSV file consists of member names. An empty
cell is an absent member. Metadata is in `metadata.KEY` columns, or as JSON in one `metadata`
column. Line numbers are those of an editor, even after quoted cells of several lines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from worker.cli.batchcsv import SEPARATORS, csv_rows, separator_of
from worker.cli.batchjson import json_array, json_lines
from worker.cli.batchrow import IMPORT_ID, Parcel
from worker.cli.batchtext import GZIP_SUFFIX, BatchFileError, BatchText, read_text
from worker.domain.requests import ImportRequest, InvalidRequestError, problem_of_import_id
from worker.operations.registry import OPERATIONS

JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True, slots=True)
class Row:
    """A valid row. `members` is the request to send, with `importId` if the file gives one.

    `fingerprint` is the request's. It depends only on the content, not on the position.
    """

    line: int
    members: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one member of one row. `member` is `row` if the whole row is meant.

    `shared` says that its cause is outside the file, so that rows with the same reason belong
    together.
    """

    line: int
    member: str
    reason: str
    shared: bool = False

    def __str__(self) -> str:
        """Return the problem as one line of text."""
        return f"line {self.line}: {self.member}: {self.reason}"


@dataclass(frozen=True, slots=True)
class BatchFile:
    """The content of a file: its valid rows and the problems of the others, in the file's order.

    `warnings` don't make a row invalid. `digest` is the SHA-256 of the content. `batch_id` is the
    one in the rows, '' if there is none. `detected` names format and encoding, and is '' for UTF-8
    with commas or JSON Lines.
    """

    rows: list[Row]
    problems: list[Problem]
    digest: str
    batch_id: str = ""
    detected: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def bad_rows(self) -> int:
        """The number of rows that have problems."""
        return len({problem.line for problem in self.problems})


def read_batch(path: str | Path) -> BatchFile:
    """Read and validate a batch file; `-` is standard input.

    Raises:
        BatchFileError: if it is not a batch file: it is empty, is not text, has an invalid header,
            or has a line that is too long.
        OSError: if the file can't be opened or read.

    """
    text = read_text(path)
    layout, is_usual, parcels = _parcels(text, path)
    checker = _Checker()
    for parcel in parcels:
        checker.check(parcel)
    if not checker.rows and not checker.problems:
        raise BatchFileError("contains no requests")
    detected = "" if is_usual and text.is_plain else f"{layout}, {text.encoding}"
    return BatchFile(checker.rows, checker.problems, text.digest, checker.batch_id, detected)


def stem_of(path: str | Path) -> str:
    """Return a file's name without the suffixes of its format and of gzip."""
    name = Path(path).name
    return Path(name.removesuffix(GZIP_SUFFIX)).stem


def _parcels(text: BatchText, path: str | Path) -> tuple[str, bool, Iterator[Parcel]]:
    """Return the name of the file's format, whether it is a usual one, and the rows."""
    first = text.text.lstrip()
    suffix = Path(Path(path).name.removesuffix(GZIP_SUFFIX)).suffix.lower()
    if first.startswith("["):
        return "JSON array", False, json_array(text)
    if first.startswith("{") or suffix in JSON_SUFFIXES:
        return "JSON Lines", True, json_lines(text)
    separator = separator_of(text)
    return SEPARATORS[separator], separator == ",", csv_rows(text, separator)


@dataclass(slots=True)
class _Checker:
    """Validates rows one by one and against each other."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    batch_id: str = ""
    _batch_line: int = 0
    _line_of_target: dict[str, int] = field(default_factory=dict)
    _line_of_id: dict[str, int] = field(default_factory=dict)

    def check(self, parcel: Parcel) -> None:
        """Add the row to `rows`, or its problems to `problems`."""
        problems = [parcel.problem] if parcel.problem else self._check_members(parcel)
        self.problems.extend(Problem(parcel.line, *problem) for problem in problems)

    def _check_members(self, parcel: Parcel) -> Sequence[tuple[str, str]]:
        members, import_id = _without_import_id(parcel.members)
        problems = list(_problems_of_id(import_id))
        try:
            request = OPERATIONS.parse(members)
        except InvalidRequestError as error:
            return [*problems, *error.problems]
        problems += self._conflicts(parcel.line, request, import_id)
        if not problems:
            kept = members if import_id is None else {**members, IMPORT_ID: import_id}
            self.rows.append(Row(parcel.line, kept, request.fingerprint))
        return problems

    def _conflicts(
        self, line: int, request: ImportRequest, import_id: object
    ) -> Iterator[tuple[str, str]]:
        """Yield the problems of a row that repeats or contradicts an earlier row."""
        target = f"{request.app_id}/{request.backend_environment_name}"
        # One string takes less memory than a tuple; a file may have a million rows.
        place = f"{request.operation}/{request.account}/{request.region}/{target}"
        earlier = self._line_of_target.setdefault(place, line)
        if earlier != line:
            yield "row", f"has the same target as line {earlier}: {target}"
        if isinstance(import_id, str):
            earlier = self._line_of_id.setdefault(import_id, line)
            if earlier != line:
                yield IMPORT_ID, f"is that of line {earlier} as well"
        if request.batch_id and not self.batch_id:
            self.batch_id, self._batch_line = request.batch_id, line
        if request.batch_id and request.batch_id != self.batch_id:
            yield "batchId", f"differs from that of line {self._batch_line}; a file is one batch"


def _without_import_id(members: object) -> tuple[Any, object]:
    """Return the members without the importId, and the importId; None if there is none."""
    if not isinstance(members, dict):
        return members, None
    others = {name: value for name, value in members.items() if name != IMPORT_ID}
    return others, members.get(IMPORT_ID)


def _problems_of_id(import_id: object) -> Iterator[tuple[str, str]]:
    if import_id is not None and (problem := problem_of_import_id(import_id)):
        yield IMPORT_ID, problem
