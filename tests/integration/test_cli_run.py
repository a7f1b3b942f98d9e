"""`amplify-import run` and `demo` as users start them, with nothing but this machine."""

import errno
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import BIN, WAIT_SECONDS, Sandbox, environment_for, members, wait_until
from tests.support.forking import ForkedProcess, Streams
from worker.sandbox.scenario import Scenario

NO_ROOM = os.strerror(errno.ENOSPC)
MARK = "TEST_PROCESS_TREE"
SLOW_JOBS = Scenario.model_validate({"jobs": {"min_seconds": 0.8, "max_seconds": 1.2}})


class ProcessTree:
    """A command and all processes that it starts, identified by a mark in their environment.

    The command itself is forked, unless it `is_real`.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path,
        stdout: Path | None = None,
        is_real: bool = False,
        **environment: str,
    ) -> None:
        self._mark = uuid.uuid4().hex
        self._printed, self._errors = (cwd / f"{self._mark}.{name}" for name in ("out", "err"))
        command = [str(BIN / "amplify-import"), *map(str, arguments)]
        environment = {**os.environ, MARK: self._mark, **environment}
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if is_real:
            with self._printed.open("wb") as printed, self._errors.open("wb") as errors:
                self.process = subprocess.Popen(
                    command, cwd=cwd, env=environment, stdout=printed, stderr=errors
                )
        else:
            self._errors.touch()
            streams = Streams(output=stdout or self._printed, errors=self._errors)
            self.process = ForkedProcess(
                "amplify_import:main", command, environment, streams, directory=cwd
            )

    def end(self) -> tuple[int, str, str]:
        """Wait until the command has ended; return its exit code and output."""
        code = self.process.wait(WAIT_SECONDS)
        printed = self._printed.read_text() if self._printed.exists() else ""
        return code, printed, self._errors.read_text()

    def pids(self, word: str = "") -> list[int]:
        """Return the running processes with `word` in their command line."""
        mark = f"{MARK}={self._mark}".encode()
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit()
            and mark in _read(path / "environ")
            and word.encode() in _read(path / "cmdline")
        ]

    def wait_until_gone(self) -> None:
        """Wait until no process of the tree is left."""
        if Path("/proc/self/environ").exists():
            wait_until(lambda: not self.pids(), "no process of the run is left")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return b""


Start = Callable[..., ProcessTree]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts commands; at the end, none of their processes may be left."""
    trees: list[ProcessTree] = []

    def start(*arguments: str | Path, **environment: Any) -> ProcessTree:
        tree = ProcessTree(*arguments, cwd=tmp_path, **environment)
        trees.append(tree)
        return tree

    yield start
    for tree in trees:
        tree.process.kill()
        tree.wait_until_gone()


@pytest.fixture
def slow_sandbox(sandbox: Sandbox) -> Sandbox:
    sandbox.reset(SLOW_JOBS)
    return sandbox


def write_batch(directory: Path, apps: Sequence[str], *more: dict[str, Any]) -> Path:
    path = directory / "apps.jsonl"
    rows = [*(members(app) for app in apps), *more]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def results_in(directory: Path) -> list[str]:
    """Return the results, one line each, that a run has written somewhere below a directory."""
    (path,) = directory.rglob("results.jsonl")
    return path.read_text().splitlines()


def settings_for(sandbox: Sandbox, **settings: str) -> dict[str, str]:
    """The user's environment, with a store and a broker that must not be used."""
    nowhere = "redis://127.0.0.1:1/0"
    return environment_for(sandbox, nowhere, IMPORTS_BROKER_URL=nowhere, **settings)


def test_a_practice_run_completes_and_stays_complete(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "wave 1.csv"
    header = "appId,backendEnvironmentName,userPoolId,webClientId,nativeClientId,account"
    rows = [f"d{n},dev,us-east-1_Ab,web,native,{('acme', 'my team')[n % 2]}" for n in range(6)]
    path.write_text("\n".join([header, *rows]))
    arguments = ("run", path, "--sandbox", "--json", "--state-dir", tmp_path / "state")

    code, printed, errors = start(*arguments, is_real=True).end()
    assert code == 0, errors
    first = json.loads(printed)
    assert first["batchId"].startswith("wave-1-")
    assert first["states"]["succeeded"] == 6
    log = tmp_path / "state" / "practice" / first["batchId"] / "worker.log"
    logged = log.read_text()

    code, printed, errors = start(*arguments).end()
    assert code == 0, errors
    assert json.loads(printed) == first
    assert "is complete" in errors
    results = (log.parent / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["appId"] for line in results} == {f"d{n}" for n in range(6)}
    assert log.read_text() == logged  # no worker ran, so no call was made


def test_a_bad_file_imports_nothing(start: Start, tmp_path: Path) -> None:
    path = write_batch(tmp_path, ["d1"], members("x2"), members("d3", webClientId=7))
    code, _, errors = start("run", path, "--sandbox", "--state-dir", tmp_path / "state").end()
    assert code == 2
    assert "line 2: appId: must look like" in errors
    assert "line 3: webClientId: " in errors
    assert not (tmp_path / "state").exists()


def test_rows_without_a_known_region_are_not_used_up(
    start: Start, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, ["d1"])
    settings = {
        **settings_for(sandbox),
        "AWS_REGION": "",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    code, _, errors = start("run", path, "--state-dir", tmp_path / "state", **settings).end()
    assert code == 2
    assert "No region for account default: set AWS_REGION" in errors
    assert not (tmp_path / "state").exists()


def test_good_rows_of_a_bad_file_are_imported_when_asked(
    start: Start, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.reset(Scenario(missing_app_prefixes=("d0missing",)))
    path = write_batch(tmp_path, ["d1", "d0missing"], members("x2"))
    arguments = ("run", path, "--skip-invalid", "--state-dir", tmp_path / "state")
    code, printed, errors = start(*arguments, **settings_for(sandbox)).end()
    assert code == 1
    assert "1 of 2 succeeded, 1 did not succeed" in printed
    assert "1 bad rows of the file were skipped" in errors
    assert len(sandbox.jobs()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_running_and_is_resumed(
    start: Start, slow_sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    apps = [f"d{n}" for n in range(6)]
    arguments = ("run", write_batch(tmp_path, apps), "--state-dir", tmp_path / "state")
    environment = settings_for(slow_sandbox, IMPORTS_START_RATE="4", IMPORTS_START_BURST="1")
    tree = start(*arguments, **environment)
    wait_until(lambda: len(slow_sandbox.jobs()) >= 2, "some imports were started")
    tree.process.send_signal(number)
    code, _, errors = tree.end()
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert "run the same command again to resume" in errors
        assert not tree.pids()
    assert len(slow_sandbox.jobs()) < len(apps)

    code, printed, errors = start(*arguments, **environment).end()
    assert code == 0, errors
    assert "6 of 6 succeeded" in printed
    assert sorted(job["target"] for job in slow_sandbox.jobs()) == [f"{a}/staging" for a in apps]
    tree.wait_until_gone()


def test_a_worker_that_dies_is_started_again_and_no_other_run_interferes(
    start: Start, slow_sandbox: Sandbox, tmp_path: Path
) -> None:
    apps = [f"d{n}" for n in range(4)]
    slow_sandbox.script("d0", duration_seconds=10)  # the other run starts before this job ends
    arguments = ("run", write_batch(tmp_path, apps), "--state-dir", tmp_path / "state")
    environment = settings_for(slow_sandbox)
    tree = start(*arguments, **environment)
    wait_until(slow_sandbox.jobs, "an import was started")
    workers = [pid for pid in tree.pids("celery") if pid not in tree.pids("guard.py")]
    os.kill(workers[0], signal.SIGKILL)

    code, _, errors = start(*arguments, **environment).end()
    assert code == 3
    assert "is in use by another run" in errors

    code, _, errors = tree.end()
    assert code == 0, errors
    assert "worker 1 ended with code 137; it was started again (1 of 5)" in errors
    assert len(slow_sandbox.jobs()) == len(apps)


def test_imports_continue_when_the_reader_of_the_output_disappears(
    start: Start, slow_sandbox: Sandbox, tmp_path: Path
) -> None:
    apps = [f"d{n}" for n in range(4)]
    arguments = ("run", write_batch(tmp_path, apps), "--state-dir", tmp_path / "state")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tree = start(*arguments, stdout=pipe, **settings_for(slow_sandbox))
    with pipe.open() as reader:
        assert reader.readline()
    code, _, errors = tree.end()
    assert code == 141
    assert "All results: " in errors
    assert "Traceback" not in errors
    assert len(results_in(tmp_path / "state")) == len(slow_sandbox.jobs()) == len(apps)


def test_imports_continue_when_the_output_is_on_a_full_disk(
    start: Start, slow_sandbox: Sandbox, tmp_path: Path
) -> None:
    apps = [f"d{n}" for n in range(4)]
    arguments = ("run", write_batch(tmp_path, apps), "--json", "--state-dir", tmp_path / "state")
    tree = start(*arguments, stdout=Path("/dev/full"), **settings_for(slow_sandbox))
    code, _, errors = tree.end()
    assert code == 3
    assert f"Error: standard output: {NO_ROOM}. The output is incomplete." in errors
    assert len(results_in(tmp_path / "state")) == len(slow_sandbox.jobs()) == len(apps)


def test_results_that_cannot_be_written_are_named_and_written_the_next_time(
    start: Start, slow_sandbox: Sandbox, tmp_path: Path
) -> None:
    file, state = write_batch(tmp_path, ["d1"]), tmp_path / "state"
    arguments = ("run", file, "--batch-id", "b", "--state-dir", state)
    part = state / "batches" / "b" / "results.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    code, _, errors = start(*arguments, **settings_for(slow_sandbox)).end()
    assert code == 3
    whole = part.with_suffix(".jsonl")
    assert f"Error: All imports have ended, but {whole} could not be written: {NO_ROOM}." in errors
    assert not whole.exists()

    code, _, errors = start(*arguments, **settings_for(slow_sandbox)).end()
    assert code == 0, errors
    assert len(results_in(tmp_path / "state")) == len(slow_sandbox.jobs()) == 1


def mount(directory: Path, options: str) -> None:
    program = shutil.which("mount")
    if program is None:
        pytest.skip("NO MOUNT on this machine, a full disk under the store is not tested")
    command = [program, "-t", "tmpfs", "-o", options, "none", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOTHING CAN BE MOUNTED, a full disk is not tested: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a separate file system of 300 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=300k")
    yield disk
    subprocess.run([shutil.which("umount") or "umount", "--lazy", disk], check=True)


def test_a_full_disk_of_the_store_is_named_each_time_and_nothing_is_lost_once_there_is_room(
    start: Start, sandbox: Sandbox, small_disk: Path, tmp_path: Path
) -> None:
    apps = [f"d{n}" for n in range(300)]
    arguments = ("run", write_batch(tmp_path, apps), "--state-dir", small_disk)
    environment = settings_for(sandbox)
    for _ in range(2):
        code, _, errors = start(*arguments, **environment).end()
        assert code == 3
        assert errors.splitlines()[-1].startswith(
            "Error: The embedded server has ended, as nothing"
        )
        assert f"can be written to {small_disk}/batches/apps-" in errors
        assert NO_ROOM in errors

    mount(small_disk, "remount,size=40m")
    code, printed, errors = start(*arguments, **environment).end()
    assert code == 0, errors
    assert "300 of 300 succeeded" in printed
    assert len(sandbox.jobs()) == len(apps)


def test_a_relative_state_home_is_ignored_as_its_specification_says(
    start: Start, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, ["d1"])
    code, _, errors = start(
        "run", path, "--sandbox", HOME=str(tmp_path), XDG_STATE_HOME="here"
    ).end()
    assert code == 0, errors
    assert not (tmp_path / "here").exists()
    assert results_in(tmp_path / ".local" / "state" / "amplify-import")


def test_the_demo_shows_everything_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    tree = start("demo", "--apps", "40", is_real=True, TMPDIR=str(temporary))
    code, printed, errors = tree.end()
    assert code == 0, errors
    assert "Flower, while this runs: http://127.0.0.1:" in printed
    assert "d0missing00039" in printed
    assert '"type": "import.' in printed
    assert "39 jobs for 39 targets: none was imported twice" in printed
    assert "40 x import.accepted" in printed
    assert "1 x batch.completed" in printed
    assert "events: all had a valid signature" in printed
    assert list(temporary.iterdir()) == []
    assert not tree.pids()
