"""How the store spells an import's record, so that it takes little memory.

The server keeps a hash as a compact list as long as no value is longer than 64 bytes. The same hash
takes three times as much memory as a table. Therefore long texts are stored in pieces, and the
fields that nearly every record has get short names. Records of formats before `COMPACT` have
neither; workers of their release still read them.

The scripts see every record with its full names (scripts/library/records.lua).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from worker.domain.imports import Import
from worker.domain.requests import ImportRequest, Priority

COMPACT: Final = 4
"""The first format whose records are spelled this way."""

SCHEDULED: Final = 5
"""The format of imports whose batch has a schedule, which workers of earlier formats don't know."""

PIECE_BYTES: Final = 64
"""The longest value of a compact list (`hash-max-listpack-value`), also on managed servers."""

SHORT: Final[Mapping[str, str]] = {
    "app_id": "a",
    "backend_environment_name": "e",
    "request_json": "r",
    "metadata": "m",
    "job_id": "j",
    "operation": "o",
    "status": "s",
    "attempts": "n",
    "polls": "p",
    "updated": "u",
    "undecided": "x",
    "accepted_at_ms": "A",
    "first_start_at_ms": "F",
    "last_start_at_ms": "L",
    "started_at_ms": "S",
    "unfinished_at_ms": "U",
    "changed_at_ms": "C",
    "finished_at_ms": "E",
}
"""The short names. What workers of an earlier release need in order to leave a record alone keeps
its name: `state`, `format`, and the import's place in its lane and batch. So do rare fields."""

_FULL: Final = {short: name for name, short in SHORT.items()}

IN_PIECES: Final = (
    *("request_json", "metadata", "status", "error", "suspicion", "doubt_error", "undecided"),
    *("unclear_jobs", "listed_jobs", "cancel_reason", "late_status", "late_error", "tracestate"),
    "verification_error",
)
"""The texts that may be long. Nothing reads one of them alone."""

_MEMBERS: Final[Mapping[str, str]] = {
    "userPoolId": "u",
    "webClientId": "w",
    "nativeClientId": "n",
    "identityPoolId": "i",
    "bucketName": "b",
    "serviceName": "s",
}
_FULL_MEMBERS: Final = {short: name for name, short in _MEMBERS.items()}
_ELSEWHERE: Final = {
    *("operation", "app_id", "backend_environment_name", "account"),
    *("batch_id", "priority", "metadata"),
}
"""The members of a request that have fields of their own in the record."""


def script_names() -> dict[str, Any]:
    """Return the spelling in the form that the scripts take."""
    return {
        "format": COMPACT,
        "scheduled": SCHEDULED,
        "piece_bytes": PIECE_BYTES,
        "short": SHORT,
        "full": _FULL,
        "in_pieces": dict.fromkeys(IN_PIECES, 1),
    }


def packed(request: ImportRequest) -> str:
    """Return the members of a request that have no field of their own, as JSON."""
    members = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_ELSEWHERE)
    short = {_MEMBERS.get(name, name): value for name, value in members.items()}
    return json.dumps(short, ensure_ascii=False, separators=(",", ":"))


def is_packed(request_json: str) -> bool:
    """Return whether a request is packed. A whole one has its appId, on all releases."""
    return bool(request_json) and '"appId":' not in request_json


def is_compact(fields: Mapping[str, str]) -> bool:
    """Return whether a record is spelled this way."""
    return int(fields.get("format") or 1) >= COMPACT


def import_of(import_id: str, fields: Mapping[str, str]) -> Import:
    """Return an import from the fields of its record, as stored or as a script replied them."""
    record = record_of(fields)
    if is_packed(record.get("request_json", "")):
        record["request_json"] = _unpacked(record)
    return Import.from_fields(import_id, record)


def record_of(fields: Mapping[str, str]) -> dict[str, str]:
    """Return a record with its full names, as the scripts see it."""
    record = {_FULL.get(name, name): value for name, value in fields.items()}
    for name in IN_PIECES:
        record.update(_joined(record, name))
    if is_compact(record):
        record.setdefault("priority", Priority.NORMAL)
    return record


def _joined(record: Mapping[str, str], name: str) -> dict[str, str]:
    """Return a text that is stored in pieces; nothing if it is in one piece, or missing."""
    short = SHORT.get(name, name)
    if f"{short}:2" not in record:
        return {}
    pieces, number = [record.get(name, "")], 2
    while piece := record.get(f"{short}:{number}"):
        pieces.append(piece)
        number += 1
    return {name: "".join(pieces)}


def _unpacked(record: Mapping[str, str]) -> str:
    members = {
        "appId": record.get("app_id", ""),
        "backendEnvironmentName": record.get("backend_environment_name", ""),
        "account": record.get("account", ""),
        "priority": record.get("priority", ""),
        "metadata": json.loads(record.get("metadata", "{}")),
    }
    packed_members = json.loads(record.get("request_json", "{}"))
    members |= {_FULL_MEMBERS.get(name, name): value for name, value in packed_members.items()}
    return json.dumps(members)


def spellings(names: Iterable[str]) -> list[str]:
    """Return the names to ask a record for, in order to read these fields; see `values_of`."""
    names = list(names)
    return [*names, *(SHORT[name] for name in names if name in SHORT)]


def values_of(names: Sequence[str], found: Sequence[str | None]) -> list[str | None]:
    """Return the values of these fields from what a record had under their `spellings`."""
    short = iter(found[len(names) :])
    return [
        (next(short) or value) if name in SHORT else value
        for name, value in zip(names, found, strict=False)
    ]
