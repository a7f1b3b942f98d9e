"""A row of a batch file as it is read: which member a name means, and what counts as blank."""

import re
from dataclasses import dataclass
from typing import Final

from worker.domain.requests import ImportRequest

IMPORT_ID: Final = "importId"
METADATA: Final = "metadata"
METADATA_PREFIX: Final = f"{METADATA}."

REQUIRED: Final = tuple(
    field.alias or name for name, field in ImportRequest.model_fields.items() if field.is_required()
)

# What spreadsheets and web pages put around a value, and nobody sees: zero-width characters, marks
# of direction, the byte order mark. `\s` is Unicode's space, the no-break space among it.
_UNSEEN: Final = r"\s\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_AROUND: Final = re.compile(rf"^[{_UNSEEN}]+|[{_UNSEEN}]+\Z")
_IN_NAMES: Final = re.compile(rf"[{_UNSEEN}_-]+")


@dataclass(frozen=True, slots=True)
class Parcel:
    """The members of one row as read, or why they could not be: member and reason."""

    line: int
    members: object
    problem: tuple[str, str] | None = None


def trimmed(text: str) -> str:
    """Return `text` without what is blank, or can't be seen, at its ends."""
    return text if text.isascii() and text.isalnum() else _AROUND.sub("", text)


def member_of(name: str) -> str | None:
    """Return the member that a name means; None where it means none.

    Case, blanks, `_` and `-` make no difference. Behind `metadata.`, a key is taken as it is.
    """
    before, dot, key = name.partition(".")
    if dot:
        return METADATA_PREFIX + trimmed(key) if _plain(before) == METADATA else None
    return _MEMBER_OF.get(_plain(name))


def _plain(name: str) -> str:
    return _IN_NAMES.sub("", name).lower()


_MEMBER_OF: Final = {
    _plain(member): member
    for member in (
        IMPORT_ID,
        *(field.alias or name for name, field in ImportRequest.model_fields.items()),
    )
}
