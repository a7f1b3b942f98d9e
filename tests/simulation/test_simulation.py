"""The simulation repeats exactly, finds no violation in the product, and detects every mutant."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.simulation.mutants import MUTANTS, Mutant, is_detected
from tests.simulation.seed_run import run_seed
from worker.store.scripts import loaded_texts

SEEDS = range(1, 11)


@pytest.fixture
def server(valkey_url: str) -> Iterator["Redis"]:
    """A client of the embedded server; the database is emptied afterwards."""
    with Redis.from_url(valkey_url, decode_responses=True) as redis:
        yield redis
        redis.flushdb()


def test_every_promise_holds(server: "Redis", valkey_url: str) -> None:
    outcomes = [run_seed(seed, server, valkey_url) for seed in SEEDS]
    assert {o.seed: o.violations for o in outcomes if o.violations} == {}


@pytest.mark.parametrize("seed", [2, 327])
def test_a_seed_repeats_exactly(seed: int, server: "Redis", valkey_url: str) -> None:
    first = run_seed(seed, server, valkey_url)
    assert run_seed(seed, server, valkey_url) == first


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_detected(mutant: Mutant, server: "Redis", valkey_url: str) -> None:
    for before, _ in mutant.scripts:
        assert any(before in text for text in loaded_texts().values()), f"no script has: {before}"
    assert is_detected(mutant, mutant.seed, server, valkey_url)
