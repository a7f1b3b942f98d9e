"""A row of a batch file before it is checked: member names and blank characters."""

import re
from dataclasses import dataclass
from typing import Final

from worker.domain.requests import DEFAULT_OPERATION
from worker.operations.registry import OPERATIONS

IMPORT_ID: Final = "importId"
OPERATION: Final = "operation"
METADATA: Final = "metadata"
METADATA_PREFIX: Final = f"{METADATA}."

REQUIRED: Final = OPERATIONS.required(DEFAULT_OPERATION)
"""The members that every row must have if the file has no column for the operation."""

ALWAYS_REQUIRED: Final = OPERATIONS.required()
"""The members that every row must have, whatever its operation."""

# Invisible characters that spreadsheets and web pages put around values: zero-width characters,
# directional marks and the byte order mark. `\s` is all of Unicode's white space, including the
# no-break space.
_UNSEEN: Final = r"\s\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_AROUND: Final = re.compile(rf"^[{_UNSEEN}]+|[{_UNSEEN}]+\Z")
_IN_NAMES: Final = re.compile(rf"[{_UNSEEN}_-]+")


@dataclass(frozen=True, slots=True)
class Parcel:
    """One row as read from the file: its members, or the member and the reason of a problem."""

    line: int
    members: object
    problem: tuple[str, str] | None = None


def trimmed(text: str) -> str:
    """Return `text` without blank and invisible characters at its ends."""
    return text if text.isascii() and text.isalnum() else _AROUND.sub("", text)


def member_of(name: str) -> str | None:
    """Return the member that a name stands for; None if there is none.

    Case, blanks, `_` and `-` make no difference, except in a key after `metadata.`.
    """
    before, dot, key = name.partition(".")
    if dot:
        return METADATA_PREFIX + trimmed(key) if plain(before) == METADATA else None
    return _MEMBER_OF.get(plain(name))


def plain(name: str) -> str:
    """Return a name without what makes no difference in it."""
    return _IN_NAMES.sub("", name).lower()


_MEMBER_OF: Final = {plain(member): member for member in (IMPORT_ID, *OPERATIONS.members)}
