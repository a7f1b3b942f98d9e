"""What can be read of a request before it is validated, or although it is invalid."""

import json
from collections.abc import Mapping
from typing import Final, TypeGuard

from worker.domain.requests import (
    IDENTIFIER_PATTERN,
    MAX_REQUEST_BYTES,
    SHOWN_CHARACTERS,
    InvalidRequestError,
)

LONGEST_TASK_ID: Final = 255


def decode(text: str) -> object:
    """Return the JSON of a stream entry, or the error that says what is wrong with it."""
    if not text:
        return InvalidRequestError((("request", "is missing: an entry has a field of that name"),))
    if len(text) > MAX_REQUEST_BYTES:
        return InvalidRequestError((("request", f"is longer than {MAX_REQUEST_BYTES} bytes"),))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return InvalidRequestError((("request", "is not JSON"),))


def import_id_of(members: object) -> str:
    """Return the importId that a request carries; '' if there is none, or an invalid one."""
    known = members if isinstance(members, Mapping) else {}
    given = known.get("importId", known.get("import_id"))
    return given if isinstance(given, str) and IDENTIFIER_PATTERN.fullmatch(given) else ""


def batch_id_of(members: object) -> str:
    """Return the batchId of an invalid request; '' if the batchId is invalid, too."""
    known = members if isinstance(members, Mapping) else {}
    batch_id = known.get("batchId", known.get("batch_id"))
    is_valid = isinstance(batch_id, str) and IDENTIFIER_PATTERN.fullmatch(batch_id)
    return str(batch_id) if is_valid else ""


def target_of(members: object) -> tuple[str, str]:
    """Return a printable form of the appId and the environment name."""
    return (
        readable(members, "appId", "app_id"),
        readable(members, "backendEnvironmentName", "backend_environment_name"),
    )


def readable(members: object, *names: str) -> str:
    """Return a printable form of a member of an invalid request; '-' if there is none."""
    for name in names:
        value = members.get(name) if isinstance(members, Mapping) else None
        if isinstance(value, str) and value:
            shown = value[:64]
            if shown.isascii() and shown.isprintable():
                return shown
            return "".join(c if c.isascii() and c.isprintable() else "?" for c in shown)
    return "-"


def with_batch(members: object, batch_id: str) -> object:
    """Give a batch's request its batchId. If the request has one already, it must be the same."""
    if not batch_id or not isinstance(members, Mapping):
        return members
    own = members.get("batchId", members.get("batch_id", batch_id))
    if own != batch_id:
        raise InvalidRequestError((("batchId", f"differs from that of the message, {batch_id}"),))
    return {**{k: v for k, v in members.items() if k != "batch_id"}, "batchId": batch_id}


def is_task_id(value: object) -> TypeGuard[str]:
    """Return whether Celery can store a task under this id."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TASK_ID and value.isprintable()


def cut(reason: str) -> str:
    """Return a reason in a form that an error may repeat."""
    return ascii(reason)[1:-1][: 4 * SHOWN_CHARACTERS]
