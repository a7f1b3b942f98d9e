"""A server that refuses writes refuses a script as a whole: no script is ever half executed.

Each call of a story that uses every script is made to a server in trouble first. It is refused, and
nothing has changed, or it is carried out to its end: a script ends early only with an error.
"""

import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.conftest import GENEROUS
from tests.servers import FORGETFUL, VALKEY, Server
from tests.support import wait_until
from worker.domain.claims import Claim, Doubt
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Action, Entrance, LaneLimits, Resolution, StopRule
from worker.domain.requests import ImportRequest
from worker.domain.states import State
from worker.store.batches import BatchControl
from worker.store.connection import StoreUnavailableError, connect
from worker.store.lanes import LaneControl
from worker.store.messages import ImportsQueue
from worker.store.scripts import Scripts, script_texts
from worker.store.store import ImportStore, StoreConfig

LANE = "default/us-east-1"
NOTHING = {"error": "", "job_id": "", "operation": "", "status": ""}
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=100, lease_seconds=30, settle_seconds=0
)
TROUBLES: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "OOM": (("CONFIG SET", "maxmemory", 1), ("CONFIG SET", "maxmemory", 0)),
    "NOREPLICAS": (
        ("CONFIG SET", "min-replicas-to-write", 1),
        ("CONFIG SET", "min-replicas-to-write", 0),
    ),
    "MISCONF": (("CONFIG SET", "save", "3600 1000000"), ("CONFIG SET", "save", "")),
    "READONLY": (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
}


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of our own to bring into trouble."""
    program = VALKEY if request.param == "valkey" else shutil.which("redis-server")
    if program is None:
        pytest.skip("NO REDIS-SERVER on this machine, its tests are skipped")
    directory = tmp_path / "server"
    with Server(directory, FORGETFUL, program=program) as server:
        fail_to_save(server, directory)
        yield server


def fail_to_save(server: Server, directory: Path) -> None:
    """Let a snapshot fail: a server that is to make them refuses writes from then on (MISCONF)."""
    (directory / "dump.rdb").mkdir()  # in place of the file
    with server.client() as client:
        client.bgsave()
        failed = lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err"  # noqa: E731
        wait_until(failed, "the snapshot has failed")


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    """A client like the worker's own."""
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def outcomes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, dict[str, int]]]:
    """Let each script be called in every trouble first; tell how many were refused by which."""
    refused: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    really_call = Scripts.call
    operator: Any = Redis.from_url(server.url)
    async with operator:

        async def call(self: Scripts, name: str, **args: Any) -> Any:
            refused[name]["calls"] += 1
            for trouble, (begin, end) in TROUBLES.items():
                before = await everything_in(operator)
                await operator.execute_command(*begin)
                try:
                    return await really_call(self, name, **args)
                except StoreUnavailableError:
                    refused[name][trouble] += 1
                finally:
                    await operator.execute_command(*end)
                assert await everything_in(operator) == before, f"{name} in {trouble}"
            return await really_call(self, name, **args)

        monkeypatch.setattr(Scripts, "call", call)
        yield refused


async def everything_in(operator: Any) -> dict[bytes, tuple[bytes, int]]:
    return {
        key: (await operator.dump(key), await operator.pexpiretime(key))
        for key in await operator.keys()
    }


async def admit(store: ImportStore, name: str, batch: str = "") -> None:
    request = ImportRequest.model_validate(
        {
            "appId": f"d{name}",
            "backendEnvironmentName": "staging",
            "userPoolId": "us-east-1_AbCdEf123",
            "webClientId": "w",
            "nativeClientId": "n",
            "idempotencyKey": f"key-{name}",
        }
    )
    await store.admit(Entrance(import_id=name, task_id=name, batch_id=batch), request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    (claim,), _ = await store.claim(1)
    return claim


async def decide_by_hand(store: ImportStore, name: str) -> None:
    await store.learn(LANE, LaneFacts(times=Times.GOOD))
    await admit(store, name)
    unclear, reasons = await claim(store), {"error": "?", "undecided": "which?"}
    await store.doubt(unclear, Doubt.UNKNOWN, delay_seconds=0, in_outage=False, **reasons)
    assert await store.resolve(name, Action.FAIL, error="by hand") is Resolution.RESOLVED


async def test_no_script_is_half_executed(redis: Any, outcomes: dict[str, dict[str, int]]) -> None:
    store, lanes, batches = (
        ImportStore(redis, CONFIG),
        LaneControl(redis, CONFIG),
        BatchControl(redis, CONFIG),
    )
    await store.configure(GENEROUS, {LANE: LaneLimits(max_running=5)}, by="the test")
    await decide_by_hand(store, "0")
    await store.announce_batch("b", 2, StopRule(1, 50))
    for name in ("1", "2"):
        await admit(store, name, "b")
    await store.reject(Entrance(import_id="r", task_id="r"), ("d", "e"), ("default", "x"), "wrong")
    await store.requeue(await claim(store), counted=True, error="again")
    start = await claim(store)
    assert await store.grant_more(start) == 0
    await store.run(start, job_id="j", operation="o", status="s", delay_seconds=0)
    await store.reschedule(await claim(store), stuck=True, counted=True)
    poll = await claim(store)
    await store.finish(poll, State.FAILED, **{**NOTHING, "error": "no"})
    assert [ended.item.id for ended in await store.overdue(10, 1)] == ["0"]
    await store.settle("1", "1")
    await batches.stop("b", "by hand")
    await batches.resume("b")
    await admit(store, "3")
    doubtful = await claim(store)
    await store.doubt(doubtful, Doubt.UNKNOWN, error="?", delay_seconds=0, in_outage=True)
    await admit(store, "4")
    await store.cancel("4", "by hand")
    await store.throttle_lane(start, retry_after_seconds=0, limit_type="", concurrent=True)
    await store.count_failure(LANE, 1)
    await store.pause_lane(LANE, "bad", probe=False, delay_seconds=1, delay_max_seconds=2)
    await store.resume_lane(LANE)
    await lanes.hold(LANE, "by hand")
    await lanes.resume(LANE)
    await lanes.set_limits(LANE, LaneLimits(start_rate=2), by="hand")
    await lanes.reset(LANE)
    await redis.zrem("imports:lanes", LANE)
    await store.sweep()
    await redis.lpush("imports", '{"properties": {"delivery_tag": "t", "delivery_info": {}}}')
    await ImportsQueue(redis).take()
    await admit(store, "5")
    running = await claim(store)
    await store.run(running, job_id="j", operation="o", status="s", delay_seconds=0)
    await store.cancel("5", "by hand")
    await redis.zadd(f"imports:late:{LANE}", {"5": 0})
    await redis.zadd("imports:lanes", {LANE: 0})
    await store.note_late(await claim(store), outcome="failed", status="s", error="no")
    item = await store.load("5")
    assert item
    await store.retry(item)
    await store.close_batch("b")
    that_only_read = {name for name in script_texts() if name.startswith("audit_")}
    assert outcomes.keys() == script_texts().keys() - that_only_read, "it uses every script"
    for trouble in TROUBLES:
        assert any(counts[trouble] for counts in outcomes.values()), f"{trouble} is trouble"
    assert outcomes["claim"]["MISCONF"] == outcomes["claim"]["calls"]
    # Who claims without memory makes calls whose answers can't be recorded.
    for name in ("claim", "take_messages"):
        assert outcomes[name]["OOM"] == outcomes[name]["calls"], name
