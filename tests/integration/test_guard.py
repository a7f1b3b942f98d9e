"""Guarded processes end with their parent, however it ends. All processes are real."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PROJECT, WAIT_SECONDS, wait_until
from worker.local.guard import GuardedProcess

CHILD = """
import os, pathlib, signal, sys, time
name, directory, seconds = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])

def end(*_):
    time.sleep(seconds)
    with (directory / "ended").open("a") as ended:
        ended.write(f"{name} ")
    sys.exit(5)

signal.signal(signal.SIGTERM, end)
(directory / f"{name}.pids").write_text(f"{os.getpid()} {os.getppid()}")
while True:
    time.sleep(0.05)  # signal.pause() sleeps through a signal that comes just before it
"""

# Starts two children, the first of which must outlive the second, and keeps running.
PARENT = """
import pathlib, signal, sys
from worker.local.guard import GuardedProcess
directory, first, second = pathlib.Path(sys.argv[1]), sys.argv[2:8], sys.argv[8:]
log = directory / "log"
server = GuardedProcess(first, log_path=log)
worker = GuardedProcess(second, log_path=log, outlived_by=[server])
signal.pause()
"""


def command(name: str, directory: Path, seconds: float = 0.0) -> list[str]:
    return [sys.executable, "-c", CHILD, name, str(directory), str(seconds)]


def pids_of(name: str, directory: Path) -> tuple[int, int]:
    """Return the process ids of a child and of its guard."""
    path = directory / f"{name}.pids"
    text = wait_until(lambda: path.read_text() if path.exists() else "", f"{name} has started")
    child, guard = text.split()
    return int(child), int(guard)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def can_lock(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_children_end_in_order_when_their_parent_is_killed(tmp_path: Path) -> None:
    children = [*command("server", tmp_path), *command("worker", tmp_path, 0.5)]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path, *children], cwd=PROJECT
    ) as parent:
        pids = [pids_of(name, tmp_path)[0] for name in ("server", "worker")]
        parent.kill()
    wait_until(lambda: all(map(is_gone, pids)), "the children of a killed parent are gone")
    assert (tmp_path / "ended").read_text() == "worker server "


def test_each_child_ends_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        GuardedProcess(command("first", tmp_path), log_path=log) as first,
        GuardedProcess(command("second", tmp_path), log_path=log) as second,
    ):
        for name in ("first", "second"):
            pids_of(name, tmp_path)
        assert first.stop() == 5
        assert second.poll() is None
    assert second.poll() == 5


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    child = GuardedProcess(
        command("slow", tmp_path, 60), log_path=tmp_path / "log", grace_seconds=0.2
    )
    pids_of("slow", tmp_path)
    assert child.stop() == 128 + signal.SIGKILL


def test_an_interrupt_does_not_reach_the_child(tmp_path: Path) -> None:
    with GuardedProcess(command("child", tmp_path), log_path=tmp_path / "log") as child:
        pid, guard = pids_of("child", tmp_path)
        assert os.getsid(guard) != os.getsid(0)
        os.kill(guard, signal.SIGINT)
        os.kill(guard, signal.SIGTERM)  # arrives after the interrupt, and is meant for the child
        wait_until(lambda: child.poll() is not None, "the child has ended")
        assert child.poll() == 5
        assert is_gone(pid)


def test_a_lock_is_held_as_long_as_the_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        guarded = GuardedProcess(
            command("child", tmp_path), log_path=tmp_path / "log", held=[lock.fileno()]
        )
        child, guard = pids_of("child", tmp_path)
    os.kill(guard, signal.SIGKILL)
    assert wait_until(guarded.poll, "the guard is killed")
    assert not can_lock(path)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: can_lock(path), "the lock is free again")
    guarded.stop()


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["exits", "is killed"],
)
def test_the_guard_ends_as_its_child_does(tmp_path: Path, program: str, code: int) -> None:
    child = GuardedProcess([sys.executable, "-c", program], log_path=tmp_path / "log")
    assert wait_until(child.poll, "the child has ended", WAIT_SECONDS) == code
