"""Decides which call gets which fault. `simulation` and `delivery` carry the faults out.

A random fault depends on the seed, the operation, the target, and the number of earlier calls of
this operation for this target. So a replay does not depend on how calls interleave.
"""

from collections import Counter
from dataclasses import dataclass

from worker.sandbox.api import Operation, Target
from worker.sandbox.draws import draw
from worker.sandbox.scenario import FaultKind, Scenario
from worker.sandbox.targets import Targets

# Calls with these faults are not executed: they get an error, or their connection breaks.
NOT_EXECUTED = frozenset(
    {
        FaultKind.ERROR_504_BEFORE,
        FaultKind.ERROR_500,
        FaultKind.HTML_502,
        FaultKind.RESET_BEFORE,
    }
)
# These faults alter an answer with status 200. They do not affect other answers.
NEED_SUCCESS = frozenset(
    {
        FaultKind.TRUNCATED,
        FaultKind.NO_JOB_ID,
        FaultKind.UNKNOWN_STATUS,
        FaultKind.EMPTY_PAGES,
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one call: its own (`fault`), and one that hides young jobs (`standing`)."""

    fault: FaultKind | None = None
    standing: FaultKind | None = None


class Faults:
    """Plans the faults of each admitted call.

    Throttled calls do not count, because otherwise their timing would change a replay.
    """

    def __init__(self, scenario: Scenario, targets: Targets) -> None:
        self._scenario = scenario
        self._targets = targets
        self._calls: Counter[tuple[Operation, Target]] = Counter()

    def plan(self, operation: Operation, target: Target) -> Plan:
        """Return the faults of the next call of this operation for this target."""
        script = self._targets.script_of(target)
        if script:
            return Plan(
                script.next_fault(operation, target, standing=False),
                script.next_fault(operation, target, standing=True),
            )
        self._calls[operation, target] += 1
        return Plan(self._fault(operation, target), self._standing(operation, target))

    def _fault(self, operation: Operation, target: Target) -> FaultKind | None:
        number = self._calls[operation, target]
        rest = draw(self._scenario.seed, "fault", operation, target.path, number)
        for kind, probability in self._scenario.faults.get(operation, {}).items():
            if kind.is_standing:
                continue
            rest -= probability
            if rest < 0:
                return kind
        return None

    def _standing(self, operation: Operation, target: Target) -> FaultKind | None:
        for kind, probability in self._scenario.faults.get(operation, {}).items():
            # Drawn per target, not per call: a job that a call has shown must not disappear again.
            chance = draw(self._scenario.seed, "standing", kind, target.path)
            if kind.is_standing and chance < probability:
                return kind
        return None
