"""Candidates for the limiter in simulated time: how much of a hidden quota each uses, and its 429s.

`make simulate-limits` prints the table of docs/decisions/0006. The result is deterministic, and the
same on every machine.
"""

from collections.abc import Callable, Mapping
from typing import Final

from tests.benchmarks.candidates import Aimd, Cubic, DeliveryRate, GuessAndBlock
from tests.quotas import LearningLimiter, Limiter, Outcome, Setting, simulate

SEEDS: Final = range(5)
TIME_FACTOR: Final = 4
"""A case ends after this multiple of the shortest possible time."""

CANDIDATES: Final[Mapping[str, Callable[[], Limiter]]] = {
    "guess, block": GuessAndBlock,
    "AIMD": Aimd,
    "CUBIC": Cubic,
    "delivery rate": DeliveryRate,
    "this project": LearningLimiter,
}


def backlog(rate: float, burst: float, calls: int, **more: float) -> Setting:
    """Return a setting in which all calls are due at once."""
    return Setting(rates=((0, rate),), burst=burst, demand=((0, calls),), **more)  # type: ignore[arg-type]  # the floats of a setting


SETTINGS: Final[Mapping[str, Setting]] = {
    "10/s, burst 5": backlog(10, 5, 1000),
    "10/s, burst 100": backlog(10, 100, 1000),
    "10/s, far away (100 ms)": backlog(10, 10, 1000, transit_seconds=0.1, jitter_seconds=0.02),
    "0.2/s, burst 2": backlog(0.2, 2, 80),
    "1/s, burst 1": backlog(1, 1, 200),
    "200/s, burst 100": backlog(200, 100, 12_000),
    "20, 5, 20/s, burst 10": Setting(
        rates=((0, 20), (60, 5), (120, 20)), burst=10, demand=((0, 2700),)
    ),
    "10/s, server sends Retry-After": Setting(
        rates=((0, 10),), burst=5, demand=((0, 1000),), sends_retry_after=True
    ),
}


def main() -> None:
    """Print a row for each setting, with use and 429s of each candidate."""
    print("| setting | " + " | ".join(CANDIDATES) + " |")
    print("|---|" + "---|" * len(CANDIDATES))
    for name, setting in SETTINGS.items():
        cells = [_cell(make, setting) for make in CANDIDATES.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\nShare of the quota used, share of 429s among the answers; means of five seeds.")


def _cell(make: Callable[[], Limiter], setting: Setting) -> str:
    outcomes = [_run(make, setting, seed) for seed in SEEDS]
    used = sum(outcome.used for outcome in outcomes) / len(outcomes)
    refused = sum(outcome.share_refused for outcome in outcomes) / len(outcomes)
    return f"{used:.1%}, {refused:.1%}"


def _run(make: Callable[[], Limiter], setting: Setting, seed: int) -> Outcome:
    calls = sum(due for _, due in setting.demand)
    seconds = 1.0
    while setting.capacity(0, seconds) < calls:
        seconds *= 1.1
    varied = Setting(**{**vars(setting), "seed": seed})
    return simulate(make(), varied, until=TIME_FACTOR * seconds)


if __name__ == "__main__":
    main()
