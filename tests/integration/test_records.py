"""How the scripts write and read records, on real servers with their default settings."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import members, recording
from tests.support.stores import MakeStore
from worker.domain.claims import Doubt
from worker.domain.outcomes import Envelope
from worker.operations.registry import OPERATIONS
from worker.store.records import PIECE_BYTES

pytestmark = pytest.mark.parametrize("store_url", ["valkey", "redis"], indirect=True)

RECORD = "imports:import:i1"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
async def test_texts_of_any_length_replace_each_other_in_a_compact_record(
    texts: list[str], make_store: MakeStore, redis: Any
) -> None:
    await redis.flushdb()
    store = await make_store()
    request = OPERATIONS.parse(members("d1", metadata={"note": "ü" * 100}))
    await store.admit(Envelope(import_id="i1", task_id="i1"), request, "us-east-1")
    for text in texts:
        (claim,) = (await store.claim(1))[0]
        assert claim.item.members["metadata"] == request.metadata
        await recording.doubt(
            store, claim, Doubt.UNKNOWN, error=text, delay_seconds=0, in_outage=False
        )
        item = await store.load("i1")
        assert item is not None
        assert (item.doubt_error, item.members) == (text, claim.item.members)
        fields = await redis.hgetall(RECORD)
        assert max(len(value.encode()) for value in fields.values()) <= PIECE_BYTES
        pieces = [name for name in fields if name.startswith("doubt_error:")]
        assert len(pieces) <= len(text.encode()) // (PIECE_BYTES - 3)
    (claim,) = (await store.claim(1))[0]
    assert claim.item.doubt_error == texts[-1]
    assert await redis.object("encoding", RECORD) == "listpack"
