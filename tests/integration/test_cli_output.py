"""What the command line prints to terminals, files and closed streams, and its exit codes."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import BIN, CommandLine, members, recording, wait_until
from tests.support.terminal import Terminal
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS
from worker.store.store import ImportStore

HOSTILE = "\x1b]0;taken over\x07\x9b2J\r"
SHOWN = r"\x1b]0;taken over\x07\x9b2J\r"
NO_ROOM = "No space left on device"
FULL = Path("/dev/full")


@pytest.fixture
async def store(make_store: Any) -> ImportStore:
    store: ImportStore = await make_store()
    return store


@pytest.fixture
async def batch(store: ImportStore) -> str:
    """A batch with an import that ended badly, for a reason that no terminal should obey."""
    envelope = Envelope(import_id="import-1", task_id="import-1", batch_id="b")
    await store.admit(envelope, OPERATIONS.parse(members("d1")), "us-east-1")
    (claim,), _ = await store.claim(1)
    error = f"{HOSTILE} \u2026\u00b7\u20ac"
    await recording.finish(
        store, claim, State.FAILED, error=error, job_id="j1", operation="Import", status=""
    )
    return "b"


@pytest.fixture
def on_terminal(command: CommandLine) -> Iterator[Any]:
    terminals: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        terminals.append(Terminal(arguments, {**command.environment, **environment}))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def by_shell(command: CommandLine, redirection: str, *arguments: str | Path) -> Any:
    """Run a command with a redirection of its standard streams."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", BIN / "amplify-import", *arguments],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_control_characters_of_an_argument_are_shown(command: CommandLine) -> None:
    for done in command.each(("status", HOSTILE), ("submit", HOSTILE)):
        assert SHOWN in done.stderr
    assert "\\u202etxt" in command("status", "\u202etxt").stderr


def test_control_characters_of_a_file_are_shown(command: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / f"apps{HOSTILE}.csv"
    path.write_text(",".join(members()) + f";{HOSTILE}\n" + f"{HOSTILE},x,y,z,w\n")
    assert SHOWN in command("submit", path).stderr


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
async def test_foreign_text_does_not_control_a_terminal_and_is_shown_in_any_encoding(
    on_terminal: Any, batch: str, encoding: str
) -> None:
    for arguments in (("watch", batch), ("status", "import-1")):
        terminal = on_terminal(*arguments, PYTHONIOENCODING=encoding)
        assert terminal.end() == 1
        assert r"\x1b]0;taken over" in terminal.printed
        assert not any(raw in terminal.printed for raw in ("\x1b]", "\x07", "\x9b"))
        assert "Traceback" not in terminal.printed
        if encoding != "utf-8":
            assert r"~" in terminal.printed
            assert r"\u20ac" in terminal.printed


@pytest.mark.parametrize("arguments", [("submit", "-"), ("run", "-")])
def test_a_closed_standard_input_is_reported_in_a_sentence(
    command: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = by_shell(command, "<&-", *arguments)
    assert (done.returncode, done.stderr) == (2, "Error: standard input: is closed\n")


def test_no_question_is_asked_with_a_closed_standard_input(
    command: CommandLine, batch: str
) -> None:
    done = by_shell(command, "<&-", "retry", batch)
    assert done.returncode == 2
    assert "Say --yes, or answer at a terminal." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_closed_outputs_cause_no_failure(command: CommandLine, batch: str) -> None:
    assert batch
    for redirection in (">&-", "2>&-", ">&- 2>&- <&-"):
        done = by_shell(command, redirection, "status", "import-1")
        assert done.returncode == 1
        assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [("status", "b"), ("status", "import-1", "--json"), ("watch", "b"), ("events",), ("--help",)],
)
def test_output_to_a_full_disk_exits_with_3(
    command: CommandLine, batch: str, arguments: tuple[str, ...]
) -> None:
    assert batch
    done = command.redirected(*arguments, stdout=FULL)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: standard output: {NO_ROOM}.")
    assert len(done.stderr.splitlines()) == 1


def test_errors_to_a_full_disk_exit_with_3(command: CommandLine) -> None:
    assert command.redirected("status", "nobody", stderr=FULL).returncode == 3


async def test_a_batch_without_events_is_unknown(command: CommandLine, batch: str) -> None:
    nobody, known = command.each(
        ("events", "--batch", "nope"), ("events", "--batch", batch, "--type", "lane.paused")
    )
    assert (nobody.returncode, nobody.stdout) == (4, "")
    assert (
        nobody.stderr
        == "Error: There is no batch nope in this store; its record may have expired.\n"
    )
    assert (known.returncode, known.stdout, known.stderr) == (0, "", "")


async def test_an_interrupt_at_a_question_exits_with_130(on_terminal: Any, batch: str) -> None:
    terminal = on_terminal("retry", batch)
    terminal.read_until("Retry 1 failed imports of batch b?")
    wait_until(terminal.is_waiting, "it waits for an answer")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.printed


async def test_the_answer_no_exits_with_1_and_changes_nothing(
    on_terminal: Any, batch: str, store: ImportStore
) -> None:
    terminal = on_terminal("retry", batch)
    terminal.read_until("Retry 1 failed imports of batch b?")
    terminal.answer("n")
    assert terminal.end() == 1
    assert "Error: Aborted; nothing was changed." in terminal.printed
    assert await store.load("import-1:retry-1") is None


def test_an_interrupt_while_modules_are_imported_exits_with_130_and_no_message(
    command: CommandLine, tmp_path: Path
) -> None:
    imported = tmp_path / "imported"
    slow = f"import pathlib, time\npathlib.Path({str(imported)!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "rich.py").write_text(slow)
    command.environment["PYTHONPATH"] = str(tmp_path)
    with command.running("status", "x") as process:
        wait_until(imported.exists, "the program is importing")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize("name", ["config.py", "config/__init__.py", "worker/__init__.py"])
def test_a_users_package_that_shadows_the_workers_is_named(
    command: CommandLine, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    command.environment["PYTHONPATH"] = str(tmp_path)
    done = command.real("status", "x")
    assert done.returncode == 2
    package = name.partition("/")[0].removesuffix(".py")
    assert done.stderr.startswith(f"Error: {path} is in the way of our own package {package}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_users_file_that_shadows_a_library_is_named(command: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "redis.py"
    path.touch()
    command.environment["PYTHONPATH"] = str(tmp_path)
    done = command.real("status", "x")
    assert done.returncode == 2
    assert f"Python finds redis in {path}; if that is yours, it is in the way.\n" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_next_to_a_users_config_package_names_it(
    command: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "config.py"
    path.touch()
    done = subprocess.run(
        [BIN / "celery", "-A", "worker", "worker"],
        cwd=tmp_path,
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.startswith(f"Error: {path} is in the way of our own package config: ")
    assert len(done.stderr.splitlines()) == 1
