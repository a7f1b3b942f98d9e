"""The report of a batch, from a real store: what it shows and leaves out, and where it goes."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from config.settings import load_settings
from tests.support import CommandLine, members, recording
from tests.support.stores import MakeStore
from worker.domain.outcomes import Envelope, StopRule
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.parameters import store_config
from worker.store.control import BatchControl
from worker.store.records import SHORT
from worker.store.store import ImportStore

HOSTILE = "<script>alert(1)</script>"
TIMES = "Waiting times of imports that started, running times of those that also ended"
VOID = frozenset({"meta"})


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


async def admit(store: ImportStore, number: int, first: int = 0) -> None:
    for n in range(first, first + number):
        request = OPERATIONS.parse(members(f"d{n}", batchId="b"))
        await store.admit(Envelope(import_id=f"i{n}", task_id=f"i{n}"), request, "us-east-1")


async def run(store: ImportStore, number: int) -> None:
    for claim in (await store.claim(number))[0]:
        await recording.run(store, claim, job_id=f"job-{claim.item.id}")


async def end(store: ImportStore, *ends: tuple[State, str]) -> None:
    """End as many running imports, each with a state and an error."""
    claims, _ = await store.claim(len(ends))
    assert len(claims) == len(ends)
    for claim, (state, error) in zip(claims, ends, strict=True):
        await recording.finish(store, replace(claim, answered=True), state, error=error)


class Page(HTMLParser):
    """An HTML page: its elements, its headings, and the rows of its tables by their captions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._data = ""
        self._rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self._rows.append([])
        if tag in {"td", "th", "caption", "h1", "h2", "h3"}:
            self._data = ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        match tag:
            case "caption":
                self._rows = self.tables.setdefault(self._data, [])
            case "td" | "th":
                self._rows[-1].append(self._data)
            case "h1" | "h2" | "h3":
                self.headings.append((int(tag[1]), self._data))

    def handle_data(self, data: str) -> None:
        self._data += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(command: CommandLine, path: Path) -> Page:
    done = command("report", "b", "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return Page(path.read_text())


async def test_the_page_of_a_batch_that_has_ended(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    await store.announce_batch("b", 7, StopRule(stop_percent=90))
    await admit(store, 7)
    await run(store, 7)
    failed = [(State.FAILED, f"no pool for app d{n}") for n in range(3)]
    await end(store, *failed, (State.TIMED_OUT, "no end"), *[(State.SUCCEEDED, "")] * 3)
    page = page_of(command, tmp_path / "report.html")
    assert "3 of 7 imports succeeded, 4 did not succeed." in page.text
    assert "has not ended" not in page.text
    assert page.tables["7 imports by state"] == [
        ["state", "imports", "share"],
        ["succeeded", "3", "42.9 %"],
        ["failed", "3", "42.9 %"],
        ["timed out", "1", "14.3 %"],
    ]
    retry = "fix the cause, then: amplify-import retry b"
    assert page.tables["4 imports by reason"][1:] == [
        ["no pool for app …i0, i1, i2", "failed", "3", retry],
        ["no endi3", "timed out", "1", retry],
    ]
    (_, lane) = page.tables["Lanes of the batch"]
    assert lane == ["default/us-east-1", "7", "4", "0", "1,000/s (default)", "0", "open"]
    (_, started) = page.tables["Starts per second"]
    assert started[:2] == ["default/us-east-1", "7"]
    times = page.tables[TIMES]
    assert [row[:2] for row in times[1:]] == [["waiting", "7"], ["running", "7"]]
    assert len(page.tables["The imports that ran longest"]) == 8
    assert ["stop rule", "pause when more than 90 % did not succeed"] in page.tables[
        "How the batch was submitted, and its pauses"
    ]


async def test_the_page_is_self_contained_and_accessible(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    await admit(store, 3)
    await run(store, 3)
    await end(store, (State.FAILED, "no pool"), *[(State.SUCCEEDED, "")] * 2)
    page = page_of(command, tmp_path / "report.html")
    names = {name for name, _ in page.elements}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    assert not re.search(r"url\(|@import|https?:", page.text)
    assert page.attributes("html") == [{"lang": "en"}]
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.attributes("th"))
    drawings = len(page.attributes("svg"))
    assert drawings == 4
    assert len(page.attributes("desc")) == drawings
    assert len(page.attributes("title")) == drawings + 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    described = " ".join(a["aria-labelledby"] or "" for a in page.attributes("svg")).split()
    assert sorted(described) == sorted(map(str, ids))


async def test_hostile_text_is_only_text(
    command: CommandLine, store: ImportStore, redis: Any, tmp_path: Path
) -> None:
    await admit(store, 2)
    await run(store, 2)
    await end(store, (State.FAILED, f"{HOSTILE}\x1b[31m"), (State.SUCCEEDED, ""))
    bad = Envelope(import_id="bad", task_id="bad", batch_id="b")
    await store.reject(bad, (HOSTILE, HOSTILE), (HOSTILE, HOSTILE), f"=cmd() {HOSTILE}")
    await BatchControl(redis, store_config(load_settings())).pause("b", HOSTILE)
    page = page_of(command, tmp_path / "report.html")
    assert page.attributes("script") == []
    assert "\x1b" not in page.text
    assert page.text.count("&lt;script&gt;") > 4
    rows = csv_of(command, tmp_path / "results.csv")
    assert rows[2]["error"] == f"'=cmd() {HOSTILE}"
    assert rows[0]["error"] == rf"{HOSTILE}\x1b[31m"


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def csv_of(command: CommandLine, path: Path) -> list[dict[str, str]]:
    assert command("report", "b", "-o", path).returncode == 0
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def test_a_batch_that_is_under_way_says_what_is_missing(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    await store.announce_batch("b", 6, StopRule(canary=2))
    await admit(store, 4)
    await run(store, 2)
    await end(store, (State.FAILED, "no pool"), (State.SUCCEEDED, ""))
    await admit(store, 1, first=4)
    done = command("report", "b", "-o", tmp_path / "report.html")
    assert done.returncode == 0
    assert "Batch b has not ended: 4 imports are missing or incomplete.\n" in done.stderr
    page = Page((tmp_path / "report.html").read_text())
    assert "the ends of 4 imports: 3 waiting, 1 not arrived yet." in page.text
    assert "It is paused: 1 of its first 2 imports did not succeed." in page.text
    assert ["not arrived yet", "1", "16.7 %"] in page.tables["6 imports by state"]
    ((_, until, reason),) = page.tables["Pauses of the batch"][1:]
    assert (until, reason) == ("still paused", "1 of its first 2 imports did not succeed")
    settings = page.tables["How the batch was submitted, and its pauses"]
    assert ["canary", "the first 2 imports"] in settings
    assert ["pauses", "1"] in settings


async def test_a_batch_of_which_nothing_has_arrived(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    await store.announce_batch("b", 5)
    page = page_of(command, tmp_path / "report.html")
    assert "0 of 5 imports succeeded, 0 did not succeed, 5 have not ended." in page.text
    assert page.tables["5 imports by state"][1:] == [["not arrived yet", "5", "100.0 %"]]
    assert page.attributes("svg") == []
    assert csv_of(command, tmp_path / "results.csv") == []


async def test_records_that_have_expired_are_counted(
    command: CommandLine, store: ImportStore, redis: Any, tmp_path: Path
) -> None:
    await admit(store, 3)
    await run(store, 3)
    await end(store, *[(State.SUCCEEDED, "")] * 3)
    await redis.delete("imports:import:i0", "imports:import:i2")
    page = page_of(command, tmp_path / "report.html")
    assert "3 of 3 imports succeeded" in page.text
    assert "2 records have expired" in page.text
    assert len(page.tables["The imports that ran longest"]) == 2
    done = command("report", "b", "--format", "json", "-o", "-")
    assert "2 records have expired and are missing.\n" in done.stderr
    printed = json.loads(done.stdout)
    assert (printed["total"], len(printed["imports"]), printed["expired"]) == (3, 1, 2)


async def test_imports_of_other_batches_are_counted_and_left_out(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    for batch, import_id in (("a", "first"), ("b", "second")):
        request = OPERATIONS.parse(members("d1", batchId=batch, idempotencyKey="k"))
        await store.admit(Envelope(import_id=import_id, task_id=import_id), request, "us-east-1")
    await admit(store, 1, first=2)
    page = page_of(command, tmp_path / "report.html")
    assert ["known", "1", "50.0 %"] in page.tables["2 imports by state"]
    assert page.tables["Lanes of the batch"][1][:2] == ["default/us-east-1", "1"]
    assert [row["importId"] for row in csv_of(command, tmp_path / "r.csv")] == ["i2"]


async def test_a_batch_of_many_pages_is_complete_in_every_format(
    command: CommandLine, store: ImportStore, redis: Any, tmp_path: Path
) -> None:
    number = 1100
    await admit(store, 1)
    record = await redis.hgetall("imports:import:i0")
    async with redis.pipeline() as pipeline:
        for n in range(1, number):
            pipeline.hset(f"imports:import:i{n}", mapping={**record, SHORT["app_id"]: f"d{n}"})
            pipeline.zadd("imports:members:b", {f"i{n}": 1000 + n})
        pipeline.hset("imports:batch:b", mapping={"accepted": number, "waiting": number})
        await pipeline.execute()
    page = page_of(command, tmp_path / "report.html")
    assert page.tables["Lanes of the batch"][1][1] == "1,100"
    expected = [f"i{n}" for n in range(number)]
    assert [row["importId"] for row in csv_of(command, tmp_path / "r.csv")] == expected
    assert command("report", "b", "-o", tmp_path / "r.json").returncode == 0
    printed = json.loads((tmp_path / "r.json").read_text())
    assert [each["importId"] for each in printed["imports"]] == expected


async def test_json_and_csv_hold_the_same_results(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    await admit(store, 2)
    await run(store, 2)
    await end(store, (State.FAILED, "no pool"), (State.SUCCEEDED, ""))
    done = command("report", "b", "--format", "json", "-o", "-")
    imports = json.loads(done.stdout)["imports"]
    assert [each["state"] for each in imports] == ["failed", "succeeded"]
    assert imports[0]["toDo"] == "fix the cause, then: amplify-import retry i0"
    assert (imports[0]["jobId"], imports[0]["error"]) == ("job-i0", "no pool")
    as_text = [
        {name: "" if value is None else str(value) for name, value in each.items()}
        for each in imports
    ]
    assert csv_of(command, tmp_path / "r.csv") == as_text
    assert command("report", "b", "-o", "-").stdout.startswith("<!DOCTYPE html>\n")


async def test_a_report_that_can_not_be_written_changes_nothing(
    command: CommandLine, store: ImportStore, tmp_path: Path
) -> None:
    old = tmp_path / "old.html"
    old.write_text("old")
    unknown = command("report", "nobody", "-o", old)
    assert unknown.returncode == 4
    assert "There is no batch nobody in this store" in unknown.stderr
    assert old.read_text() == "old"
    assert names_in(tmp_path) == ["old.html"], "no part of a report is left"
    await admit(store, 1)
    for output, code, message in (
        (tmp_path / "report.doc", 2, "does not end with .html, .csv or .json"),
        (tmp_path / "absent" / "report.html", 3, "No such file or directory"),
    ):
        done = command("report", "b", "-o", output)
        assert done.returncode == code
        assert message in done.stderr
    (tmp_path / "directory.html").mkdir()
    done = command("report", "b", "-o", tmp_path / "directory.html")
    assert done.returncode == 2
    assert "is not a file" in done.stderr
    assert "Wrote" in command("report", "b", "-o", old).stderr
    assert old.read_text().startswith("<!DOCTYPE html>")
