"""What lanes have observed about AWS's jobs, as `lanes --facts` and `doctor` show it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from config.settings import Settings
from worker.cli.checks import Check, Verdict
from worker.cli.lanelist import span
from worker.domain.facts import LaneFacts, Names, Times
from worker.domain.polling import Durations
from worker.store.laneview import LaneView

NOT_YET: Final = "not seen yet"
UNDECIDED_SHOWN: Final = 3
SUSPECTS_REMEDY: Final = (
    "if it is final, add it to IMPORTS_SUCCESS_STATUSES or IMPORTS_FAILURE_STATUSES and restart"
    " the workers"
)


def facts_as_json(facts: LaneFacts) -> dict[str, Any]:
    """Return the facts for JSON output. Facts that are not known yet are null or empty."""
    return {
        "operations": sorted(_all_of(facts.operations)),
        "listOperations": sorted(_all_of(facts.list_operations)),
        "statuses": sorted(facts.statuses),
        "longestSecondsInStatus": dict(sorted(facts.left.items())),
        "suspectedFinalStatuses": sorted(facts.suspects),
        "creationTimeQuality": facts.times,
        "timeFormat": facts.time_format or None,
        "listLagSeconds": facts.list_lag_seconds,
        "showsFinishedJobs": facts.lists_finished,
        "longestJobSeconds": facts.longest_job_seconds or None,
        "jobSeconds": {
            operation: {
                "p10": round(durations.quantile(0.1), 3),
                "p50": round(durations.quantile(0.5), 3),
                "p90": round(durations.quantile(0.9), 3),
            }
            for operation, durations in sorted(facts.durations.items())
            if durations.are_enough
        },
    }


def facts_as_text(lane: LaneView) -> str:
    """Return a lane's facts as lines of text, after its name."""
    rows = (f"  {name:14} {value}" for name, value in _rows(lane.facts))
    return "\n".join((lane.name, *rows))


def fact_checks(lanes: Sequence[LaneView], settings: Settings) -> Iterator[Check]:
    """Yield a warning for each setting that does not fit the facts of a lane."""
    final = settings.success_statuses | settings.failure_statuses
    for lane in lanes:
        if suspects := lane.facts.suspects - final:
            words = ", ".join(sorted(suspects))
            detail = f"jobs stay in {words} although jobs in other statuses move on"
            yield Check(f"statuses of {lane.name}", Verdict.WARN, detail, SUSPECTS_REMEDY)
        lag = lane.facts.list_lag_seconds or 0.0
        if lag > settings.settle_seconds:
            detail = f"a list did not show a job that was {lag:.0f} s old"
            remedy = f"set IMPORTS_SETTLE_SECONDS to {math.ceil(2 * lag)} or more"
            yield Check(f"job lists of {lane.name}", Verdict.WARN, detail, remedy)


def undecided_checks(undecided: Sequence[str]) -> Iterator[Check]:
    """Yield a failed check if imports wait for an operator to decide."""
    if undecided:
        shown = ", ".join(undecided[:UNDECIDED_SHOWN])
        more = len(undecided) - UNDECIDED_SHOWN
        detail = f"{len(undecided):,} waiting for a decision: {shown}" + (
            f" and {more:,} more" if more > 0 else ""
        )
        remedy = "see amplify-import explain IMPORT, then amplify-import resolve IMPORT"
        yield Check("undecided imports", Verdict.FAIL, detail, remedy)


def _rows(facts: LaneFacts) -> Iterator[tuple[str, str]]:
    yield "operation name", _words(_all_of(facts.operations))
    if facts.list_operations:
        yield "name in lists", _words(_all_of(facts.list_operations))
    statuses = (_status(status, facts) for status in sorted(facts.statuses))
    yield "statuses", ", ".join(statuses) or NOT_YET
    if facts.suspects:
        yield "possibly final", f"{_words(facts.suspects)}: {SUSPECTS_REMEDY}"
    yield "createTime", _times(facts)
    yield "job lists", _lists(facts)
    longest = facts.longest_job_seconds
    yield "longest job", span(longest) if longest else NOT_YET
    for operation, durations in sorted(facts.durations.items()):
        if durations.are_enough:
            yield "most jobs", f"end {most_end(durations)} ({operation})"


def most_end(durations: Durations) -> str:
    """Return between which ages most jobs end: eight in ten."""
    return f"after {span(durations.quantile(0.1))} to {span(durations.quantile(0.9))}"


def _status(status: str, facts: LaneFacts) -> str:
    longest = facts.left.get(status)
    return status if longest is None else f"{status} ({span(longest)} at the longest)"


def _times(facts: LaneFacts) -> str:
    match facts.times:
        case Times.UNKNOWN:
            return NOT_YET
        case Times.GOOD:
            return f"reliable; format: {facts.time_format}"
    return "missing or unreliable, so a target's jobs are listed before its first start"


def _lists(facts: LaneFacts) -> str:
    parts = []
    if facts.lists_finished is not None:
        parts.append("show finished jobs" if facts.lists_finished else "do not show finished jobs")
    if facts.list_lag_seconds is not None:
        parts.append(f"have lagged up to {span(facts.list_lag_seconds)}")
    return ", ".join(parts) or NOT_YET


def _all_of(names: Names) -> frozenset[str]:
    return frozenset().union(*names.values())


def _words(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)) or NOT_YET
