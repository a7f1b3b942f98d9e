"""How records are spelled: short names, long texts in pieces, and back."""

import json
from typing import Any

import pytest

from tests.support import members, storage_members
from worker.operations.registry import OPERATIONS
from worker.store.records import (
    COMPACT,
    IN_PIECES,
    PIECE_BYTES,
    SHORT,
    import_of,
    packed,
    record_of,
    spellings,
    values_of,
)

PLACE = {"account": "default", "region": "us-east-1", "state": "waiting", "format": str(COMPACT)}


def stored(request: dict[str, Any]) -> dict[str, str]:
    """Return a record as the scripts store it."""
    parsed = OPERATIONS.parse(request)
    text = packed(parsed)
    pieces = [text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)]
    first, *others = pieces
    return {
        **PLACE,
        "a": parsed.app_id,
        "e": parsed.backend_environment_name,
        "priority": parsed.priority,
        "m": json.dumps(parsed.metadata),
        "r": first,
        **{f"r:{number}": piece for number, piece in enumerate(others, 2)},
    }


@pytest.mark.parametrize(
    "request_",
    [
        members("d1"),
        members("d1", region="eu-west-1", deadlineSeconds=5.5, priority="low"),
        members("d1", identityPoolId="us-east-1:1", idempotencyKey="k" * 200),
        members("d1", metadata={"ticket": "7", "note": "ü" * 200}),
        storage_members("d1"),
        storage_members("d1", serviceName="S3", account="other"),
    ],
)
def test_a_stored_request_has_the_members_that_were_sent(request_: dict[str, Any]) -> None:
    record = stored({"account": "default", **request_})
    record["account"] = request_.get("account", "default")
    sent = json.loads(OPERATIONS.parse(request_).to_json())
    sent.pop("operation", None)
    assert import_of("i1", record).members == sent


def test_a_batch_is_no_member_of_the_stored_request() -> None:
    assert "batchId" not in import_of("i1", stored(members("d1", batchId="b"))).members


def test_a_request_that_an_earlier_release_stored_is_copied_unchanged() -> None:
    text = OPERATIONS.parse(members("d1", batchId="b")).to_json()
    item = import_of("i1:retry-1", {**PLACE, "a": "d1", "e": "staging", "r": text})
    assert item.members == json.loads(text)


def test_records_of_earlier_formats_keep_their_names() -> None:
    fields = {**PLACE, "format": "3", "app_id": "d1", "backend_environment_name": "staging"}
    assert record_of(fields) == fields
    assert import_of("i1", fields).target == "d1/staging"


def test_no_two_fields_share_a_name_and_pieces_have_room() -> None:
    assert len({*SHORT, *SHORT.values()}) == 2 * len(SHORT)
    assert all(":" not in name for name in (*SHORT, *SHORT.values(), *IN_PIECES))


@pytest.mark.parametrize("is_short", [True, False])
def test_single_fields_are_read_in_both_spellings(*, is_short: bool) -> None:
    names = ("state", "app_id", "batch_id", "accepted_at_ms", "late_outcome")
    full = {"state": "waiting", "app_id": "d1", "accepted_at_ms": "7"}
    record = {SHORT.get(name, name): value for name, value in full.items()} if is_short else full
    found = [record.get(name) for name in spellings(names)]
    assert values_of(names, found) == ["waiting", "d1", None, "7", None]
