"""`watch` on a terminal, driven by keys; and without one, or with several batches."""

import json
import os
import re
import select
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis

from tests.support import CommandLine, members, recording, wait_until
from tests.support.servers import IN_MEMORY, Server
from tests.support.stores import MakeStore
from tests.support.terminal import Terminal
from worker.cli.screen.reading import Reader
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore
from worker.store.views import ImportViews

LANE = "default/us-east-1"
RAW = "\x1b]0;taken over\x07\x9b2J\r"
SHOWN = r"\x1b]0;taken over\x07\x9b2J\r"
OPENED, CLOSED = "\x1b[?1049h", "\x1b[?1049l"
ESCAPE, TAB, ENTER, CTRL_C = "\x1b", "\t", "\r", "\x03"


class Screen(Terminal):
    """A command that draws on the whole terminal."""

    def shows(self, *texts: str) -> None:
        """Wait until a complete drawing contains these texts."""
        number = 0

        def seen() -> bool:
            nonlocal number
            number += 1
            self.resize(160, 24 + number % 2)  # a new size is drawn from scratch
            start = len(self.printed)
            self.process.send_signal(signal.SIGWINCH)
            self.read_while_printing()
            drawing = plain(self.printed[start:])
            return all(text in drawing for text in texts)

        wait_until(seen, f"the screen shows {texts}")

    def read_while_printing(self) -> None:
        """Read what is printed, until nothing more is for a moment."""
        while select.select([self._ours], [], [], 0.2)[0]:
            self.printed += os.read(self._ours, 65536).decode(errors="replace")

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the command."""
        modes = termios.tcgetattr(self._ours)
        hidden, visible = self.printed.rfind("\x1b[?25l"), self.printed.rfind("\x1b[?25h")
        left = self.printed.rfind(CLOSED) > self.printed.rfind(OPENED) >= 0
        return left and modes == self.settings and visible > hidden


def plain(printed: str) -> str:
    """Return the printed text without control sequences; moves to the right become blanks."""
    moved = re.sub(r"\x1b\[(\d*)C", lambda found: " " * int(found[1] or 1), printed)
    return re.sub(r" +", " ", re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", moved))


@pytest.fixture
async def store(make_store: MakeStore) -> ImportStore:
    return await make_store()


@pytest.fixture
def views(redis: Any) -> ImportViews:
    return ImportViews(redis)


@pytest.fixture
def on_screen(command: CommandLine) -> Iterator[Callable[..., Screen]]:
    screens: list[Screen] = []

    def start(*arguments: str, **environment: str) -> Screen:
        screens.append(Screen(arguments, {**command.environment, **environment}))
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


async def admit(store: ImportStore, number: int, batch_id: str = "wave-1") -> None:
    name = f"import-{number}"
    envelope = Envelope(import_id=name, task_id=name, batch_id=batch_id)
    await store.admit(envelope, OPERATIONS.parse(members(f"d{number}")), "us-east-1")


async def end(store: ImportStore, *states: State, error: str = "") -> None:
    claims, _ = await store.claim(len(states))
    for claim, state in zip(claims, states, strict=True):
        assert await recording.finish(
            store, claim, state, error=error, job_id="j", operation="Import", status=""
        )


async def test_q_quits_and_restores_the_terminal(
    on_screen: Callable[..., Screen], store: ImportStore
) -> None:
    await admit(store, 1)
    screen = on_screen("watch")
    screen.shows("wave-1 [", LANE, "no failures", "1 left")
    screen.type("?")
    screen.shows("Tab Shift-Tab")
    screen.type("qq")
    assert screen.end() == 0
    assert screen.is_restored()


def interrupt(screen: Screen) -> None:
    screen.process.send_signal(signal.SIGINT)


def terminate(screen: Screen) -> None:
    screen.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda screen: screen.type(CTRL_C), 130),
        (interrupt, 130),
        (terminate, 143),
        (lambda screen: screen.type("q"), 130),
    ],
    ids=["ctrl-c", "sigint", "sigterm", "q"],
)
async def test_leaving_before_the_end_restores_the_terminal_and_has_its_own_exit_code(
    on_screen: Callable[..., Screen], store: ImportStore, leave: Any, code: int
) -> None:
    await admit(store, 1)
    screen = on_screen("watch", "wave-1")
    screen.shows("wave-1 [")
    leave(screen)
    assert screen.end() == code
    assert screen.is_restored()
    assert "Traceback" not in screen.printed


async def test_an_error_restores_the_terminal_before_it_is_reported(
    on_screen: Callable[..., Screen], store: ImportStore, redis: Any
) -> None:
    await admit(store, 1)
    screen = on_screen("watch")
    screen.shows("wave-1 [")
    await redis.hset("imports:batch:wave-1", "accepted", "not a number")
    assert screen.end() == 1
    assert screen.is_restored()
    assert "ValueError" in screen.printed[screen.printed.rfind(CLOSED) :]


async def test_a_batch_is_paused_with_a_reason_and_resumed_after_a_question(
    on_screen: Callable[..., Screen], store: ImportStore, views: ImportViews
) -> None:
    async def reason() -> str:
        batch = await views.batch("wave-1")
        return batch.paused_reason if batch else ""

    await admit(store, 1)
    screen = on_screen("watch", "wave-1")
    screen.shows("wave-1 [")
    screen.type("p")
    screen.shows("Pause batch wave-1; reason")
    screen.type(f"not meant{ESCAPE}")
    screen.shows("q quit")
    assert await reason() == ""
    screen.type(f"pchange freeze{ENTER}")
    screen.shows("The batch wave-1 is paused.")
    screen.type(f"rn{ENTER}")
    screen.shows("Nothing was changed.")
    assert await reason() == "change freeze"
    screen.type(f"ry{ENTER}")
    screen.shows("The batch wave-1 is resumed.")
    assert await reason() == ""


async def test_a_lane_is_paused_and_resumed(
    on_screen: Callable[..., Screen], store: ImportStore, views: ImportViews
) -> None:
    await admit(store, 1)
    screen = on_screen("watch")
    screen.shows("wave-1 [")
    screen.type(f"{TAB}p{ENTER}")
    screen.shows(f"The lane {LANE} is paused.", "1 lane paused")
    lane = await views.lane(LANE)
    assert lane is not None
    assert lane.paused_reason == "by an operator, no reason given"
    screen.type(f"{ENTER}")
    screen.shows(f"Lane {LANE}", "paused by an operator for")
    screen.type(f"ry{ENTER}")
    screen.shows(f"The lane {LANE} is resumed.")


async def test_enter_shows_the_failures_of_a_batch_and_then_what_happened_to_an_import(
    on_screen: Callable[..., Screen], store: ImportStore
) -> None:
    for number in range(3):
        await admit(store, number)
    await end(store, State.FAILED, State.SUCCEEDED, error=f"{RAW} no such pool")
    screen = on_screen("watch", "wave-1")
    screen.shows("time (1)", f"failed {SHOWN} no")
    screen.type(ENTER)
    screen.shows("Batch wave-1: running; 1 failed", "d0/staging")
    screen.type(ENTER)
    screen.shows("Import import-0: ImportBackendAuth of d0/staging", f"Ended: failed: {SHOWN}")
    screen.type(ESCAPE)
    screen.shows("Batch wave-1: running; 1 failed")
    screen.type(ESCAPE)
    screen.shows(LANE)
    assert not any(raw in screen.printed for raw in ("\x1b]", "\x07", "\x9b"))


async def test_t_retries_what_did_not_succeed(
    on_screen: Callable[..., Screen], store: ImportStore, views: ImportViews
) -> None:
    await admit(store, 1)
    await admit(store, 2)
    await end(store, State.FAILED, error="no such pool")
    screen = on_screen("watch")
    screen.shows("wave-1 [")
    screen.type("t")
    screen.shows("Retry what did not succeed in batch wave-1? [y/N]")
    screen.type(f"y{ENTER}")
    screen.shows("Batch wave-1: 1 tried again as batch wave-1:retry-1")
    retried = await views.batch("wave-1:retry-1")
    assert retried is not None
    assert retried.accepted == retried.expected == 1


async def test_the_screen_ends_with_its_batches_and_summarizes_them(
    on_screen: Callable[..., Screen], store: ImportStore
) -> None:
    await admit(store, 1)
    await admit(store, 2, "wave-2")
    screen = on_screen("watch", "wave-1", "wave-2")
    screen.shows("wave-1 [", "wave-2 [")
    await end(store, State.SUCCEEDED, State.FAILED, error="no such pool")
    assert screen.end() == 1
    assert screen.is_restored()
    after = screen.printed[screen.printed.rfind(CLOSED) :]
    assert "Batch wave-1: 1 of 1 succeeded" in after
    assert "Batch wave-2: 0 of 1 succeeded" in after


async def test_a_paused_batch_keeps_the_screen_open_and_q_exits_with_1(
    on_screen: Callable[..., Screen], store: ImportStore, command: CommandLine
) -> None:
    await admit(store, 1)
    assert command("batches", "pause", "wave-1", "--reason", "change freeze").returncode == 0
    screen = on_screen("watch", "wave-1")
    screen.shows("paused: change freeze")
    screen.type("q")
    assert screen.end() == 1
    assert "Paused: change freeze" in plain(screen.printed[screen.printed.rfind(CLOSED) :])


async def test_without_color_nothing_is_colored(
    on_screen: Callable[..., Screen], store: ImportStore
) -> None:
    await admit(store, 1)
    await admit(store, 2)
    await end(store, State.FAILED, error="no such pool")
    colored, plain_screen = on_screen("watch"), on_screen("watch", NO_COLOR="1")
    for screen in (colored, plain_screen):
        screen.shows("wave-1 [")
    red = re.compile(r"\x1b\[[\d;]*31[\d;]*m")
    assert red.search(colored.printed)
    assert not red.search(plain_screen.printed)


def test_an_unreachable_store_is_reported_and_the_screen_recovers(
    on_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    with Server(tmp_path / "server", IN_MEMORY) as server:
        screen = on_screen("watch", IMPORTS_REDIS_URL=server.url)
        screen.shows("no batches")
        server.kill()
        screen.shows("The store can't be reached, still trying:")
        screen.type("q")
        assert screen.end() == 0
        late = on_screen("watch", IMPORTS_REDIS_URL=server.url)
        assert late.end() == 3
        server.start()
        screen = on_screen("watch", IMPORTS_REDIS_URL=server.url)
        screen.shows("no batches")
        server.kill()
        screen.shows("The store can't be reached, still trying:")
        server.start()
        screen.shows("no batches", "in flight")


async def test_plain_prints_lines_on_a_terminal(
    on_screen: Callable[..., Screen], store: ImportStore
) -> None:
    await admit(store, 1)
    await end(store, State.SUCCEEDED)
    screen = on_screen("watch", "wave-1", "--plain")
    assert screen.end() == 0
    assert "wave-1: 1 of 1 finished (100%), succeeded 1" in screen.printed
    assert "\x1b[?" not in screen.printed


async def test_without_a_terminal_batches_are_followed_one_after_the_other(
    command: CommandLine, store: ImportStore
) -> None:
    await admit(store, 1)
    await admit(store, 2, "wave-2")
    await end(store, State.FAILED, State.SUCCEEDED)
    watched, unknown, none = command.each(
        ("watch", "wave-1", "wave-2", "--json"), ("watch", "wave-1", "nobody"), ("watch",)
    )
    assert watched.returncode == 1
    printed = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [each["batchId"] for each in printed] == ["wave-1", "wave-2"]
    assert unknown.returncode == 4
    assert none.returncode == 2
    assert "Say BATCH" in none.stderr


class CountingConnection(Connection):
    """A connection that counts how often it sends something."""

    sent = 0

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        CountingConnection.sent += 1
        await super().send_packed_command(*args, **options)


@pytest.mark.parametrize(("batch_ids", "number"), [((), 6), (("wave-1", "wave-2"), 5)])
async def test_a_reading_takes_few_round_trips_however_much_there_is(
    store: ImportStore, store_url: str, batch_ids: tuple[str, ...], number: int
) -> None:
    for each in range(20):
        await admit(store, each, f"wave-{each}")
    await end(store, *[State.FAILED] * 5)
    pool = ConnectionPool.from_url(
        store_url, connection_class=CountingConnection, decode_responses=True
    )
    async with Redis.from_pool(pool) as redis:
        reader = Reader(redis, batch_ids)
        await redis.ping()
        for _ in range(2):
            before = CountingConnection.sent
            reading = await reader.read()
            assert CountingConnection.sent - before == number
    assert len(reading.batches) == (2 if batch_ids else 15)


async def test_a_reading_has_each_failure_once_and_the_newest_first(
    store: ImportStore, redis: Any
) -> None:
    reader = Reader(redis)
    for number in range(4):
        await admit(store, number)
    for number in range(3):
        await end(store, State.FAILED if number != 1 else State.SUCCEEDED, error="no such pool")
        reading = await reader.read()
    assert [failure.import_id for failure in reading.failures] == ["import-2", "import-0"]
    assert (await reader.read()).failures == reading.failures


async def test_a_batch_that_completes_while_it_is_watched_stays(
    store: ImportStore, redis: Any
) -> None:
    await admit(store, 1, "before")
    await end(store, State.SUCCEEDED)
    await admit(store, 2)
    await redis.hset("imports:batch:before", "completed_at_ms", 1)
    reader = Reader(redis)
    assert [batch.batch_id for batch in (await reader.read()).batches] == ["wave-1"]
    await end(store, State.SUCCEEDED)
    (batch,) = (await reader.read()).batches
    assert batch.completed
