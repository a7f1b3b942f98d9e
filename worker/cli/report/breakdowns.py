"""The parts of the report that list: outcomes, reasons, slowest imports, lanes, settings."""

from collections.abc import Sequence
from typing import Final

from worker.cli.advice import Advice
from worker.cli.report.course import quota_text
from worker.cli.report.figures import duration
from worker.cli.report.gather import Gathered, LaneUse, Reason
from worker.cli.report.markup import Html, clipped, join, table, tag
from worker.cli.report.times import moment
from worker.cli.scheduling import described
from worker.domain.imports import Import
from worker.domain.states import State
from worker.store.batchview import BatchSettings

REASONS_SHOWN: Final = 20
LANES_SHOWN: Final = 50


def outcomes(found: Gathered) -> Html:
    """Return the section with the number of imports in each state."""
    counts = found.counts
    numbers: dict[str, int] = {state: number for state, number in counts.by_state.items() if number}
    if counts.known:
        numbers["known"] = counts.known
    if counts.not_arrived:
        numbers["not arrived yet"] = counts.not_arrived
    total = sum(numbers.values())
    rows = [
        (name.replace("_", " "), f"{number:,}", _share(number, total))
        for name, number in numbers.items()
    ]
    note = (
        "Known: requests for imports that belong to other batches and are reported there."
        if counts.known
        else ""
    )
    title = tag("h2", "Outcomes")
    if not rows:
        return tag("section", title, tag("p", "The batch has no imports."))
    columns = ("state", "imports", "share")
    body = table(f"{total:,} imports by state", columns, rows, numbers=(1,))
    return tag("section", title, body, tag("p", note, class_="quiet") if note else "")


def _share(part: int, whole: int) -> Html:
    """Return a share as a percentage, and as a bar that repeats it for the eye."""
    percent = 100 * part / whole
    text = "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"
    bar = tag("span", style=f"width:{percent:.1f}%")
    return tag("div", tag("span", text), tag("span", bar, aria_hidden="true"), class_="share")


def failures(found: Gathered) -> Html:
    """Return the section on imports that did not succeed: by reason, with the next step."""
    title = tag("h2", "What did not succeed")
    if not found.reasons:
        text = "Every import that has ended succeeded." if found.ends_ms else "No import has ended."
        if found.counts.unsuccessful:
            text = "The records of all imports that did not succeed have expired."
        return tag("section", title, tag("p", text))
    reasons = sorted(found.reasons.values(), key=lambda each: -each.count)
    rows = [_reason_row(found, each) for each in reasons[:REASONS_SHOWN]]
    columns = ("reason", "outcome", "imports", "next step")
    number = sum(each.count for each in reasons)
    return tag(
        "section",
        title,
        tag("p", "Reasons are shown with … in place of the names of the single import."),
        table(f"{number:,} imports by reason", columns, rows, numbers=(2,)),
        _more_reasons(found, reasons[REASONS_SHOWN:]),
    )


def _reason_row(found: Gathered, each: Reason) -> Sequence[str]:
    names = ", ".join(each.examples) + (", …" if each.count > len(each.examples) else "")
    sample = tag("span", names, class_="sample")
    return (
        join([each.text, sample]),
        each.state.replace("_", " "),
        f"{each.count:,}",
        _next_step(found.counts.batch_id, each),
    )


def _next_step(batch_id: str, each: Reason) -> Html:
    match each.advice:
        case Advice.RETRIED:
            return join(["nothing; retried in batch ", tag("code", each.retry_batch_id)])
        case Advice.SUCCEEDED_LATE:
            return join(["nothing; the jobs succeeded after the imports had ended"])
        case Advice.FIX_REQUEST:
            return join(["fix the requests and submit them under another batchId"])
    chosen = " --cancelled" if each.state is State.CANCELLED else ""
    command = tag("code", f"amplify-import retry {batch_id}{chosen}")
    return join(["fix the cause, then: ", command])


def _more_reasons(found: Gathered, rest: Sequence[Reason]) -> Html:
    if not rest:
        return Html("")
    number = sum(each.count for each in rest)
    command = tag("code", f"amplify-import status {found.counts.batch_id} --failed")
    text = f"… and {len(rest):,} more reasons, for {number:,} imports: "
    return tag("p", text, command)


def slowest(found: Gathered) -> Html:
    """Return the section on the imports that ran longest."""
    ordered = sorted(found.slowest, key=lambda entry: (-entry[0], entry[1]))
    rows = [_slow_row(seconds, item) for seconds, _, item in ordered]
    title = tag("h2", "Slowest imports")
    if not rows:
        return tag("section", title, tag("p", "No import has started and ended."))
    columns = ("import", "target", "lane", "outcome", "waited", "ran")
    body = table("The imports that ran longest", columns, rows, numbers=(4, 5))
    return tag("section", title, body)


def _slow_row(seconds: float, item: Import) -> Sequence[str]:
    waited = max(0, item.started_at_ms - item.accepted_at_ms) / 1000
    state = item.state.replace("_", " ")
    target = clipped(item.target)
    return item.id, target, clipped(item.lane), state, duration(waited), duration(seconds)


def lanes(found: Gathered) -> Html:
    """Return the section on the lanes of the batch."""
    ordered = sorted(found.lanes.items(), key=lambda pair: (-pair[1].imports, pair[0]))
    rows = [_lane_row(name, lane) for name, lane in ordered[:LANES_SHOWN]]
    columns = ("lane", "imports", "did not succeed", "not ended", "quota", "429s", "state now")
    more = len(ordered) - LANES_SHOWN
    return tag(
        "section",
        tag("h2", "Lanes"),
        tag("p", "The 429s of a lane are those of all its batches."),
        table("Lanes of the batch", columns, rows, numbers=(1, 2, 3, 5)),
        tag("p", f"… and {more:,} more lanes.") if more > 0 else "",
    )


def _lane_row(name: str, lane: LaneUse) -> Sequence[str]:
    view = lane.view
    throttled = view.throttling.total if view and view.throttling else 0
    state = f"paused: {view.paused_reason}" if view and view.paused_reason else "open"
    return (
        clipped(name),
        f"{lane.imports:,}",
        f"{lane.unsuccessful:,}",
        f"{lane.unfinished:,}",
        quota_text(view),
        f"{throttled:,}",
        clipped(state),
    )


def settings(found: Gathered) -> Html:
    """Return the section on how the batch was submitted."""
    counts, rule = found.counts, found.settings
    announced = f"{counts.expected:,}" if counts.expected else "not announced"
    rows = [
        ("imports announced", announced),
        ("canary", f"the first {rule.canary:,} imports" if rule.canary else "none"),
        ("stop rule", _stop_rule(rule)),
        ("schedule", described(counts.schedule) or "none"),
        ("pauses", _pauses(found)),
        ("paused now", _paused(found)),
    ]
    return tag(
        "section",
        tag("h2", "Settings of the batch"),
        table("How the batch was submitted, and its pauses", ("setting", "value"), rows),
    )


def _stop_rule(rule: BatchSettings) -> str:
    if rule.stop_percent is not None:
        return f"pause when more than {rule.stop_percent:g} % did not succeed"
    return "pause when a canary does not succeed" if rule.canary else "none"


def _pauses(found: Gathered) -> str:
    number, shown = found.settings.pauses, len(found.pauses)
    lost = f" ({number - shown:,} no longer in the event stream)" * (number > shown)
    return f"{number:,}{lost}" if number else "none"


def _paused(found: Gathered) -> str:
    if not found.counts.is_paused:
        return "no"
    since = moment(found.settings.paused_at_ms)
    return f"since {since}: {found.counts.paused_reason}"
