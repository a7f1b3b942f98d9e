"""Schedules of polls in simulated time: how late each finds the ends of jobs.

`make simulate-polls` prints the tables of docs/decisions/0019 and draws docs/polls.svg. The result
is deterministic, and the same on every machine.
"""

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

from tests.benchmarks.plot import draw_lags
from tests.schedules import (
    SEED,
    Learned,
    Outcome,
    Schedule,
    simulate,
    simulate_short,
    with_as_many_polls,
)

JOBS: Final = 2000
SHORT_STARTS, SHORT_POLLS = 5.0, 10.0
"""Per second, where the limit is short: about a quarter of the polls that the schedule wants."""


def lognormal(rng: random.Random, median: float, sigma: float) -> float:
    """Draw a duration whose logarithm has a normal distribution."""
    return median * math.exp(rng.gauss(0, sigma))


Draw = Callable[[random.Random, float], float]
"""Draws the duration of a job in seconds; the second argument is the share of jobs before it."""

SHOWN: Final = (
    "lognormal, median 60 s, sigma 0.4",
    "two kinds: 20 s and 150 s, each ±10 %",
    "drifts from 30 s to 120 s, sigma 0.2",
)
"""The durations in the picture."""

DURATIONS: Final[Mapping[str, Draw]] = {
    "lognormal, median 60 s, sigma 0.4": lambda rng, _: lognormal(rng, 60, 0.4),
    "lognormal, median 60 s, sigma 0.1": lambda rng, _: lognormal(rng, 60, 0.1),
    "two kinds: 20 s and 150 s, each ±10 %": lambda rng, _: (
        rng.choice((20, 150)) * rng.uniform(0.9, 1.1)
    ),
    "fixed, 60 s": lambda _rng, _: 60.0,
    "exponential, mean 60 s": lambda rng, _: rng.expovariate(1 / 60),
    "drifts from 30 s to 120 s, sigma 0.2": lambda rng, share: lognormal(rng, 30 * 4**share, 0.2),
    "jumps from 90 s to 25 s, sigma 0.2": lambda rng, share: lognormal(
        rng, 90 if share < 0.5 else 25, 0.2
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Three schedules on the same jobs; `fixed` makes as many polls as `learned`."""

    plain: Outcome
    fixed: Outcome
    learned: Outcome


def durations_of(draw: Draw) -> list[float]:
    """Return how long each job takes, in seconds."""
    rng = random.Random(SEED)
    return [draw(rng, number / JOBS) for number in range(JOBS)]


def compare(draw: Draw) -> Comparison:
    """Simulate the schedules with jobs of these durations."""
    seconds = durations_of(draw)
    learned = simulate(Learned(), seconds)
    return Comparison(
        plain=simulate(Schedule(), seconds),
        fixed=with_as_many_polls(learned.polls_per_job, seconds),
        learned=learned,
    )


def main() -> None:
    """Print a row for each kind of durations; draw the lags if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, help="the SVG file to draw")
    picture = parser.parse_args().picture
    print("| durations | plain | fixed interval | learned |\n|---|---|---|---|")
    found = {}
    for name, draw in DURATIONS.items():
        found[name] = compare(draw)
        cells = (_cell(outcome) for outcome in vars(found[name]).values())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| durations | in order | likeliest first |\n|---|---|---|")
    for name, draw in DURATIONS.items():
        orders = (
            simulate_short(
                durations_of(draw), SHORT_STARTS, SHORT_POLLS, likeliest_first=likeliest_first
            )
            for likeliest_first in (False, True)
        )
        print(f"| {name} | {' | '.join(map(_cell, orders))} |", flush=True)
    print("\nPolls per job: mean, median and 95th percentile of the lag in seconds.")
    if picture:
        draw_lags({name: _percentiles(found[name]) for name in SHOWN}, picture)


def _cell(outcome: Outcome) -> str:
    lags = outcome.percentiles
    return f"{outcome.polls_per_job:.1f}: {mean(outcome.lags):.1f}, {lags[49]:.1f}, {lags[94]:.1f}"


def _percentiles(comparison: Comparison) -> dict[str, Sequence[float]]:
    return {name: outcome.percentiles for name, outcome in vars(comparison).items()}


if __name__ == "__main__":
    main()
