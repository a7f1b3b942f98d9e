"""What a message of a batch may contain, and how errors in it are reported."""

from typing import Any

import pytest

from worker.domain.batches import MAX_BATCH_REQUESTS, BatchMessage
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.requests import InvalidRequestError

MESSAGE: dict[str, Any] = {"batchId": "b", "requests": [{}, "anything"]}


def test_all_but_the_batch_and_its_requests_may_be_absent_or_null() -> None:
    nulls = dict.fromkeys(("offset", "total", "canary", "stopPercent", "recoverSince"))
    for message in (BatchMessage.parse(MESSAGE), BatchMessage.parse({**MESSAGE, **nulls})):
        assert (message.first, message.expected, message.recover_since_ms) == (0, 2, 0)
        assert message.rule == NO_RULE


@pytest.mark.parametrize(
    ("members", "expected"), [({"offset": 8}, 10), ({"total": 5}, 5), ({"total": 1}, 2)]
)
def test_the_length_of_a_batch_is_the_largest_that_a_message_implies(
    members: dict[str, Any], expected: int
) -> None:
    assert BatchMessage.parse({**MESSAGE, **members}).expected == expected


def test_the_stop_rule_comes_from_the_members() -> None:
    message = BatchMessage.parse({**MESSAGE, "canary": 3, "stopPercent": 12})
    assert message.rule == StopRule(3, 12.0)


@pytest.mark.parametrize("time", ["2026-01-01", "2026-01-01T00:00Z", "2026-01-01T01:00+01:00"])
def test_a_time_without_a_zone_is_in_utc(time: str) -> None:
    message = BatchMessage.parse({**MESSAGE, "recoverSince": time})
    assert message.recover_since_ms == 1_767_225_600_000


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"batchId": "no batch"}, "batchId: must look like an id of letters"),
        ({"batchId": None}, "batchId: must be a valid string, got None"),
        ({"requests": "d1"}, "requests: must be a valid list, got 'd1'"),
        ({"requests": []}, "requests: has fewer than 1 entries"),
        ({"requests": [0] * (MAX_BATCH_REQUESTS + 1)}, "requests: has more than 1000 entries"),
        ({"offset": "1"}, "offset: must be a valid integer, got '1'"),
        ({"total": True}, "total: must be a valid integer, got True"),
        ({"canary": -1}, "canary: must be greater than or equal to 0, got -1"),
        ({"stopPercent": True}, "stopPercent: must be a valid number, got True"),
        ({"stopPercent": 101}, "stopPercent: must be less than or equal to 100, got 101"),
        ({"recoverSince": "yesterday"}, "recoverSince: must be a time in ISO 8601"),
        ({"batch_id": "b"}, "'batch_id': is not a member of a batch"),
        ({"total": -1, "canary": 0.5}, "; canary: "),
    ],
)
def test_each_member_that_is_wrong_is_named(members: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        BatchMessage.parse({**MESSAGE, **members})
    assert error in str(refused.value)
