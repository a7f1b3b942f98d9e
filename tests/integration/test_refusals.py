"""A server that refuses writes refuses a script as a whole: no script is ever half executed.

A sequence of calls uses every script. The server is brought into each kind of trouble before each
call. It either refuses the call and changes nothing, or runs the script to its end: a script ends
early only with an error.
"""

import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support import recording, wait_until
from tests.support.servers import IN_MEMORY, VALKEY, Server
from tests.support.stores import GENEROUS
from worker.domain.answers import Job
from worker.domain.claims import Claim, Doubt
from worker.domain.decisions import End, NoteVerified
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Action, Envelope, LaneLimits, Resolution, StopRule
from worker.domain.schedules import Schedule
from worker.domain.states import State
from worker.domain.verification import Verification
from worker.operations.import_backend_auth import ImportBackendAuthRequest
from worker.store.config import StoreConfig
from worker.store.connection import StoreUnavailableError, connect
from worker.store.control import BatchControl, LaneControl
from worker.store.messages import ImportsQueue
from worker.store.relays import Parking, RelayStore, Settlement
from worker.store.scripts import Scripts, script_texts
from worker.store.store import ImportStore

LANE = "default/us-east-1"
NOTHING = {"error": "", "job_id": "", "operation": "", "status": ""}
CONFIG = StoreConfig(
    retention_seconds=3600, events_max_length=100, lease_seconds=30, settle_seconds=0
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
    """A dedicated server to bring into trouble."""
    program = VALKEY if request.param == "valkey" else shutil.which("redis-server")
    if program is None:
        pytest.skip("NO REDIS-SERVER on this machine, its tests are skipped")
    directory = tmp_path / "server"
    with Server(directory, IN_MEMORY, program=program) as server:
        fail_to_save(server, directory)
        yield server


def fail_to_save(server: Server, directory: Path) -> None:
    """Let a snapshot fail, so that a server configured for snapshots refuses writes (MISCONF)."""
    (directory / "dump.rdb").mkdir()  # blocks the file of the snapshot
    with server.client() as client:
        client.bgsave()
        failed = lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err"  # noqa: E731
        wait_until(failed, "the snapshot has failed")


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    """A client like the worker's."""
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def outcomes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, dict[str, int]]]:
    """Let each script be called in every trouble first; count the refusals by kind of trouble."""
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


async def use_the_others(store: ImportStore, redis: Any) -> None:
    """Schedule and close a batch, verify, publish accounts, settle events as relays do."""
    await BatchControl(redis, CONFIG).schedule("b", Schedule(), clear=True)
    await store.close_batch("b")
    await verify(store, redis, "6")
    await store.publish_accounts(frozenset({"acme"}))
    relays = RelayStore(redis, "one", lease_ms=30_000)
    await relays.hold(["sink"])
    page = await relays.read("sink", "0", count=10, after="", resending=0)
    delivered, refused, *_ = page.entries
    parked = [Parking(refused, "refused", attempts=1)]
    await relays.settle("sink", Settlement([delivered], parked=parked), most=10)
    await relays.release(["sink"], leaves=True)


async def everything_in(operator: Any) -> dict[bytes, tuple[bytes, int]]:
    return {
        key: (await operator.dump(key), await operator.pexpiretime(key))
        for key in await operator.keys()
    }


async def admit(store: ImportStore, name: str, batch: str = "") -> None:
    request = ImportBackendAuthRequest.model_validate(
        {
            "appId": f"d{name}",
            "backendEnvironmentName": "staging",
            "userPoolId": "us-east-1_AbCdEf123",
            "webClientId": "w",
            "nativeClientId": "n",
            "idempotencyKey": f"key-{name}",
        }
    )
    await store.admit(Envelope(import_id=name, task_id=name, batch_id=batch), request, "us-east-1")


async def claim(store: ImportStore) -> Claim:
    (claim,), _ = await store.claim(1)
    return claim


async def verify(store: ImportStore, redis: Any, name: str) -> None:
    await admit(store, name)
    end = End(State.SUCCEEDED, job=Job(job_id="j6"), verify_after_seconds=60)
    await store.record(await claim(store), end)
    await redis.zadd(f"imports:late:{LANE}", {name: 0})
    await redis.zadd("imports:lanes", {LANE: 0})
    await store.record(await claim(store), NoteVerified(Verification.CONFIRMED))


async def decide_as_operator(store: ImportStore, name: str) -> None:
    await recording.learn(store, LANE, LaneFacts(times=Times.GOOD))
    await admit(store, name)
    unclear, reasons = await claim(store), {"error": "?", "undecided": "which?"}
    await recording.doubt(
        store, unclear, Doubt.UNKNOWN, delay_seconds=0, in_outage=False, **reasons
    )
    assert await store.resolve(name, Action.FAIL, error="by hand") is Resolution.RESOLVED


async def test_no_script_is_half_executed(redis: Any, outcomes: dict[str, dict[str, int]]) -> None:
    store, lanes, batches = (
        ImportStore(redis, CONFIG),
        LaneControl(redis, CONFIG),
        BatchControl(redis, CONFIG),
    )
    await store.configure(GENEROUS, {LANE: LaneLimits(max_running=5)}, by="the test")
    await decide_as_operator(store, "0")
    await store.announce_batch("b", 2, StopRule(1, 50), Schedule(window="00:00-24:00 UTC"))
    for name in ("1", "2"):
        await admit(store, name, "b")
    await store.reject(Envelope(import_id="r", task_id="r"), ("d", "e"), ("default", "x"), "wrong")
    await recording.retry(store, await claim(store), error="again")
    start = await claim(store)
    assert await store.grant_more(start) == 0
    await recording.run(store, start, job_id="j", operation="o", status="s", delay_seconds=0)
    await recording.poll_again(store, await claim(store), stuck=True)
    poll = await claim(store)
    await recording.finish(store, poll, State.FAILED, **{**NOTHING, "error": "no"})
    assert [ended.item.id for ended in await store.overdue(10, 1)] == ["0"]
    await store.note_task_done("1", "1")
    await batches.pause("b", "by hand")
    await batches.resume("b")
    await admit(store, "3")
    doubtful = await claim(store)
    await recording.doubt(
        store, doubtful, Doubt.UNKNOWN, error="?", delay_seconds=0, in_outage=True
    )
    await admit(store, "4")
    await store.cancel("4", "by hand")
    await recording.throttle(store, start, retry_after_seconds=0, limit_type="", concurrent=True)
    await recording.count_failure(store, LANE, 1)
    await recording.pause_lane(
        store, LANE, "bad", probe=False, delay_seconds=1, delay_max_seconds=2
    )
    await recording.resume_lane(store, LANE)
    await lanes.pause(LANE, "by hand")
    await lanes.resume(LANE)
    await lanes.set_limits(LANE, LaneLimits(start_rate=2), by="hand")
    await lanes.reset(LANE)
    await redis.zrem("imports:lanes", LANE)
    await store.sweep()
    await redis.lpush("imports", '{"properties": {"delivery_tag": "t", "delivery_info": {}}}')
    await ImportsQueue(redis).take()
    await admit(store, "5")
    running = await claim(store)
    await recording.run(store, running, job_id="j", operation="o", status="s", delay_seconds=0)
    await store.cancel("5", "by hand")
    await redis.zadd(f"imports:late:{LANE}", {"5": 0})
    await redis.zadd("imports:lanes", {LANE: 0})
    await recording.note_late(store, await claim(store), outcome="failed", status="s", error="no")
    item = await store.load("5")
    assert item
    await store.retry(item)
    await use_the_others(store, redis)
    that_only_read = {name for name in script_texts() if name.startswith("audit_")}
    assert outcomes.keys() == script_texts().keys() - that_only_read, "it uses every script"
    for trouble in TROUBLES:
        assert any(counts[trouble] for counts in outcomes.values()), (
            f"{trouble} makes the server refuse"
        )
    assert outcomes["claim"]["MISCONF"] == outcomes["claim"]["calls"]
    # A worker that claims without memory makes calls whose answers can't be recorded.
    for name in ("claim", "take_messages"):
        assert outcomes[name]["OOM"] == outcomes[name]["calls"], name
