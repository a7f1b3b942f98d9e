"""Lanes controlled by an operator: what the commands print, and what is claimed afterwards."""

import asyncio
import io
import json
import re
import socket
from typing import Any

import pytest
from rich.console import Console

from config.settings import Settings
from tests.support import CommandLine, members, recording
from worker.cli.lanelist import as_table
from worker.cli.waiting import what_it_waits_for
from worker.domain.claims import Call, Claim
from worker.domain.outcomes import Envelope, LaneLimits
from worker.operations.registry import OPERATIONS
from worker.parameters import store_config
from worker.store.control import LaneControl
from worker.store.laneview import LaneView
from worker.store.store import ImportStore
from worker.store.views import ImportViews

LANE = "default/us-east-1"
NOWHERE = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


@pytest.fixture
def views(redis: Any) -> ImportViews:
    return ImportViews(redis)


async def admit(store: ImportStore, *apps: str) -> None:
    for app in apps:
        envelope = Envelope(import_id=f"import-{app}", task_id=f"import-{app}")
        await store.admit(envelope, OPERATIONS.parse(members(app)), "us-east-1")


async def claimed(store: ImportStore) -> list[Claim]:
    claims, _ = await store.claim(100)
    return claims


async def run(store: ImportStore, claim: Claim) -> None:
    await recording.run(
        store, claim, job_id="j1", operation="Import", status="CREATING", delay_seconds=0
    )


async def pause_itself(store: ImportStore, *, probe: bool = False) -> None:
    await recording.pause_lane(
        store, LANE, "expired credentials", probe=probe, delay_seconds=0, delay_max_seconds=0
    )


async def lane_of(views: ImportViews) -> LaneView:
    lane = await views.lane(LANE)
    assert lane is not None
    return lane


async def lane_events(redis: Any) -> list[tuple[str, Any]]:
    entries = await redis.xrange("imports:events")
    events = [json.loads(fields["event"]) for _, fields in entries]
    return [
        (event["type"], event["data"].get("reason"))
        for event in events
        if event["type"].startswith("lane.")
    ]


def listed(command: CommandLine, **settings: str) -> dict[str, Any]:
    (line,) = command("lanes", "--json", **settings).stdout.splitlines()
    return dict(json.loads(line))


async def test_a_lane_paused_by_an_operator_makes_no_call_until_it_is_resumed(
    command: CommandLine, store: ImportStore, redis: Any
) -> None:
    await admit(store, "d1")
    await run(store, (await claimed(store))[0])
    await admit(store, "d2")

    paused = command("lanes", "pause", LANE, "--reason", "change freeze")
    assert (paused.returncode, paused.stderr) == (0, "")
    assert f"amplify-import lanes resume {LANE}" in paused.stdout
    assert await claimed(store) == []
    again = command("lanes", "pause", LANE, "--reason", "long change freeze")
    assert "was already paused" in again.stdout
    await admit(store, "d3")
    assert await claimed(store) == []

    await redis.delete("imports:wake")
    resumed = command("lanes", "resume", LANE)
    assert (resumed.returncode, resumed.stdout) == (0, f"Lane {LANE} is resumed.\n")
    assert await redis.exists("imports:wake")
    calls = [(claim.call, claim.item.id, claim.probe) for claim in await claimed(store)]
    assert calls == [
        (Call.POLL, "import-d1", False),
        (Call.START, "import-d2", False),
        (Call.START, "import-d3", False),
    ]
    assert await lane_events(redis) == [("lane.paused", "change freeze"), ("lane.resumed", None)]
    assert command("lanes", "resume", LANE).stdout == f"Lane {LANE} was not paused.\n"


async def test_a_paused_lane_is_paused_by_an_operator_without_a_second_event(
    command: CommandLine, store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store, "d1", "d2")
    await pause_itself(store)
    assert command("lanes", "pause", LANE).returncode == 0
    assert await claimed(store) == []
    assert (await lane_of(views)).paused_reason == "by an operator, no reason given"
    assert command("lanes", "resume", LANE).returncode == 0
    assert [claim.probe for claim in await claimed(store)] == [False, False]
    assert await lane_events(redis) == [
        ("lane.paused", "expired credentials"),
        ("lane.resumed", None),
    ]


async def test_late_answers_leave_a_lane_paused_by_an_operator_as_it_is(
    store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store, "d1", "d2")
    await pause_itself(store)
    (probe,) = await claimed(store)
    assert probe.probe
    control = LaneControl(redis, store_config(Settings()))
    assert not await control.pause(LANE, "freeze")

    assert not await recording.resume_lane(store, LANE)  # the probe succeeded
    await pause_itself(store, probe=True)  # or failed
    assert await claimed(store) == []
    assert (await lane_of(views)).paused_reason == "freeze"
    assert await control.resume(LANE)


async def test_a_set_rate_is_obeyed_by_the_next_claims_over_restarts_until_it_is_reset(
    command: CommandLine, make_store: Any, redis: Any
) -> None:
    store = await make_store(LaneLimits(start_rate=0.001, start_burst=1))
    await admit(store, *(f"d{number}" for number in range(9)))
    assert len(await claimed(store)) == 1
    assert await claimed(store) == []  # the next token comes in a thousand seconds

    limits = ("--start", "200", "--start-burst", "50", "--max-running", "4")
    done = command("lanes", "set-rate", LANE, *limits)
    assert (done.returncode, done.stderr) == (0, "")
    assert "start_rate 200, start_burst 50, max_running 4, from now on" in done.stdout
    assert f"to undo: amplify-import lanes reset {LANE}" in done.stdout
    assert await redis.exists("imports:wake")
    await asyncio.sleep(0.1)  # the new limit starts with the tokens that were left
    assert len(await claimed(store)) == 3

    await store.configure(LaneLimits(start_rate=3), {LANE: LaneLimits(start_rate=7)}, by="w2")
    shown = listed(command)
    assert (shown["start"]["rate"], shown["start"]["rateFrom"]) == (200, "by hand")
    assert (shown["poll"]["rateFrom"], shown["maxRunning"]) == (None, 4)
    assert (shown["configuredBy"], shown["running"]) == ("w2", 4)
    assert "configured by" not in command("lanes").stdout  # an operator's limit has precedence
    assert socket.gethostname() in shown["setByHandBy"]
    assert 0 <= shown["setByHandSecondsAgo"] < 20

    assert command("lanes", "reset", LANE).returncode == 0
    shown = listed(command)
    assert (shown["start"]["rate"], shown["start"]["rateFrom"]) == (7, "configured")
    assert shown["maxRunning"] is shown["setByHandBy"] is None
    assert "configured by w2" in command("lanes").stdout


async def test_set_rate_changes_only_what_is_given_and_a_lane_may_be_new(
    command: CommandLine, redis: Any
) -> None:
    for limit in (("--start", "2"), ("--poll", "0.5", "--poll-burst", "3"), ("--shared", "9")):
        assert command("lanes", "set-rate", "new/eu-west-1", *limit).returncode == 0
    fields = await redis.hgetall("imports:lane:new/eu-west-1")
    assert fields.pop("hand_at_ms").isdigit()
    assert fields.pop("hand_by")
    assert fields == {
        "hand_start_rate": "2",
        "hand_poll_rate": "0.5",
        "hand_poll_burst": "3",
        "hand_shared_rate": "9",
        "hand_shared": "1",
    }
    assert listed(command)["shared"]["rate"] == 9


async def test_an_unknown_lane_exits_with_4_and_is_not_created(
    command: CommandLine, redis: Any
) -> None:
    name = "nobody/us-east-1"
    for done in command.each(
        ("lanes", "pause", name), ("lanes", "resume", name), ("lanes", "reset", name)
    ):
        assert (done.returncode, done.stdout) == (4, "")
        assert f"There is no lane {name}" in done.stderr
    assert await redis.dbsize() == 0


async def test_wrong_names_limits_and_usage_exit_with_2(command: CommandLine, redis: Any) -> None:
    usage = {
        ("pause", "acme"): '"acme" is not a lane name',
        ("resume", "acme/EU"): '"acme/EU" is not a lane name',
        ("set-rate", "a/b/c", "--start", "1"): '"a/b/c" is not a lane name',
        ("set-rate", LANE): "No limit given",
        ("set-rate", LANE, "--start", "0"): "start_rate: Input should be greater",
        ("set-rate", LANE, "--poll", "nan"): "poll_rate: Input should be",
        ("set-rate", LANE, "--max-running", "0"): "max_running: Input should be greater",
        ("--json", "resume", LANE): "--json works only without",
    }
    ends = command.each(*(("lanes", *arguments) for arguments in usage))
    for message, done in zip(usage.values(), ends, strict=True):
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    assert await redis.dbsize() == 0


def test_a_store_that_cannot_be_reached_exits_with_3(command: CommandLine) -> None:
    commands = (("lanes",), ("lanes", "pause", LANE), ("lanes", "set-rate", LANE, "--start", "1"))
    for done in command.each(*commands, IMPORTS_REDIS_URL=NOWHERE):
        assert done.returncode == 3
        assert "The store at redis://:***@127.0.0.1:1/0 can't be reached" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_store_without_lanes_is_reported(command: CommandLine) -> None:
    shown_text, objects = command.each(("lanes",), ("lanes", "--json"))
    assert shown_text.stdout == "There are no lanes yet: nothing has been imported or configured.\n"
    assert (objects.returncode, objects.stdout) == (0, "")


async def test_json_shows_everything_about_a_lane(command: CommandLine, store: ImportStore) -> None:
    lanes = {LANE: LaneLimits(start_rate=0.5, start_burst=5, max_running=50)}
    await store.configure(LaneLimits(poll_rate=7), lanes, by="worker-1")
    await admit(store, "d1", "d2", "d3")
    (claim,), _ = await store.claim(1)
    await run(store, claim)
    await throttle(store, claim)
    shown = listed(command)
    assert 0 <= shown.pop("last429SecondsAgo") < 20
    assert 0 <= shown.pop("configuredSecondsAgo") < 20
    assert 30 < shown["start"].pop("blockedSeconds") <= 60
    assert 30 + 4 < shown.pop("drainSeconds") <= 60 + 4
    poll = shown.pop("poll")
    assert (poll["rate"], poll["rateFrom"], poll["burst"]) == (7, "default", None)
    assert shown == {
        "lane": LANE,
        "start": {
            "rate": 0.5,
            "rateFrom": "configured",
            "burst": 5,
            "burstFrom": "configured",
            "pace": 0.5,
        },
        "maxRunning": 50,
        "ceiling": None,
        "setByHandBy": None,
        "setByHandSecondsAgo": None,
        "configuredBy": "worker-1",
        "waiting": 2,
        "running": 1,
        "throttled": 1,
        "last429Call": "start",
        "last429LimitType": "REQUEST_RATE",
        "paused": False,
        "pausedByHand": False,
        "pausedReason": None,
        "pausedSecondsAgo": None,
        "nextProbeSeconds": None,
    }


async def test_a_learned_limit_is_shown_as_one(make_store: Any, command: CommandLine) -> None:
    store = await make_store(LaneLimits())
    await admit(store, "d1", "d2")
    assert "starts not known yet" in command("lanes").stdout
    (claim,), _ = await store.claim(1)
    assert "starts 4/s (being learned)" in command("lanes").stdout
    await throttle(store, claim, retry_after_seconds=None)
    shown = listed(command)["start"]
    assert (shown["rateFrom"], shown["burstFrom"]) == ("learned", "learned")
    assert shown["rate"] < 4
    assert "(learned, burst 1)" in command("lanes").stdout


async def test_json_shows_both_kinds_of_pause(command: CommandLine, store: ImportStore) -> None:
    await admit(store, "d1")
    await recording.pause_lane(
        store, LANE, "expired", probe=False, delay_seconds=60, delay_max_seconds=60
    )
    shown = listed(command)
    assert (shown["paused"], shown["pausedByHand"]) == (True, False)
    assert (shown["pausedReason"], shown["drainSeconds"]) == ("expired", None)
    assert 30 < shown["nextProbeSeconds"] <= 60
    assert 0 <= shown["pausedSecondsAgo"] < 20

    command("lanes", "pause", LANE, "--reason", "freeze")
    shown = listed(command)
    assert (shown["paused"], shown["pausedByHand"]) == (True, True)
    assert (shown["pausedReason"], shown["nextProbeSeconds"]) == ("freeze", None)


async def test_without_a_terminal_each_lane_is_a_line(
    command: CommandLine, make_store: Any
) -> None:
    store = await make_store(LaneLimits(start_rate=5, start_burst=5, poll_rate=10))
    await admit(store, *(f"d{number}" for number in range(20)))
    (line,) = command("lanes").stdout.splitlines()
    assert re.sub(r"\d+ s ago", "just now", line) == (
        f"{LANE}: 20 waiting; 0 running; starts 5/s (default, burst 5); polls 10/s (default); "
        "open; configured by the test just now; drains in 4 s"
    )
    (claim, _), _ = await store.claim(2)
    await throttle(store, claim)
    command("lanes", "set-rate", LANE, "--start", "2", "--max-running", "9")
    command("lanes", "pause", LANE, "--reason", "freeze [now]")
    (line,) = command("lanes").stdout.splitlines()
    assert "1 of 9 running; starts 2/s (by hand, burst 5)" in line
    assert "limits set by " in line
    assert "throttled 1 in all, last a start" in line
    assert "paused by an operator for" in line
    assert ": freeze [now]; " in line


async def test_a_terminal_shows_a_row_for_each_lane(
    store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store, "d1")
    (claim,), _ = await store.claim(1)
    await throttle(store, claim)
    control = LaneControl(redis, store_config(Settings()))
    await control.set_limits("other/eu-west-1", LaneLimits(start_rate=2), by="somebody")
    await control.pause("other/eu-west-1", "change [freeze]")
    await control.set_limits("one/eu-west-1", LaneLimits(shared=True, shared_rate=3), by="me")
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200, no_color=True)
    console.print(as_table(await views.lanes()))
    printed = output.getvalue()
    for words in ("starts blocked for", "1 in all, last", "2/s", "by hand", "change [freeze]"):
        assert words in printed
    assert "as starts" in printed


async def test_status_shows_that_an_operator_has_paused_the_imports_lane(
    store: ImportStore, views: ImportViews, redis: Any
) -> None:
    await admit(store, "d1")
    await LaneControl(redis, store_config(Settings())).pause(LANE, "freeze")
    item = await views.find("import-d1")
    assert item is not None
    waits_for = what_it_waits_for(item, await views.whereabouts(item))
    assert waits_for == f"its lane {LANE}, which an operator paused: freeze"


async def throttle(
    store: ImportStore, claim: Claim, retry_after_seconds: float | None = 60
) -> None:
    await recording.throttle(
        store,
        claim,
        retry_after_seconds=retry_after_seconds,
        limit_type="REQUEST_RATE",
        concurrent=False,
    )
