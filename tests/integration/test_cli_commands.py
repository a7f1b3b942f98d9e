"""The commands as programs: what they print, on which stream, and their exit codes."""

import base64
import csv
import gzip
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import ACCESS_KEY, CommandLine, members, recording
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore

NOWHERE = "redis://:hidden@127.0.0.1:1/0"


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


@pytest.fixture
def batch_file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "my apps.csv", [members(f"d{number}") for number in range(3)])


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


async def admit(store: ImportStore, app: str, batch_id: str = "") -> None:
    envelope = Envelope(import_id=f"import-{app}", task_id=f"import-{app}", batch_id=batch_id)
    await store.admit(envelope, OPERATIONS.parse(members(app)), "us-east-1")


async def end(store: ImportStore, *states: State) -> None:
    claims, _ = await store.claim(len(states))
    for claim, state in zip(claims, states, strict=True):
        error = "" if state is State.SUCCEEDED else "no [such] pool"
        await recording.finish(
            store, claim, state, error=error, job_id="j1", operation="Import", status=""
        )


async def messages(redis: Any) -> list[dict[str, Any]]:
    texts = await redis.lrange("imports", 0, -1)
    return [json.loads(text) for text in reversed(texts)]


def kwargs_of(message: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(message["body"]))[1])


async def test_submit_queues_the_batch_and_repeats_the_same_messages(
    command: CommandLine, redis: Any, batch_file: Path
) -> None:
    done = command("submit", batch_file)
    assert (done.returncode, done.stderr) == (0, "")
    batch_id = done.stdout.split("batch ")[1].split(".")[0]
    assert batch_id.startswith("my-apps-")
    assert f"amplify-import watch {batch_id}" in done.stdout

    again = json.loads(command("submit", batch_file, "--json").stdout)
    assert again == {
        "batchId": batch_id,
        "submitted": 3,
        "skipped": 0,
        "messages": 1,
        "problems": [],
        "warnings": [],
    }

    first, second = await messages(redis)
    assert first["headers"]["task"] == "imports.import_batch"
    assert first["headers"]["id"] == second["headers"]["id"]
    sent = kwargs_of(first)
    assert sent == kwargs_of(second)
    assert (sent["batchId"], sent["offset"], sent["total"]) == (batch_id, 0, 3)
    ids = [request.pop("importId") for request in sent["requests"]]
    assert len(set(ids)) == 3
    assert sent["requests"] == [members(f"d{number}") for number in range(3)]


async def test_submit_sends_long_batches_in_several_messages(
    command: CommandLine, redis: Any, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "long.csv", [members(f"d{number}") for number in range(501)])
    assert command("submit", path, "--batch-id", "wave-1").returncode == 0
    sent = [kwargs_of(message) for message in await messages(redis)]
    assert [(part["offset"], len(part["requests"]), part["total"]) for part in sent] == [
        (0, 500, 501),
        (500, 1, 501),
    ]


def test_a_file_in_another_format_is_the_same_batch_and_its_format_is_reported(
    command: CommandLine, batch_file: Path
) -> None:
    packed = batch_file.parent / "my apps.csv.gz"
    packed.write_bytes(gzip.compress(batch_file.read_bytes()))
    semicolons = batch_file.parent / "semicolons.csv"
    semicolons.write_text(batch_file.read_text().replace(",", ";"), encoding="utf-16")
    plain, same, other = command.each(
        *(("submit", path, "--json") for path in (batch_file, packed, semicolons))
    )
    assert (plain.stderr, same.stderr) == ("", f"{packed}: commas, UTF-8, gzip\n")
    assert json.loads(plain.stdout) == json.loads(same.stdout)
    assert other.stderr == f"{semicolons}: semicolons, UTF-16\n"
    assert json.loads(other.stdout)["submitted"] == 3


def test_piped_input_is_named_after_its_content(command: CommandLine, batch_file: Path) -> None:
    text = batch_file.read_bytes().decode()
    names = [
        json.loads(command("submit", pipe, "--json", stdin=text).stdout)["batchId"]
        for pipe in ("-", "/dev/stdin", "/dev/fd/0")
    ]
    assert set(names) == {f"batch-{hashlib.sha256(text.encode()).hexdigest()[:8]}"}


async def test_submit_sends_nothing_of_a_bad_file_unless_asked_to_skip(
    command: CommandLine, redis: Any
) -> None:
    rows = [members("d1"), members("D2"), *(members("d3") for _ in range(25))]
    text = "\n".join(map(json.dumps, rows))
    refused = command("submit", "-", stdin=text)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "line 2: appId: must look like d2e1f0g9h8i7j6, got 'D2'" in refused.stderr
    assert "line 4: row: has the same target as line 3: d3/staging" in refused.stderr
    assert "... and 5 more problems" in refused.stderr
    assert "25 rows bad" in refused.stderr
    assert await messages(redis) == []

    taken = command("submit", "-", "--skip-invalid", "--batch-id", "b", "--json", stdin=text)
    assert taken.returncode == 0
    printed = json.loads(taken.stdout)
    assert (printed["submitted"], printed["skipped"]) == (2, 25)
    assert printed["problems"][0]["line"] == 2
    (sent,) = map(kwargs_of, await messages(redis))
    assert [request["appId"] for request in sent["requests"]] == ["d1", "d3"]
    assert sent["total"] == 2


def test_bad_usage_and_bad_settings_exit_with_2(command: CommandLine, batch_file: Path) -> None:
    usage = {
        "does not exist": ("submit", "absent.csv"),
        "must be an id": ("submit", batch_file, "--batch-id", "no spaces"),
        "must be the id of an entry": ("events", "--from", "yesterday"),
    }
    for message, done in zip(usage, command.each(*usage.values()), strict=True):
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    for name, value in [
        ("IMPORTS_BROKER_URL", "pigeon://x"),
        ("IMPORTS_LEASE_SECONDS", "soon"),
    ]:
        done = command("submit", batch_file, **{name: value})
        assert (done.returncode, done.stdout) == (2, "")
        assert name in done.stderr


def test_an_unreachable_server_exits_with_3_and_hides_the_password(
    command: CommandLine, batch_file: Path
) -> None:
    ends = command.each(("submit", batch_file), ("status", "x"), IMPORTS_REDIS_URL=NOWHERE)
    for what, done in zip(("broker", "store"), ends, strict=True):
        assert done.returncode == 3
        assert f"The {what} at redis://:***@127.0.0.1:1/0 can't be reached" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "hidden" not in done.stderr


def test_an_unknown_id_exits_with_4(command: CommandLine) -> None:
    for done in command.each(("status", "nobody"), ("watch", "nobody")):
        assert (done.returncode, done.stdout) == (4, "")
        assert "batch nobody in this store" in done.stderr


async def test_status_shows_everything_about_an_import(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "d1", "b")
    await admit(store, "d2", "b")
    await end(store, State.FAILED)
    waiting, failed = command.each(("status", "import-d2"), ("status", "import-d1", "--json"))
    assert waiting.returncode == 0
    assert "state      waiting\n" in waiting.stdout
    assert "waits for  its turn in lane default/us-east-1: it is next\n" in waiting.stdout

    assert failed.returncode == 1
    printed = json.loads(failed.stdout)
    expected = {"importId": "import-d1", "state": "failed", "error": "no [such] pool", "polls": 0}
    assert expected.items() <= printed.items()
    assert (printed["jobId"], printed["batchId"], printed["waitsFor"]) == ("j1", "b", None)


async def test_status_and_watch_summarize_a_batch(command: CommandLine, store: ImportStore) -> None:
    for number in range(13):
        await admit(store, f"d{number}", "b")
    await end(store, State.SUCCEEDED, *[State.FAILED] * 12)
    done, listed, watched = command.each(
        ("status", "b"), ("status", "b", "--failed"), ("watch", "b", "--json")
    )
    assert done.returncode == 1
    assert "Batch b: 1 of 13 succeeded, 12 did not succeed." in done.stdout
    assert "d10/staging  failed     no [such] pool  (import-d10)" in done.stdout
    assert "... and 2 more: amplify-import status b --failed" in done.stdout
    assert len(listed.stdout.splitlines()) == 1 + 12

    assert watched.returncode == 1
    printed = json.loads(watched.stdout)
    assert (printed["total"], printed["completed"], len(printed["failures"])) == (13, True, 10)
    assert printed["states"]["failed"] == 12
    assert watched.stderr.startswith("b: 13 of 13 finished (100%), succeeded 1, failed 12")


async def test_watch_exits_with_0_for_a_batch_that_succeeded(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "d1", "b")
    with command.running("watch", "b") as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("b: 0 of 1 finished (0%), waiting 1")
        await end(store, State.SUCCEEDED)
        printed, _ = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert "Batch b: 1 of 1 succeeded, 0 did not succeed." in printed


async def test_an_interrupted_watch_exits_with_130_and_no_message(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "d1", "b")
    with command.running("watch", "b") as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        printed, errors = watch.communicate(timeout=60)
    assert (watch.returncode, printed, errors) == (130, "", "")


async def test_events_shows_the_last_events_filtered_or_followed(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "d0", "b")
    for number in range(1, 25):
        await admit(store, f"d{number}")
    last, only, everything = command.each(
        ("events",),
        ("events", "--batch", "b", "--type", "import.accepted", "--json"),
        ("events", "--from", "0"),
    )
    assert [line.split()[2] for line in last.stdout.splitlines()] == [
        f"d{number}/staging" for number in range(5, 25)
    ]
    assert json.loads(only.stdout)["data"]["importId"] == "import-d0"
    assert len(everything.stdout.splitlines()) == 25

    types = ("--type", "import.failed", "--type", "batch.completed")
    with command.running("events", "--follow", "--from", "0", *types) as follow:
        assert follow.stdout is not None
        await end(store, State.FAILED)
        line = follow.stdout.readline()
        assert line.split()[1:4] == ["import.failed", "d0/staging", "job"]
        assert line.endswith("  no [such] pool\n")
        assert follow.stdout.readline().endswith("  batch.completed   b  failed 1\n")
        follow.send_signal(signal.SIGINT)
        assert follow.communicate(timeout=60) == ("", "")
    assert follow.returncode == 130


async def test_a_reader_that_closes_the_pipe_causes_no_error(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, "d1")
    with command.running("events", "--follow", "--from", "0") as follow:
        assert follow.stdout is not None
        assert follow.stderr is not None
        assert follow.stdout.readline()
        follow.stdout.close()
        await admit(store, "d2")
        assert follow.wait(90) == 141
        assert follow.stderr.read() == ""


def test_doctor_says_what_to_fix(command: CommandLine) -> None:
    done = command("doctor", "--json", "--account", "nobody")
    assert done.returncode == 1
    assert "not-to-be-shown" not in done.stdout
    assert ACCESS_KEY not in done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert {check["name"]: check["verdict"] for check in report["checks"]} == {
        "settings": "ok",
        "store": "ok",
        "version": "ok",
        "cluster mode": "ok",
        "persistence": "FAIL",
        "eviction": "ok",
        "broker": "ok",
        "workers": "FAIL",
        "region": "ok",
        "credentials of default": "ok",
        "credentials of nobody": "FAIL",
    }
    assert all(check["remedy"] for check in report["checks"] if check["verdict"] != "ok")


def test_doctor_continues_without_a_store_and_stops_at_bad_settings(command: CommandLine) -> None:
    alone = command("doctor", IMPORTS_REDIS_URL=NOWHERE, AWS_REGION="")
    assert alone.returncode == 1
    assert "hidden" not in alone.stdout
    verdicts = [line[:4].strip() for line in alone.stdout.splitlines() if line[0] != " "]
    assert verdicts == ["ok", "FAIL", "FAIL", "warn", "ok"]

    wrong = command("doctor", IMPORTS_LEASE_SECONDS="soon")
    assert wrong.returncode == 1
    assert wrong.stdout.startswith("FAIL settings: IMPORTS_LEASE_SECONDS")


def test_doctor_says_what_keeps_calls_from_being_sent(command: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile acme]\ncredential_process = echo []\nregion = us_east_1\n"
        "[profile b]\naws_access_key_id = AKIAB\naws_secret_access_key = b\nmax_attempts = many\n"
    )
    accounts = ("--account", "acme", "--account", "b")
    done = command("doctor", "--json", *accounts, AWS_CONFIG_FILE=str(config), AWS_REGION="")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["credentials of acme"]["verdict"] == "FAIL"
    assert (
        checks["credentials of b"]["verdict"] == "ok"
    )  # the worker does not repeat calls in any case

    done = command("doctor", "--json", AWS_ENDPOINT_URL_AMPLIFYBACKEND="127.0.0.1:4567")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["credentials of default"]["verdict"] == "FAIL"
    assert "Invalid endpoint" in checks["credentials of default"]["detail"]

    wrong = command("doctor", AWS_REGION="us_east_1")
    assert wrong.stdout.startswith("FAIL settings: AWS_REGION")


def test_help_lists_the_commands_and_the_exit_codes(command: CommandLine) -> None:
    helped, version = command.each(("--help",), ("--version",))
    for word in ("submit", "status", "watch", "events", "doctor", "sandbox", "130  interrupted"):
        assert word in helped.stdout
    assert version.stdout.startswith("amplify-import, version ")


def test_submit_watches_until_the_worker_is_done(
    command: CommandLine, start_worker: Any, batch_file: Path
) -> None:
    start_worker()
    done = command("submit", batch_file, "--watch")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 succeeded, 0 did not succeed." in done.stdout
