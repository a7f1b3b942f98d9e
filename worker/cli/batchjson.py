"""Reads the rows of a JSON file: one object per line, or one array of objects."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from worker.cli.batchrow import METADATA_PREFIX, Parcel, member_of, trimmed
from worker.cli.batchtext import BatchFileError, BatchText

_LINE_END: Final = re.compile(r"\r\n?|\n")
GIVEN_TWICE: Final = "is given twice"
_BLANKS: Final = re.compile(r"\s*")


class GivenTwiceError(ValueError):
    """A JSON object has the same name twice, so it is unclear which value is meant."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise GivenTwiceError(name)
        members[name] = value
    return members


DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def json_lines(text: BatchText) -> Iterator[Parcel]:
    """Yield the rows of JSON Lines. A comma after an object is ignored."""
    for number, line in enumerate(text.lines(), 1):
        if row := trimmed(line):
            yield _line(number, trimmed(row.removesuffix(",")))


def json_array(text: BatchText) -> Iterator[Parcel]:
    """Yield the elements of an array, each with the line on which it begins.

    Raises:
        BatchFileError: if the array is invalid. The message names the line.

    """
    whole = _LINE_END.sub("\n", text.text)
    line, counted, place = 1, 0, whole.index("[") + 1
    while True:
        place = _past_blanks(whole, place)
        line, counted = line + whole.count("\n", counted, place), place
        if whole.startswith("]", place):
            break
        value, place = _element(whole, place, line)
        yield _parcel(line, value)
        place = _past_blanks(whole, place)
        if whole.startswith(",", place):
            place += 1
        elif not whole.startswith("]", place):
            raise BatchFileError(f"line {line}: a comma or ] is missing after this element")
    if trimmed(whole[place + 1 :]):
        raise BatchFileError(f"line {line}: there is something after the end of the array")


def _past_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place


def _line(number: int, text: str) -> Parcel:
    try:
        return _parcel(number, DECODER.decode(text))
    except GivenTwiceError as error:
        return _given_twice(number, str(error))
    except (ValueError, RecursionError):
        return Parcel(number, None, ("row", "is not JSON"))


def _element(text: str, place: int, line: int) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, place)
    except GivenTwiceError as error:
        raise BatchFileError(f"line {line}: {error}: {GIVEN_TWICE}") from error
    except (ValueError, RecursionError) as error:
        raise BatchFileError(f"line {line}: the element that begins here is not JSON") from error


def _parcel(line: int, value: object) -> Parcel:
    """Return the row with normalized member names. The check of requests rejects non-objects."""
    if not isinstance(value, dict):
        return Parcel(line, value)
    members: dict[str, Any] = {}
    for name, held in value.items():
        member = member_of(name)
        if member is None or member.startswith(METADATA_PREFIX):
            member = name
        if member in members:
            return _given_twice(line, member)
        members[member] = trimmed(held) if isinstance(held, str) else held
    return Parcel(line, members)


def _given_twice(line: int, name: str) -> Parcel:
    return Parcel(line, None, (name, GIVEN_TWICE))
