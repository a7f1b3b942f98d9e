"""What a lane has shown of AWS, as `lanes --facts` tells it to people and to programs."""

from collections.abc import Iterator
from typing import Any, Final

from worker.cli.lanelist import span
from worker.domain.facts import LaneFacts, Times
from worker.store.laneview import LaneView

NOT_YET: Final = "not seen yet"


def facts_as_json(facts: LaneFacts) -> dict[str, Any]:
    """Return the facts as programs read them; what was not seen yet is null or empty."""
    return {
        "operations": sorted(facts.operations),
        "listOperations": sorted(facts.list_operations),
        "statuses": sorted(facts.statuses),
        "longestSecondsInStatus": dict(sorted(facts.left.items())),
        "suspectedFinalStatuses": sorted(facts.suspects),
        "creationTimes": facts.times,
        "timeFormat": facts.time_format or None,
        "listLagSeconds": facts.list_lag_seconds,
        "listsFinishedJobs": facts.lists_finished,
        "longestJobSeconds": facts.longest_job_seconds or None,
    }


def facts_as_text(lane: LaneView) -> str:
    """Return a lane's facts as a paragraph, its name first."""
    rows = (f"  {name:13} {told}" for name, told in _rows(lane.facts))
    return "\n".join((lane.name, *rows))


def _rows(facts: LaneFacts) -> Iterator[tuple[str, str]]:
    yield "operation", _words(facts.operations)
    if facts.list_operations:
        yield "in lists", _words(facts.list_operations)
    yield "statuses", ", ".join(map(_status(facts), sorted(facts.statuses))) or NOT_YET
    if facts.suspects:
        yield "perhaps final", f"{_words(facts.suspects)}: {SUSPECTS_REMEDY}"
    yield "createTime", _times(facts)
    yield "lists", _lists(facts)
    longest = facts.longest_job_seconds
    yield "longest job", span(longest) if longest else NOT_YET


SUSPECTS_REMEDY: Final = (
    "if a status is final, add it to IMPORTS_SUCCESS_STATUSES or IMPORTS_FAILURE_STATUSES"
)


def _status(facts: LaneFacts) -> Any:
    def told(status: str) -> str:
        longest = facts.left.get(status)
        return status if longest is None else f"{status} (for {span(longest)} at most)"

    return told


def _times(facts: LaneFacts) -> str:
    match facts.times:
        case Times.UNKNOWN:
            return NOT_YET
        case Times.GOOD:
            return f"tells the age of jobs ({facts.time_format})"
    return "missing, coarse or wrong: each target's jobs are listed before its first start"


def _lists(facts: LaneFacts) -> str:
    if facts.lists_finished is None and facts.list_lag_seconds is None:
        return NOT_YET
    parts = []
    if facts.lists_finished is not None:
        parts.append("show" if facts.lists_finished else "do not show")
        parts[0] += " finished jobs"
    if facts.list_lag_seconds is not None:
        parts.append(f"lag {span(facts.list_lag_seconds)} at most")
    return ", ".join(parts)


def _words(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or NOT_YET
