"""Reads a batch file, CSV or JSON Lines, and says which line and member is wrong.

A CSV file has member names for a header; an empty cell is an absent member; metadata stands in
`metadata.KEY` columns or as JSON in one `metadata` column. Lines are counted as an editor shows
them, also behind quoted cells that span several.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic.alias_generators import to_camel, to_snake

from worker.domain.requests import IDENTIFIER_PATTERN, ImportRequest, InvalidRequestError

MAX_LINE_BYTES: Final = 64 * 1024
"""The longest line of a file: several times what the longest request needs."""

STANDARD_INPUT: Final = "-"
JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})
METADATA_PREFIX: Final = "metadata."

_IMPORT_ID: Final = "importId"
_MEMBERS: Final = {name: field.alias or name for name, field in ImportRequest.model_fields.items()}
_COLUMNS: Final = frozenset({*_MEMBERS.values(), _IMPORT_ID})
_REQUIRED: Final = tuple(
    _MEMBERS[name] for name, field in ImportRequest.model_fields.items() if field.is_required()
)


class BatchFileError(Exception):
    """A file that is no batch at all. The message names the line if one is to blame."""


@dataclass(frozen=True, slots=True)
class Row:
    """A valid request. `members` is what to send, with `importId` where the file gives one.

    `fingerprint` is that of the request: the same content has the same, wherever it stands.
    """

    line: int
    members: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one member of one line. `member` is `row` where it is the whole row."""

    line: int
    member: str
    reason: str

    def __str__(self) -> str:
        """Return the problem as one line for people."""
        return f"line {self.line}: {self.member}: {self.reason}"


@dataclass(frozen=True, slots=True)
class BatchFile:
    """What a file holds: the good rows and the problems of the others, in the file's order.

    `digest` is the SHA-256 of the content; `batch_id` the one that the rows name, '' where none.
    """

    rows: list[Row]
    problems: list[Problem]
    digest: str
    batch_id: str = ""

    @property
    def bad_rows(self) -> int:
        """How many rows have problems."""
        return len({problem.line for problem in self.problems})


def read_batch(path: str | Path) -> BatchFile:
    """Read and validate a batch file; `-` is standard input.

    Raises:
        BatchFileError: when it is not a batch file: empty, not UTF-8, a wrong header, a line out
            of all proportion.
        OSError: when it can't be opened or read.

    """
    with _opened(path) as stream:
        lines = _Lines(stream)
        checker = _Checker()
        for parcel in _parcels(lines, Path(path).suffix.lower()):
            checker.check(parcel)
        if not checker.rows and not checker.problems:
            raise BatchFileError("holds no requests")
        return BatchFile(checker.rows, checker.problems, lines.digest, checker.batch_id)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """The members of one row as read, or why they could not be."""

    line: int
    members: object
    problem: tuple[str, str] | None = None


class _Lines:
    """The lines of a file as text, one at a time; digests the bytes and remembers its place.

    `number` is that of the line read last.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._kept: list[str] = []
        self.number = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self._kept.pop() if self._kept else self._read()
        if not text:
            raise StopIteration
        self.number += 1
        return text

    def peek(self) -> str:
        """Return the next line that is not blank without consuming it, '' at the end."""
        text = next((line for line in self if line.strip()), "")
        if text:
            self.number -= 1
            self._kept.append(text)
        return text

    def _read(self) -> str:
        raw = self._stream.readline(MAX_LINE_BYTES + 1)
        if len(raw) > MAX_LINE_BYTES:
            raise BatchFileError(f"line {self.number + 1}: is longer than {MAX_LINE_BYTES} bytes")
        self._hash.update(raw)
        try:
            return raw.decode("utf-8-sig" if self.number == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise BatchFileError(f"line {self.number + 1}: is not UTF-8") from error


@dataclass(slots=True)
class _Checker:
    """Validates rows one by one and against each other."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    batch_id: str = ""
    _batch_line: int = 0
    _line_of_target: dict[str, int] = field(default_factory=dict)
    _line_of_id: dict[str, int] = field(default_factory=dict)

    def check(self, parcel: _Parcel) -> None:
        """Keep the row, or what is wrong with it."""
        problems = [parcel.problem] if parcel.problem else self._check_members(parcel)
        self.problems.extend(Problem(parcel.line, *problem) for problem in problems)

    def _check_members(self, parcel: _Parcel) -> Sequence[tuple[str, str]]:
        members, import_id = _without_import_id(parcel.members)
        problems = list(_problems_of_id(import_id))
        try:
            request = ImportRequest.parse(members)
        except InvalidRequestError as error:
            return [*problems, *error.problems]
        problems += self._conflicts(parcel.line, request, import_id)
        if not problems:
            kept = members if import_id is None else {**members, _IMPORT_ID: import_id}
            self.rows.append(Row(parcel.line, kept, request.fingerprint))
        return problems

    def _conflicts(
        self, line: int, request: ImportRequest, import_id: object
    ) -> Iterator[tuple[str, str]]:
        """Yield where the row repeats, or contradicts, an earlier one."""
        target = f"{request.app_id}/{request.backend_environment_name}"
        place = f"{request.account}/{request.region}/{target}"  # one text: there are many of them
        earlier = self._line_of_target.setdefault(place, line)
        if earlier != line:
            yield "row", f"has the same target as line {earlier}: {target}"
        if isinstance(import_id, str):
            earlier = self._line_of_id.setdefault(import_id, line)
            if earlier != line:
                yield _IMPORT_ID, f"is that of line {earlier} as well"
        if request.batch_id and not self.batch_id:
            self.batch_id, self._batch_line = request.batch_id, line
        if request.batch_id and request.batch_id != self.batch_id:
            yield "batchId", f"differs from that of line {self._batch_line}; a file is one batch"


def _opened(path: str | Path) -> AbstractContextManager[BinaryIO]:
    if str(path) == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    return Path(path).open("rb")


def _parcels(lines: _Lines, suffix: str) -> Iterator[_Parcel]:
    first = lines.peek().lstrip()
    if not first:
        raise BatchFileError("is empty")
    if suffix in JSON_SUFFIXES or (suffix != ".csv" and first.startswith("{")):
        return _json_parcels(lines, first)
    return _csv_parcels(lines)


def _json_parcels(lines: _Lines, first: str) -> Iterator[_Parcel]:
    if first.startswith("["):
        raise BatchFileError("is a JSON array; write one JSON object a line (JSON Lines)")
    for text in lines:
        if text.strip():
            yield _json_parcel(lines.number, text)


def _json_parcel(line: int, text: str) -> _Parcel:
    try:
        return _Parcel(line, json.loads(text))
    except (ValueError, RecursionError):
        return _Parcel(line, None, ("row", "is not JSON"))


def _csv_parcels(lines: _Lines) -> Iterator[_Parcel]:
    records = _records(lines)
    header_line, header = next(records, (1, []))
    columns = _columns(header_line, header)
    for line, cells in records:
        if len(cells) == len(columns):
            yield _csv_parcel(line, columns, cells)
        else:
            reason = f"has {len(cells)} cells, the header has {len(columns)}"
            yield _Parcel(line, None, ("row", reason))


def _records(lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that hold anything, with the line on which each begins."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BatchFileError(
                f"line {line}: is not CSV, or a quote in it is not closed: {error}"
            ) from error
        if cells is None:
            return
        if any(cells):  # spreadsheets leave rows of empty cells behind
            yield line, cells


def _columns(line: int, header: Sequence[str]) -> list[str]:
    columns = [_column(line, name.strip()) for name in header]
    for name in columns:
        if columns.count(name) > 1:
            raise BatchFileError(f"line {line}: column {name} is given twice")
    if "metadata" in columns and any(name.startswith(METADATA_PREFIX) for name in columns):
        raise BatchFileError(f"line {line}: give metadata as one column or as metadata.KEY columns")
    if missing := [name for name in _REQUIRED if name not in columns]:
        raise BatchFileError(f"line {line}: the header lacks {', '.join(missing)}")
    return columns


def _column(line: int, name: str) -> str:
    if name.startswith(METADATA_PREFIX):
        return name
    member = to_camel(name) if to_snake(name) == name else name
    if member not in _COLUMNS:
        shown = ascii(name if len(name) <= 64 else f"{name[:64]}...")
        commas = "" if name.isidentifier() else " (columns are separated by commas)"
        raise BatchFileError(f"line {line}: unknown column {shown}{commas}")
    return member


def _csv_parcel(line: int, columns: Sequence[str], cells: Sequence[str]) -> _Parcel:
    members: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, cell in zip(columns, cells, strict=True):
        if not cell:
            continue
        if name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = cell
        elif read := _READ_CELL.get(name):
            try:
                members[name] = read(cell)
            except (ValueError, RecursionError):
                return _Parcel(line, None, (name, f"is not {_CELL_HOLDS[name]}"))
        else:
            members[name] = cell
    if metadata:
        members["metadata"] = metadata
    return _Parcel(line, members)


_READ_CELL: Final[Mapping[str, Callable[[str], Any]]] = {
    "deadlineSeconds": float,
    "metadata": json.loads,
}
_CELL_HOLDS: Final = {"deadlineSeconds": "a number", "metadata": "JSON"}


def _without_import_id(members: object) -> tuple[Any, object]:
    """Split off the importId, in either spelling; None where there is none."""
    if not isinstance(members, dict):
        return members, None
    name = next((name for name in (_IMPORT_ID, "import_id") if name in members), None)
    if name is None:
        return members, None
    return {key: value for key, value in members.items() if key != name}, members[name]


def _problems_of_id(import_id: object) -> Iterator[tuple[str, str]]:
    if import_id is None:
        return
    if not isinstance(import_id, str) or not IDENTIFIER_PATTERN.fullmatch(import_id):
        yield _IMPORT_ID, "must be an id of letters, digits and ._:@+=-"
