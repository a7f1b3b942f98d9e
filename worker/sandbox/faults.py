"""Faults: which call gets which one. `simulation` and `delivery` carry them out.

Chance depends on the seed, the operation, the target and how many calls of the operation the target
has had, so that a replay does not depend on how calls interleave.
"""

from collections import Counter
from dataclasses import dataclass

from worker.sandbox.api import Operation, Target
from worker.sandbox.draws import draw
from worker.sandbox.scenario import FaultKind, Scenario
from worker.sandbox.targets import Targets

# These answer, or break the connection, without carrying the call out.
NOT_EXECUTED = frozenset(
    {
        FaultKind.ERROR_504_BEFORE,
        FaultKind.ERROR_500,
        FaultKind.HTML_502,
        FaultKind.RESET_BEFORE,
    }
)
# These alter a 200, and do nothing to another answer.
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
    """The faults of one call: its own, and the one that hides its target's young jobs."""

    fault: FaultKind | None = None
    standing: FaultKind | None = None


class Faults:
    """Plans each admitted call; throttled ones do not count, lest timing change the replay."""

    def __init__(self, scenario: Scenario, targets: Targets) -> None:
        self._scenario = scenario
        self._targets = targets
        self._calls: Counter[tuple[Operation, Target]] = Counter()

    def plan(self, operation: Operation, target: Target) -> Plan:
        """Plan the next call of this operation on this target."""
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
            # Drawn per target, not per call: a job that has been seen must not vanish again.
            chance = draw(self._scenario.seed, "standing", kind, target.path)
            if kind.is_standing and chance < probability:
                return kind
        return None
