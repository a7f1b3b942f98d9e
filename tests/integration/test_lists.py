"""The lists of batches and of imports, on a real store, as people and programs get them."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.golden import generate
from tests.support import CommandLine, members, recording
from worker.cli.batchlist import ListedBatch, Standing
from worker.cli.batchlist import as_table as batch_table
from worker.cli.client import make_console
from worker.domain.outcomes import Envelope, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.batchlist import batches_after
from worker.store.batchview import BatchCounts
from worker.store.config import StoreConfig
from worker.store.control import BatchControl, LaneControl
from worker.store.records import SHORT
from worker.store.store import ImportStore

LANE = "default/us-east-1"
HOUR_MS = 3_600_000
CONFIG = StoreConfig(
    retention_seconds=60, events_max_length=10_000, lease_seconds=30, settle_seconds=0
)
HOSTILE = ("two\nlines", "\x1b]0;taken over\x07", "b" * 200, "Grüße-\u202e-日本", "tab\there")


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


@pytest.fixture
def control(redis: Any) -> BatchControl:
    return BatchControl(redis, CONFIG)


async def admit(
    store: ImportStore, name: str, batch_id: str = "", app: str = "", region: str = "us-east-1"
) -> None:
    envelope = Envelope(import_id=name, task_id=name, batch_id=batch_id)
    request = OPERATIONS.parse(members(app or f"d{name}"))
    await store.admit(envelope, request, region)


async def run_next(store: ImportStore) -> None:
    (claim,), _ = await store.claim(1)
    await recording.run(store, claim, job_id=claim.item.id, operation="Import", delay_seconds=60)


async def end_next(store: ImportStore, state: State = State.SUCCEEDED) -> None:
    (claim,), _ = await store.claim(1)
    await recording.finish(store, claim, state, error="no such pool")


async def age(redis: Any, batch_id: str, hours: float) -> None:
    """Make a batch older, as if all its times lay earlier."""
    for name in ("created_at_ms", "progressed_at_ms"):
        await redis.hincrby(f"imports:batch:{batch_id}", name, -int(hours * HOUR_MS))
    await redis.zincrby("imports:batches", -hours * HOUR_MS, batch_id)


def objects(command: CommandLine, *arguments: str) -> list[dict[str, Any]]:
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ids(command: CommandLine, *arguments: str) -> list[str]:
    names = {"batches": "batchId", "imports": "importId"}
    return [each[names[arguments[0]]] for each in objects(command, *arguments)]


async def test_batches_come_newest_first_with_what_holds_them_up(
    store: ImportStore, control: BatchControl, redis: Any, command: CommandLine
) -> None:
    assert command("batches").stdout == "There are no such batches.\n"
    await store.announce_batch("over", 2)
    for name in ("o1", "o2"):
        await admit(store, name, "over")
        await end_next(store, State.FAILED if name == "o2" else State.SUCCEEDED)
    await admit(store, "p1", "paused")
    await control.pause("paused", "change freeze")
    await store.announce_batch("canaries", 3, StopRule(canary=2, stop_percent=None))
    await admit(store, "c1", "canaries")
    for hours, batch_id in ((3, "over"), (2, "paused"), (1, "canaries")):
        await age(redis, batch_id, hours)
    await admit(store, "n1", "newest")

    found = objects(command, "batches")
    assert [each["batchId"] for each in found] == ["newest", "canaries", "paused", "over"]
    assert [each["state"] for each in found] == ["running", "stalled", "paused", "completed"]
    assert [each["heldUpBy"] for each in found] == [
        None,
        "its first 2 imports, which run alone until they have ended",
        "change freeze",
        None,
    ]
    over = found[-1]
    assert (over["states"]["succeeded"], over["unsuccessful"], over["total"]) == (1, 1, 2)
    lines = command("batches").stdout.splitlines()
    assert lines[-1] == (
        "over: completed; 1 of 2 succeeded, 1 unsuccessful; created 3 h ago, last progress 3 h ago"
    )


async def test_the_filters_choose_running_paused_and_stalled_batches(
    store: ImportStore, control: BatchControl, redis: Any, command: CommandLine
) -> None:
    for batch_id in ("fresh", "old", "paused", "over", "missing"):
        await store.announce_batch(batch_id, 2 if batch_id == "missing" else 1)
    for batch_id in ("over", "missing"):
        await admit(store, batch_id, batch_id)
        await end_next(store)
    for batch_id in ("paused", "old", "fresh"):
        await admit(store, batch_id, batch_id)
    await control.pause("paused", "wait")
    for hours, batch_id in ((5, "over"), (4, "missing"), (3, "paused"), (2, "old")):
        await age(redis, batch_id, hours)
    await LaneControl(redis, CONFIG).pause(LANE, "quota review")

    assert ids(command, "batches", "--running") == ["fresh", "old", "missing"]
    assert ids(command, "batches", "--paused") == ["paused"]
    assert ids(command, "batches", "--stalled") == ["old", "paused", "missing"]
    assert ids(command, "batches", "--stalled", "--stalled-after", "150min") == [
        "paused",
        "missing",
    ]
    assert ids(command, "batches", "--running", "--paused") == ["fresh", "old", "paused", "missing"]
    assert [each["heldUpBy"] for each in objects(command, "batches", "--stalled")] == [
        f"import old waits for its lane {LANE}, which an operator paused: quota review",
        "wait",
        "requests that were announced and have not arrived (1)",
    ]


async def test_a_claim_that_is_put_back_is_no_progress(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    await admit(store, "i1", "b")
    await age(redis, "b", 2)
    (claim,), _ = await store.claim(1)
    await recording.requeue(store, claim)
    assert ids(command, "batches", "--stalled") == ["b"]
    await run_next(store)
    assert ids(command, "batches", "--stalled") == []


async def test_pages_cover_thousands_of_batches_once(redis: Any, command: CommandLine) -> None:
    names = [f"b{number:04}" for number in range(2500)]
    async with redis.pipeline() as pipeline:
        for number, name in enumerate(names):
            created_ms = 1_000_000 + number // 3  # several of them at the same millisecond
            pipeline.hset(f"imports:batch:{name}", mapping={"accepted": 1, "succeeded": 1})
            pipeline.hset(f"imports:batch:{name}", "created_at_ms", created_ms)
            pipeline.zadd("imports:batches", {name: created_ms})
        await pipeline.execute()
    assert ids(command, "batches", "--limit", "3000") == names[::-1]

    pages: list[list[str]] = []
    after: list[str] = []
    while page := ids(command, "batches", "--limit", "900", *after):
        pages.append(page)
        after = ["--after", page[-1]]
    assert [len(page) for page in pages] == [900, 900, 700]
    assert list(chain(*pages)) == names[::-1]
    assert "--after b2498" in command("batches", "--limit", "2").stderr
    assert command("batches", "--after", "nobody").returncode == 4


async def test_a_batch_created_between_two_pages_shifts_none(
    store: ImportStore, redis: Any
) -> None:
    for number in range(1100):
        await redis.hset(f"imports:batch:b{number}", "created_at_ms", number + 1)
        await redis.zadd("imports:batches", {f"b{number}": number + 1})
    found = []
    async for page in batches_after(redis):
        found += [counts.batch_id for counts in page]
        await store.announce_batch(f"new-{len(found)}", 1)
    assert found == [f"b{number}" for number in reversed(range(1100))]


async def test_an_expired_batch_leaves_the_list_and_then_the_index(
    store: ImportStore, redis: Any, command: CommandLine
) -> None:
    for number in range(1500):
        await redis.zadd("imports:batches", {f"gone{number}": number})
    await store.announce_batch("kept", 1)
    assert ids(command, "batches") == ["kept"]
    for _ in range(20):
        await store.sweep()
    assert await redis.zrange("imports:batches", 0, -1) == ["kept"]
    await store.close_batch("kept")
    assert not await redis.exists("imports:batches")


async def test_a_batch_that_comes_back_is_new(store: ImportStore, redis: Any) -> None:
    await store.announce_batch("b", 1)
    await age(redis, "b", 2)
    await redis.delete("imports:batch:b")
    await admit(store, "i1", "b")
    created = await redis.hget("imports:batch:b", "created_at_ms")
    assert await redis.zscore("imports:batches", "b") == float(created) > 1e12


async def test_an_import_adds_to_the_index_only_with_its_batch(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, "i1", "b")
    await redis.config_resetstat()
    for number in range(10):
        await admit(store, f"more{number}", "b")
    for _ in range(11):
        await end_next(store)
    calls = await redis.info("commandstats")
    assert calls["cmdstat_hsetnx"]["calls"] == 11, "each end notes its task, and nothing else"


async def test_batches_of_an_earlier_release_are_listed_once_they_change(
    store: ImportStore, control: BatchControl, redis: Any, command: CommandLine
) -> None:
    dumped = json.loads((Path(generate.__file__).parent / "format-2.json").read_text())
    await generate.restore(redis, dumped)
    batch_id = next(key for key in dumped if key.startswith("imports:batch:")).split(":")[-1]
    assert ids(command, "batches") == []
    await control.pause(batch_id, "wait")
    assert ids(command, "batches") == [batch_id]
    await redis.delete("imports:batches")
    await redis.hdel(f"imports:batch:{batch_id}", "created_at_ms")
    await admit(store, "onemore", batch_id)
    assert ids(command, "batches") == [batch_id]


@pytest.mark.parametrize("batch_id", HOSTILE)
async def test_a_hostile_batch_id_stays_on_its_line(
    redis: Any, command: CommandLine, batch_id: str
) -> None:
    await redis.hset(f"imports:batch:{batch_id}", mapping={"accepted": 1, "waiting": 1})
    await redis.zadd("imports:batches", {batch_id: 1})
    done = command("batches", COLUMNS="80")
    assert len(done.stdout.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout)
    assert ids(command, "batches") == [batch_id]


@pytest.mark.parametrize("batch_id", HOSTILE)
@pytest.mark.parametrize("width", [110, 140, 250])
def test_a_table_is_no_wider_than_its_terminal(
    capsys: pytest.CaptureFixture[str], batch_id: str, width: int
) -> None:
    counts = BatchCounts(
        batch_id=batch_id,
        accepted=123_456,
        expected=234_567,
        by_state=dict.fromkeys(State, 12345),
        paused_reason="wrong user pool in half of the rows " * 5,
    )
    standing = Standing(counts=counts, age=86_400, idle=7200, is_stalled=True)
    console = make_console()
    console.width = width
    console.print(batch_table([ListedBatch(standing, counts.paused_reason)]))
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= width
    for text in ("123,456 of 234,567", "12,345", "24,690", "24 h", "paused"):
        assert text in printed


def test_options_of_the_list_are_refused_with_a_subcommand(command: CommandLine) -> None:
    done = command("batches", "--stalled", "pause", "b")
    assert done.returncode == 2
    assert "--stalled works only without a subcommand" in done.stderr
    assert command("batches", "--stalled-after", "soon").returncode == 2


@pytest.fixture
async def places(store: ImportStore, control: BatchControl) -> list[str]:
    """Imports in all places where unfinished imports wait; one has ended."""
    await admit(store, "ended", "b", app="dx")
    await end_next(store, State.FAILED)
    await admit(store, "running", "b", app="dy")
    await run_next(store)
    await admit(store, "parked", "b", app="dy")
    await admit(store, "starting")
    (claim,), _ = await store.claim(1)
    await admit(store, "delayed")
    (delayed,), _ = await store.claim(1)
    await recording.retry(store, delayed, delay_seconds=60, error="HTTP 500")
    await admit(store, "held", "paused")
    await control.pause("paused", "wait")
    await store.claim(1)
    await admit(store, "waiting", region="eu-central-1")
    return sorted([claim.item.id, "running", "parked", "delayed", "held", "waiting"])


async def test_unfinished_imports_are_found_in_every_place(
    places: list[str], command: CommandLine
) -> None:
    assert ids(command, "imports") == places
    found = {each["importId"]: each for each in objects(command, "imports")}
    assert {name: found[name]["state"] for name in found if found[name]["state"] != "waiting"} == {
        "running": "running",
        "starting": "starting",
    }
    assert found["parked"]["waitsFor"] == "import running, which is under way for the same target"
    assert found["held"]["waitsFor"].startswith("its batch paused, which is paused")
    pages = [ids(command, "imports", "--limit", "4")]
    pages.append(ids(command, "imports", "--after", pages[0][-1]))
    assert list(chain(*pages)) == places


@pytest.mark.usefixtures("places")
async def test_imports_are_chosen_by_state_lane_batch_target_and_age(
    redis: Any, command: CommandLine
) -> None:
    await redis.hincrby("imports:import:parked", SHORT["accepted_at_ms"], -3 * HOUR_MS)
    chosen = {
        ("--state", "running"): ["running"],
        ("--state", "starting,running"): ["running", "starting"],
        ("--lane", "default/eu-central-1"): ["waiting"],
        ("--batch", "b"): ["parked", "running"],
        ("--batch", "b", "--state", "failed"): ["ended"],
        ("--target", "dy"): ["parked", "running"],
        ("--target", "dy/nothing"): [],
        ("--older-than", "2h"): ["parked"],
        ("--undecided",): [],
    }
    commands = [("imports", *arguments, "--json") for arguments in chosen]
    for done, wanted in zip(command.each(*commands), chosen.values(), strict=True):
        assert [json.loads(line)["importId"] for line in done.stdout.splitlines()] == wanted
        assert done.stderr == ""
    await redis.hset("imports:import:running", SHORT["undecided"], "no evidence")
    assert ids(command, "imports", "--undecided") == ["running"]


@pytest.mark.usefixtures("places")
async def test_ended_imports_outside_a_batch_are_found_with_a_warning(
    command: CommandLine,
) -> None:
    done = command("imports", "--state", "failed,succeeded")
    assert done.stdout.startswith("ended: failed; dx/")
    assert done.stdout.endswith("; no such pool\n")
    assert "reads every record" in done.stderr


def test_what_does_not_exist_exits_with_4_and_bad_states_with_2(command: CommandLine) -> None:
    codes = [
        done.returncode
        for done in command.each(
            ("imports", "--batch", "nobody"),
            ("imports", "--lane", "no/where"),
            ("imports", "--state", "lost"),
            ("imports",),
        )
    ]
    assert codes == [4, 4, 2, 0]
