"""Run every chaos trial in turn, and print the injected faults and the violations.

`make chaos SEED=7` runs this module. The seed determines all random values. Each trial has limits
on time and size, and ends every process that it started, also on Ctrl-C. The exit code is 1 if
there is any violation.
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
from tests.chaos.trial import Trial
from tests.chaos.undocumented_facts import FACT_SETS, choose_facts

MODULES: Final = ("ingress", "storm", "freeze", "network", "clock", "sentinel", "crashes", "fuzz")
"""The trials run in this order, if their module exists; each module has `trials(seed)`."""

SHOWN: Final = 20
"""How many violations of a trial are printed."""


def main() -> None:
    """Run the selected trials, and print the table."""
    names = [name for name in MODULES if find_spec(f"tests.chaos.{name}")]
    options = _options(names)
    choose_facts(options.facts)
    _end_orderly_on_signals()
    header = f"seed {options.seed}, facts {options.facts}"
    print(f"{header}: {', '.join(options.only or names)}", flush=True)
    results: list[Trial] = []
    try:
        for name in options.only or names:
            results += _run(name, options)
    except KeyboardInterrupt:
        print("interrupted; trials that are missing below did not run")
    _show(results, header)
    sys.exit(1 if not results or any(trial.violations for trial in results) else 0)


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--facts",
        default="drawn",
        choices=FACT_SETS,
        help="How the API behaves where AWS documents nothing.",
    )
    parser.add_argument(
        "--only", action="append", choices=names, help="Run only this trial; may be repeated."
    )
    parser.add_argument(
        "--kills", type=int, default=ingress.KILLS, help="Number of kills in the trial ingress."
    )
    return parser.parse_args()


def _end_orderly_on_signals() -> None:
    """Turn the first signal into a KeyboardInterrupt, and ignore later signals during cleanup."""

    def interrupt(*_: Any) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _run(name: str, options: argparse.Namespace) -> Iterator[Trial]:
    """Yield the trials of a module; report a trial that raises as a violation."""
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
    except Exception as error:  # noqa: BLE001 - the other trials still run
        traceback.print_exc()
        what = f"broke off: {type(error).__name__}: {error}"
        yield Trial(name, "", 0, time.monotonic() - started, [what])


def _line(trial: Trial) -> str:
    counts = f"{trial.imports:>7,}  {trial.seconds:>7.0f}  {len(trial.violations):>10}"
    return f"{trial.name:<16}{counts}  {trial.faults}"


def _show(results: Sequence[Trial], header: str) -> None:
    print(f"\n{'trial':<16}imports  seconds  violations  faults injected")
    for trial in results:
        print(_line(trial))
    for trial in results:
        _show_violations(trial)
    print(f"{header}: {sum(len(t.violations) for t in results)} violations")


def _show_violations(trial: Trial) -> None:
    for violation in trial.violations[:SHOWN]:
        print(f"VIOLATION of {trial.name}: {violation}", flush=True)
    if len(trial.violations) > SHOWN:
        print(f"VIOLATION of {trial.name}: and {len(trial.violations) - SHOWN} more", flush=True)


if __name__ == "__main__":
    main()
