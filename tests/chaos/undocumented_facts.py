"""The behavior of the API in a chaos run where AWS documents nothing: `--facts NAME`."""

from typing import Any, Final

from worker.domain.facts import LaneFacts, Times
from worker.sandbox.scenario import Scenario
from worker.sandbox.undocumented import TimeStyle, Undocumented

FACT_SETS: Final[dict[str, dict[str, Any]]] = {
    "drawn": {},
    "no-times": {"times": "absent", "list_order": "shuffled"},
    "no-zone": {"times": "iso-no-zone", "operation": "IMPORT", "list_operation": "Import auth"},
    "deaf-filter": {"operation_filter": "nothing", "times": "http-date", "list_order": "oldest"},
    "others": {"other_jobs": 0.5, "others_running": 0.3, "others_block": True, "times": "absent"},
}
"""Name → facts; the seed determines facts that are not given."""

_chosen: dict[str, Any] = {}


def choose_facts(name: str) -> None:
    """Let every scenario of this process use these facts."""
    _chosen.clear()
    _chosen.update(FACT_SETS[name])


def with_chosen_facts(scenario: Scenario) -> Scenario:
    """Return a scenario with the chosen facts instead of its own."""
    if not _chosen:
        return scenario
    return scenario.model_copy(update={"undocumented": Undocumented.model_validate(_chosen)})


def learned_facts() -> LaneFacts:
    """Return what a lane has learned of the chosen facts after its first imports."""
    tells_age = _chosen.get("times") not in {TimeStyle.ABSENT, TimeStyle.ISO_NO_ZONE}
    return LaneFacts(times=Times.GOOD if tells_age else Times.BAD, lists_finished=True)
