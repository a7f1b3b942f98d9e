"""The promises that an audit checks, and the violations that it reports."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from worker.domain.imports import iso_time
from worker.store.keys import CATALOGUE, Key


class Promise(StrEnum):
    """What the software promises about its store. The values are the names that users read."""

    OUTCOME = "one outcome"
    PLACE = "one place"
    TARGET = "one at a time"
    BATCH = "batches add up"
    LANE = "no lane is stranded"
    TASK = "no task is forgotten"
    OVERDUE = "nobody waits unnoticed"
    RETENTION = "nothing stays for ever"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that does not hold for `subject`: an import, batch, target, lane, key or event.

    `sentence` says what is wrong with the subject, without a capital letter and a full stop.
    """

    promise: Promise
    subject: str
    sentence: str


def overdue(subject: str, what: str, due_ms: float) -> Violation:
    """Return the violation of work that was due at `due_ms` and that no worker has taken up."""
    sentence = f"{what} at {iso_time(int(due_ms))}, but no worker has acted on it"
    return Violation(Promise.OVERDUE, subject, sentence)


def key_of(name: str) -> Key | None:
    """Return the kind of the key `name`; None if the catalog of keys does not have it."""
    return _KINDS.get(name) or _KINDS.get(":".join([*name.split(":", 2)[:2], ""]))


_KINDS: Final = {key.name: key for key in CATALOGUE}
