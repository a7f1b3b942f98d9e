"""Schedules as users give and see them: submit, run, batches, status, explain and the report."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis import Redis

from tests.support import CommandLine, StartWorker, wait_until

HEADER = "appId,backendEnvironmentName,userPoolId,webClientId,nativeClientId,region\n"


def apps(directory: Path, count: int = 3) -> str:
    """Write a batch file of so many rows."""
    rows = (
        f"d{n},staging,us-east-1_AbCdEf123,web{n:08},native{n:08},us-east-1\n" for n in range(count)
    )
    file = directory / "apps.csv"
    file.write_text(HEADER + "".join(rows))
    return str(file)


def window_in(hours: int) -> str:
    """Return a window of two hours that opens in so many hours, in another time zone."""
    opens = datetime.now(UTC) + timedelta(hours=hours + 5, minutes=30)
    return f"{opens:%H:%M}-{opens + timedelta(hours=2):%H:%M} Asia/Kolkata"


def test_a_batch_waits_for_its_window_and_every_command_says_so(
    command: CommandLine, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    window = window_in(3)
    submitted = command(
        "submit", apps(tmp_path), "--batch-id", "night", "--window", window, "--max-per-hour", "60"
    )
    assert submitted.returncode == 0, submitted.stderr

    def status() -> Any:
        return json.loads(command("status", "night", "--json").stdout or "{}")

    wait_until(lambda: status().get("held") == 3, "all have arrived")
    wait_until(lambda: status()["schedule"]["nextStartAt"], "the opening is known")
    schedule = status()["schedule"]
    opens = datetime.fromisoformat(schedule["nextStartAt"])
    assert timedelta(hours=2) < opens - datetime.now(UTC) <= timedelta(hours=3)
    assert (schedule["window"], schedule["maxPerHour"], schedule["startAt"]) == (window, 60, None)

    reason = f"waits for its window {window}: opens "
    assert reason in command("status", "night").stdout
    (listed,) = [json.loads(line) for line in command("batches", "--json").stdout.splitlines()]
    assert (listed["state"], listed["stalled"]) == ("scheduled", False)
    assert reason in listed["heldUpBy"]
    assert command("batches", "--stalled", "--stalled-after", "0s").stdout.startswith("There are")
    (first, *_) = [json.loads(line) for line in command("imports", "--json").stdout.splitlines()]
    assert reason in first["waitsFor"]
    explained = json.loads(command("explain", first["importId"], "--json").stdout)
    assert reason in explained["waitsFor"]
    assert 2 * 3600 < explained["startsInSeconds"] < 4 * 3600
    metrics = command("metrics", "--batches", "5").stdout
    assert 'imports_batch_scheduled{batch="night"} 1' in metrics
    assert command("report", "night", "-o", str(tmp_path / "report.html")).returncode == 0
    assert reason in (tmp_path / "report.html").read_text()

    changed = command("batches", "schedule", "night", "--clear", "--max-per-hour", "7200")
    assert changed.stdout == "Batch night starts imports at most 7,200 an hour.\n"
    watched = command("watch", "night", "--plain")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert command("audit").returncode == 0


def test_a_start_time_that_has_passed_is_said_to_be_now(
    command: CommandLine, tmp_path: Path
) -> None:
    submitted = command("submit", apps(tmp_path), "--start-at", "2026-01-01T00:00Z")
    assert submitted.returncode == 0
    assert "Thu 2026-01-01 00:00 UTC has passed; imports start at once." in submitted.stderr


def test_options_that_make_no_schedule_are_refused(command: CommandLine, tmp_path: Path) -> None:
    file = apps(tmp_path)
    for option, value, problem in (
        ("--start-at", "tomorrow", "must be a time with an offset or a time zone"),
        ("--start-at", "+2x", "is not a duration"),
        ("--window", "22:00-06:00", "must be times and a time zone"),
        ("--window", "22:00-06:00 Europe/Nowhere", "is not a known time zone"),
        ("--max-per-hour", "0", "0 is not in the range"),
        ("--stop-on-failures", "101%", "101.0 is not in the range"),
    ):
        refused = command("submit", file, option, value)
        assert refused.returncode == 2
        assert problem in " ".join(refused.stderr.split()), refused.stderr
    unknown = command("batches", "schedule", "nobody", "--max-per-hour", "1")
    assert "nobody" in unknown.stderr


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(
    command: CommandLine, store_url: str, tmp_path: Path
) -> None:
    file = apps(tmp_path, 40)
    options = (
        "--batch-id",
        "night",
        "--max-per-hour",
        "120",
        "--window",
        window_in(3),
        "--dry-run",
    )
    dry = command("submit", file, *options, "--json", IMPORTS_START_RATE="2")
    assert dry.returncode == 0, dry.stderr
    found = json.loads(dry.stdout)
    assert (found["valid"], found["bad"], found["known"], found["problems"]) == (40, 0, 0, [])
    (lane,) = found["lanes"]
    assert (lane["lane"], lane["imports"], lane["startsPerSecond"]) == ("default/us-east-1", 40, 2)
    begins, started = (datetime.fromisoformat(found[name]) for name in ("beginsAt", "startedAt"))
    assert timedelta(hours=2) < begins - datetime.now(UTC) <= timedelta(hours=3)
    assert started - begins == timedelta(seconds=40 * 30), "the hourly maximum counts, not the lane"
    assert "Dry run of batch night: nothing was sent" in command("submit", file, *options).stdout
    with Redis.from_url(store_url) as redis:
        assert redis.keys() == []

    Path(file).write_text(HEADER + "d1,staging,no pool,web00000001,native00000001,us-east-1\n")
    state = tmp_path / "state"
    for arguments in (["submit", file], ["run", file, "--state-dir", state]):
        bad = command(*arguments, "--dry-run")
        assert bad.returncode == 2
        assert "userPoolId" in bad.stderr
    assert not state.exists()


def test_a_dry_run_without_a_store_says_so(command: CommandLine, tmp_path: Path) -> None:
    dry = command("submit", apps(tmp_path), "--dry-run", IMPORTS_REDIS_URL="redis://localhost:1/0")
    assert dry.returncode == 0, dry.stderr
    assert "count as new: The store at redis://localhost:1" in dry.stdout
    assert "its limit is not known yet" in dry.stdout
