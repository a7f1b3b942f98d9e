"""Reads the rows of a CSV file: detects the separator, reads the header, then the cells."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from worker.cli.batchjson import DECODER, GIVEN_TWICE, GivenTwiceError
from worker.cli.batchrow import (
    ALWAYS_REQUIRED,
    METADATA,
    METADATA_PREFIX,
    OPERATION,
    REQUIRED,
    Parcel,
    member_of,
    trimmed,
)
from worker.cli.batchtext import BatchFileError, BatchText

SEPARATORS: Final[Mapping[str, str]] = {
    ",": "commas",
    ";": "semicolons",
    "\t": "tabs",
    "|": "vertical bars",
}
UNNAMED: Final = ""
SHOWN: Final = 64

_SEPARATOR_LINE: Final = re.compile(r"sep=[,;|]?", re.IGNORECASE)
_NO_HEADER: Final = re.compile(rf'[\s,;|"]*|"?{_SEPARATOR_LINE.pattern}"?', re.IGNORECASE)


def separator_of(text: BatchText) -> str:
    """Return the separator of the columns: the one that gives the header the most member names."""
    lines = (line for line in text.lines() if not _NO_HEADER.fullmatch(trimmed(line)))
    header = next(lines, "")

    def names(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator), [])
        return sum(member_of(cell) is not None for cell in cells)

    return max(SEPARATORS, key=names)


def csv_rows(text: BatchText, separator: str) -> Iterator[Parcel]:
    """Yield the rows.

    Raises:
        BatchFileError: if the header is invalid, or a quote is not closed.

    """
    records = _records(text, separator)
    headers = ((line, cells) for line, cells in records if not _is_for_spreadsheets(cells))
    line, header = next(headers, (1, []))
    columns = _columns(line, header)
    for line, cells in records:
        yield _parcel(line, columns, cells)


def _records(text: BatchText, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not empty, trimmed, each with the line on which it begins."""
    reader = csv.reader(text.lines(), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BatchFileError(
                f"line {line}: is not CSV, or a quote in it is not closed: {error}"
            ) from error
        if cells is None:
            return
        cells = [trimmed(cell) for cell in cells]
        if any(cells):  # spreadsheets often write rows of empty cells
            yield line, cells


def _is_for_spreadsheets(cells: Sequence[str]) -> bool:
    """Return whether this is a line like `sep=;`, which names the separator for spreadsheets."""
    return bool(_SEPARATOR_LINE.fullmatch("".join(cells)))


def _columns(line: int, header: Sequence[str]) -> list[str]:
    columns = [_column(line, name) for name in header]
    while columns and columns[-1] == UNNAMED:
        columns.pop()
    for name in columns:
        if name and columns.count(name) > 1:
            raise BatchFileError(f"line {line}: column {name} is given twice")
    if METADATA in columns and any(name.startswith(METADATA_PREFIX) for name in columns):
        raise BatchFileError(f"line {line}: give metadata as one column or as metadata.KEY columns")
    required = ALWAYS_REQUIRED if OPERATION in columns else REQUIRED
    if missing := [name for name in required if name not in columns]:
        raise BatchFileError(f"line {line}: the header lacks {', '.join(missing)}")
    return columns


def _column(line: int, name: str) -> str:
    if not name:
        return UNNAMED
    if member := member_of(name):
        return member
    shown = ascii(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")
    raise BatchFileError(
        f"line {line}: unknown column {shown}"
        " (columns are separated by commas, semicolons, tabs or vertical bars)"
    )


def _parcel(line: int, columns: Sequence[str], cells: Sequence[str]) -> Parcel:
    if problem := _misplaced(columns, cells):
        return Parcel(line, None, ("row", problem))
    members: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, cell in zip(columns, cells, strict=False):
        if not cell:
            continue
        if name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = cell
        elif read := _READ_CELL.get(name):
            try:
                members[name] = read(cell)
            except GivenTwiceError as error:
                return Parcel(line, None, (f"{name}.{error}", GIVEN_TWICE))
            except (ValueError, RecursionError):
                return Parcel(line, None, (name, f"is not {_CELL_HOLDS[name]}"))
        else:
            members[name] = cell
    if metadata:
        members[METADATA] = metadata
    return Parcel(line, members)


def _misplaced(columns: Sequence[str], cells: Sequence[str]) -> str:
    """Return the problem if a row has too few cells, or a value in an unnamed column; else ''."""
    if len(cells) < len(columns):
        return f"has {len(cells)} cells, the header has {len(columns)}"
    for number, cell in enumerate(cells, 1):
        if cell and (number > len(columns) or columns[number - 1] == UNNAMED):
            return f"has a value in column {number}, which has no name in the header"
    return ""


_READ_CELL: Final[Mapping[str, Callable[[str], Any]]] = {
    "deadlineSeconds": float,
    METADATA: DECODER.decode,
}
_CELL_HOLDS: Final = {"deadlineSeconds": "a number", METADATA: "JSON"}
