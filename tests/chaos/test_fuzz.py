"""A small fuzz through each door; `python -m tests.chaos.fuzz` sends a hundred thousand."""

import pytest

from tests.chaos.fuzz import trial
from tests.chaos.messages import DOORS


@pytest.mark.parametrize("door", DOORS)
def test_mutated_messages_hurt_no_worker_and_none_is_stuck_or_lost(door: str) -> None:
    done = trial(seed=1, door=door, messages=1_500)
    assert done.violations == [], done.faults
