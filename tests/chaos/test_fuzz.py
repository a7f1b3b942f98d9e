"""A small fuzz test of each entry point; `python -m tests.chaos.fuzz` sends 100,000 messages."""

import pytest

from tests.chaos.fuzz import trial
from tests.chaos.messages import ENTRY_POINTS


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_mutated_messages_crash_no_worker_and_none_is_stuck_or_lost(entry_point: str) -> None:
    done = trial(seed=1, entry_point=entry_point, messages=600)
    assert done.violations == [], done.faults
