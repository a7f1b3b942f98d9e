"""Runs every chaos trial, one after the other, and says what was injected and what did not hold.

`make chaos SEED=7` runs it. Everything random comes from the seed. Each trial is bounded in time
and in number, and ends every process that it started, also on Ctrl-C. Ends with 1 on any violation.
"""

import argparse
import importlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, NoReturn

from tests.chaos import ingress
from tests.chaos.natures import NATURES, choose
from tests.chaos.trial import Trial

MODULES: Final = ("ingress", "storm", "freeze", "network", "clock", "sentinel", "crashes", "fuzz")
"""Those that are there are run, in this order; each has `trials(seed)`."""

SHOWN: Final = 20
"""Violations of a trial that are printed."""


def main() -> None:
    """Run the trials that are asked for, and print the table."""
    names = [name for name in MODULES if find_spec(f"tests.chaos.{name}")]
    options = _options(names)
    choose(options.facts)
    _end_orderly_on_signals()
    said = f"seed {options.seed}, facts {options.facts}"
    print(f"{said}: {', '.join(options.only or names)}", flush=True)
    results: list[Trial] = []
    try:
        for name in options.only or names:
            results += _run(name, options)
    except KeyboardInterrupt:
        print("interrupted; what is missing below was not run")
    _show(results, said)
    sys.exit(1 if not results or any(trial.violations for trial in results) else 0)


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--facts", default="drawn", choices=NATURES, help="What AWS leaves open.")
    parser.add_argument("--only", action="append", choices=names, help="May be repeated.")
    parser.add_argument("--kills", type=int, default=ingress.KILLS, help="Of the trial ingress.")
    return parser.parse_args()


def _end_orderly_on_signals() -> None:
    """Let the first signal unwind everything, and none after it disturb that."""

    def interrupt(*_: Any) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _run(name: str, options: argparse.Namespace) -> Iterator[Trial]:
    """Yield the trials of a module; one that breaks off is a violation."""
    print(f"{name} …", flush=True)
    module = importlib.import_module(f"tests.chaos.{name}")
    trials = module.trials
    if module is ingress:
        trials = partial(ingress.trials, kills=options.kills)
    started = time.monotonic()
    try:
        for trial in trials(options.seed):
            print(f"  {_line(trial)}", flush=True)
            _show_violations(trial)
            yield trial
    except Exception as error:  # noqa: BLE001 - the others are run all the same
        traceback.print_exc()
        what = f"broke off: {type(error).__name__}: {error}"
        yield Trial(name, "", 0, time.monotonic() - started, [what])


def _line(trial: Trial) -> str:
    counts = f"{trial.imports:>7,}  {trial.seconds:>7.0f}  {len(trial.violations):>10}"
    return f"{trial.name:<16}{counts}  {trial.faults}"


def _show(results: Sequence[Trial], said: str) -> None:
    print(f"\n{'trial':<16}imports  seconds  violations  faults injected")
    for trial in results:
        print(_line(trial))
    for trial in results:
        _show_violations(trial)
    print(f"{said}: {sum(len(t.violations) for t in results)} violations")


def _show_violations(trial: Trial) -> None:
    for violation in trial.violations[:SHOWN]:
        print(f"VIOLATION of {trial.name}: {violation}", flush=True)
    if len(trial.violations) > SHOWN:
        print(f"VIOLATION of {trial.name}: and {len(trial.violations) - SHOWN} more", flush=True)


if __name__ == "__main__":
    main()
