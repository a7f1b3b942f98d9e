"""Reads the file that says which user pool each app gets, for `amplify-import plan`."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from worker.cli.batchcsv import separator_of
from worker.cli.batchrow import METADATA_PREFIX, member_of, plain, trimmed
from worker.cli.batchtext import BatchFileError, read_text
from worker.domain.requests import DEFAULT_OPERATION
from worker.operations.registry import OPERATIONS

APP_NAME: Final = f"{METADATA_PREFIX}appName"
KEYS: Final = ("appId", "backendEnvironmentName", "account", "region", APP_NAME)
POOLS: Final = (
    *(member for member in OPERATIONS.required(DEFAULT_OPERATION) if member not in KEYS),
    "identityPoolId",
)


@dataclass(slots=True)
class PoolLine:
    """One line: which rows it is for, by patterns, and the values that they get."""

    number: int
    patterns: Mapping[str, str]
    values: Mapping[str, str]
    used: bool = False

    def fits(self, row: Mapping[str, str]) -> bool:
        """Return whether the row has what every pattern asks for."""
        return all(fnmatchcase(row[name], pattern) for name, pattern in self.patterns.items())


@dataclass(slots=True)
class PoolMap:
    """The lines of the file, in its order. The first line that fits a row decides."""

    lines: list[PoolLine] = field(default_factory=list)

    def pools_of(self, row: Mapping[str, str]) -> Mapping[str, str]:
        """Return the values for a row; none if no line fits it."""
        for line in self.lines:
            if line.fits(row):
                line.used = True
                return line.values
        return {}

    @property
    def unused(self) -> list[int]:
        """The numbers of the lines that fitted no row, and so may contain a mistake."""
        return [line.number for line in self.lines if not line.used]


def read_pool_map(path: str | Path) -> PoolMap:
    """Read a CSV file with the columns of KEYS, of which one at least is given, and of POOLS.

    A cell below a key is a pattern in which `*` and `?` stand for any text and any character. An
    empty one fits everything. Lines without any pool are ignored, as in a file of `plan` itself.

    Raises:
        BatchFileError: if it is no such file. The message names the line.
        OSError: if the file can't be opened or read.

    """
    text = read_text(path)
    reader = csv.reader(text.lines(), delimiter=separator_of(text), strict=True)
    header: list[str] = []
    found = PoolMap()
    try:
        for cells in reader:
            values = [trimmed(cell) for cell in cells]
            if not any(values):
                continue
            if not header:
                header = _header(reader.line_num, values)
                continue
            _add(found, reader.line_num, header, values)
    except csv.Error as error:
        raise BatchFileError(f"line {reader.line_num}: is not CSV: {error}") from error
    return found


def _header(number: int, cells: Iterable[str]) -> list[str]:
    names = [_column(number, cell) for cell in cells]
    if len(set(names)) < len(names):
        raise BatchFileError(f"line {number}: a column is given twice")
    for needed, which in ((KEYS, "for which apps a line is"), (POOLS, "which pools they get")):
        if not set(names) & set(needed):
            raise BatchFileError(
                f"line {number}: no column says {which}; give one of {', '.join(needed)}"
            )
    return names


def _column(number: int, cell: str) -> str:
    name = APP_NAME if plain(cell) == plain("appName") else member_of(cell)
    if name not in KEYS + POOLS:
        raise BatchFileError(
            f"line {number}: unknown column {cell!a}; known are {', '.join(KEYS + POOLS)}"
        )
    return name


def _add(found: PoolMap, number: int, header: list[str], cells: list[str]) -> None:
    if len(cells) != len(header):
        raise BatchFileError(f"line {number}: has {len(cells)} cells, the header has {len(header)}")
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    values = {name: cell for name, cell in given.items() if name in POOLS}
    if values:
        patterns = {name: cell for name, cell in given.items() if name in KEYS}
        found.lines.append(PoolLine(number, patterns, values))
