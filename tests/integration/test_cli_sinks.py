"""`amplify-import sinks` and `relay`: what they print, change and refuse."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import CommandLine
from tests.support.relaying import append, event, write_sinks
from worker.store.relays import NEW, Parking, RelayStore, Settlement


@pytest.fixture
async def parked(redis: Any) -> list[str]:
    """The ids of two parked events of the sink `audit`."""
    store = RelayStore(redis, "r1", 60_000)
    await store.hold(["audit"])
    await append(redis, *(event("d1/prod", n) for n in range(3)))
    one, *others = (await store.read("audit", "0", 10, NEW, 0)).entries
    parked = [Parking(each, "HTTP 400: no", 10) for each in others]
    await store.settle("audit", Settlement([one], parked=parked, error="HTTP 400: no"), most=10)
    return [entry_id for entry_id, _ in await redis.xrange("imports:parked_events:audit")]


def printed(command: CommandLine, *arguments: str) -> list[dict[str, Any]]:
    done = command(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.usefixtures("parked")
def test_sinks_are_listed(command: CommandLine) -> None:
    text = command("sinks").stdout
    assert re.search(r"^audit: 0 waiting; 2 parked; served by r1; delivered \d+ s ago", text)
    assert re.search(r"; last error \d+ s ago: HTTP 400: no$", text)
    (sink,) = printed(command, "sinks")
    assert (sink["sink"], sink["delivered"], sink["parked"], sink["lost"]) == ("audit", 1, 2, 0)


def test_parked_events_are_listed_sent_again_and_dropped(
    command: CommandLine, parked: list[str]
) -> None:
    lines = command("sinks", "parked", "audit").stdout.splitlines()
    assert lines == [
        f"{entry_id}  d1/prod/{n}  HTTP 400: no (10 attempts)"
        for entry_id, n in zip(parked, (1, 2), strict=True)
    ]
    more = command("sinks", "parked", "audit", "--limit", "1")
    assert "There are more" in more.stderr
    assert [each["id"] for each in printed(command, "sinks", "parked", "audit")] == parked
    assert printed(command, "sinks", "resend", "audit", parked[0])[0]["resending"] == 1
    assert printed(command, "sinks", "resend", "audit", "--all")[0]["resending"] == 2
    assert printed(command, "sinks", "drop", "audit", parked[0])[0]["dropped"] == 1
    assert "1 event dropped" in command("sinks", "drop", "audit", "--all").stdout
    assert "No events of audit are parked." in command("sinks", "parked", "audit").stdout


@pytest.mark.usefixtures("parked")
def test_what_is_unknown_is_named(command: CommandLine) -> None:
    absent = command("sinks", "parked", "absent")
    assert absent.returncode == 4
    assert "No relay has served a sink absent; those that it knows: audit" in absent.stderr
    unknown = command("sinks", "resend", "audit", "1-0")
    assert (unknown.returncode, "no parked event 1-0" in unknown.stderr) == (4, True)
    assert command("sinks", "drop", "audit").returncode == 2
    assert command("sinks", "drop", "audit", "1-0", "--all").returncode == 2
    assert command("sinks", "--json", "forget", "audit").returncode == 2


@pytest.mark.usefixtures("parked")
def test_a_sink_is_enabled_and_forgotten(command: CommandLine) -> None:
    assert printed(command, "sinks", "enable", "audit") == [{"sink": "audit", "changed": False}]
    assert printed(command, "sinks", "forget", "audit") == [{"sink": "audit", "removed": True}]
    assert "No relay has served a sink yet" in command("sinks").stdout
    assert printed(command, "sinks") == []


def test_a_relay_without_valid_sinks_does_not_start(command: CommandLine, tmp_path: Path) -> None:
    none = command("relay")
    assert (none.returncode, "There are no sinks" in none.stderr) == (2, True)
    path = write_sinks(tmp_path / "sinks.toml", audit={"url": "http://127.0.0.1:9/"})
    bad = command("relay", IMPORTS_SINKS_FILE=str(path))
    assert (bad.returncode, "audit: env:SECRET: not set" in bad.stderr) == (2, True)


@pytest.mark.usefixtures("parked")
def test_doctor_names_what_needs_an_operator(command: CommandLine, tmp_path: Path) -> None:
    path = write_sinks(tmp_path / "sinks.toml", new={"kind": "eventbridge", "bus": "default"})
    text = command("doctor", IMPORTS_SINKS_FILE=str(path)).stdout
    assert "sink new: no relay has served it" in text
    assert "sink audit: 2 events are parked" in text
    bad = command("doctor", IMPORTS_SINKS_FILE="/absent").stdout
    assert "settings: IMPORTS_SINKS_FILE /absent" in bad
