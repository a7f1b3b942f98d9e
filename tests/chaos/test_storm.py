"""A short version of the storm and freeze trials of `make chaos`, for every test run."""

import pytest

from tests.chaos.freeze import Size as FreezeSize
from tests.chaos.freeze import freeze
from tests.chaos.storm import Size as StormSize
from tests.chaos.storm import storm

SEED = 1
STORM = StormSize(
    imports=120, workers=2, spares=1, kills=3, restarts=1, lifetime_seconds=(1, 2), seconds=30
)
FREEZE = FreezeSize(imports=60, workers=2, freezes=2, must_meet_calls=False)


@pytest.mark.timeout(300)  # an import that failed as a probe waits a minute
def test_a_small_storm_breaks_no_promise() -> None:
    assert storm(SEED, STORM).violations == []


def test_a_worker_that_resumes_late_changes_nothing() -> None:
    assert freeze(SEED, FREEZE).violations == []
