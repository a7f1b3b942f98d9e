"""The next release and the previous one can read what is in the store and on the broker."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.golden import generate
from tests.quotas import LearningLimiter
from tests.support import Producer, Sandbox, StartWorker, members, recording, wait_until
from tests.support.stores import MakeStore
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.keys import FORMAT
from worker.store.store import ImportStore

GOLDEN = Path(generate.__file__).parent
CURRENT = max(GOLDEN.glob("format-*.json"))
WRITTEN = json.loads(CURRENT.read_text())
LANE = "default/us-east-1"
OVER = {"succeeded", "late", "rejected"}
TERMINAL = ("import.succeeded", "import.failed", "import.timed_out", "import.rejected")


LIMITER_FIELDS = frozenset(LearningLimiter().stored())


def shape(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return what readers rely on: keys, their types, and the fields of hashes and events.

    A limiter has all of its fields, because one that is absent is 0.
    """
    return {
        key: (
            value["type"],
            sorted(LIMITER_FIELDS | set(value["holds"]))
            if key.startswith("imports:limiter:")
            else _names(value),
        )
        for key, value in dumped.items()
        if key.startswith("imports")  # the bindings are kombu's
    }


def _names(value: dict[str, Any]) -> Any:
    match value["type"]:
        case "hash":
            return sorted(value["holds"])
        case "stream":
            return [
                sorted(json.loads(text)) for fields in value["holds"] for text in fields.values()
            ]
        case _:
            return None


async def test_this_release_writes_the_format_of_its_golden_file(store_url: str) -> None:
    written = await generate.build(store_url)
    assert shape(written) == shape(WRITTEN), (
        "the format has changed: if the previous release can read it, renew the golden file "
        f"(python -m tests.golden.generate {CURRENT.name}); otherwise increase FORMAT as well"
    )


@pytest.mark.parametrize(
    "dumped",
    [
        pytest.param(json.loads(path.read_text()), id=path.stem)
        for path in sorted(GOLDEN.glob("*.json"))
    ],
)
async def test_imports_of_an_earlier_release_are_completed(
    dumped: dict[str, Any],
    redis: Any,
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
) -> None:
    ids = {key.split(":")[-1] for key in dumped if key.startswith("imports:import:")}
    await generate.restore(redis, dumped)
    start_worker()
    new = {"by-task", "by-stream"}
    wait_until(lambda: len(producer.events(*TERMINAL)) >= len(ids | new) + 1, "all are over", 180)

    ends = {e["data"]["importId"]: e["type"] for e in producer.events(*TERMINAL)}
    assert Counter(e["data"]["importId"] for e in producer.events(*TERMINAL)).total() == len(ends)
    assert ids | new <= ends.keys()
    assert ends.pop("running") == "import.failed", "this sandbox does not know its job"
    assert {ends.pop("succeeded"), ends.pop("late"), ends.pop("rejected")} <= set(TERMINAL)
    assert set(ends.values()) == {"import.succeeded"}
    assert Counter(job["target"] for job in sandbox.jobs()) == Counter(
        f"d{name}/staging"
        for name in ids - OVER - {"running", "parked"} | {"task", "batch", "stream"}
    ) + Counter(["dstarting/staging"])
    assert producer.app.AsyncResult("signed").get(timeout=60)["outcome"] == "succeeded"
    wait_until(lambda: not producer.redis.exists("imports:unfinished"), "its tasks have finished")
    wait_until(
        lambda: not producer.redis.exists("imports:late:" + LANE), "the late end is recorded"
    )
    wait_until(lambda: not producer.redis.exists("imports:lanes"), "no lane has work")


async def put_into(place: str, store: ImportStore, redis: Any, later: tuple[str, Any]) -> None:
    """Bring an import of a later release to a place; the field `later` tells its release."""
    request = OPERATIONS.parse(members("dnew"))
    await store.admit(Envelope(import_id="new", task_id="new"), request, "us-east-1")
    if place != "waiting":
        (claim,) = (await store.claim(1))[0]
        if place == "running":
            await recording.run(store, claim, job_id="j", operation="", status="", delay_seconds=0)
    await redis.hset("imports:import:new", *later)


async def as_of_this_release(redis: Any) -> None:
    """Change the import so that this release can read it, as a newer worker could."""
    await redis.hset("imports:import:new", "format", FORMAT)
    await redis.hdel("imports:import:new", "requested_operation")


LATER = {"format": ("format", FORMAT + 1), "operation": ("requested_operation", "ImportNews")}


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize("place", ["waiting", "starting", "running"])
async def test_records_of_a_later_release_are_left_to_later_workers(
    place: str, later: tuple[str, Any], make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(lease_seconds=0)
    await put_into(place, store, redis, later)
    before = await redis.hgetall("imports:import:new")
    request = OPERATIONS.parse(members("dold"))
    await store.admit(Envelope(import_id="old", task_id="old"), request, "us-east-1")

    claims, wait_seconds = await store.claim(10)
    assert [claim.item.id for claim in claims] == ["old"], "other imports are not delayed"
    assert wait_seconds is not None, "the lane is looked at again"
    assert await redis.hgetall("imports:import:new") == before

    await as_of_this_release(redis)
    for queue in ("delayed", "polls", "leases"):
        await redis.zadd(f"imports:{queue}:{LANE}", {"new": 0}, xx=True)
    await redis.zadd("imports:lanes", {LANE: 0})
    assert "new" in [claim.item.id for claim in (await store.claim(10))[0]]


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
async def test_the_end_of_a_later_releases_import_is_left_to_later_workers(
    later: tuple[str, Any], make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(lease_seconds=0)
    for import_id in ("new", "old"):
        envelope = Envelope(import_id=import_id, task_id=import_id)
        await store.reject(envelope, ("d1", "staging"), ("default", "us-east-1"), "no")
    await redis.hset("imports:import:new", *later)
    assert [ended.item.id for ended in await store.overdue(10, 60)] == ["old"]

    await as_of_this_release(redis)
    await redis.zadd("imports:unfinished", {"new": 0}, xx=True)
    assert [ended.item.id for ended in await store.overdue(10, 60)] == ["new"]


@pytest.mark.parametrize("place", ["waiting", "running"])
async def test_a_cancellation_that_an_earlier_release_could_only_note_is_carried_out(
    place: str, make_store: MakeStore, redis: Any
) -> None:
    store = await make_store(lease_seconds=0)
    await put_into(place, store, redis, ("cancel_reason", "wrong pool"))
    for claim in (await store.claim(10))[0]:
        await recording.poll_again(store, claim, status="RUNNING")
    item = await store.load("new")
    assert item is not None
    assert (item.state, item.error) == (State.CANCELLED, "wrong pool")


def test_the_finish_message_of_a_later_format_returns_to_the_broker(
    start_worker: StartWorker, producer: Producer
) -> None:
    worker = start_worker()
    headers = {"imports_finish": "new", "imports_format": FORMAT + 1}
    producer.app.send_task(
        "imports.import_backend_auth",
        kwargs=members("dnew"),
        task_id="new",
        queue="imports.finish",
        headers=headers,
    )
    wait_until(lambda: "a record of a later format" in worker.log, "it is refused")
    assert not producer.app.AsyncResult("new").ready()
    worker.stop()
    waiting = producer.redis.llen("imports.finish") + producer.redis.hlen("unacked")
    assert waiting == 1, "and waits for a later release's worker"
