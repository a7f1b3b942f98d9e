"""The report as one HTML file that needs nothing else: no script, font, image or style sheet."""

from importlib.resources import files
from typing import Final

from worker.cli.report.breakdowns import failures, lanes, outcomes, settings, slowest
from worker.cli.report.course import durations, throughput, timeline
from worker.cli.report.figures import duration
from worker.cli.report.gather import Gathered
from worker.cli.report.markup import Html, join, tag
from worker.cli.report.times import moment
from worker.cli.scheduling import reason_to_wait
from worker.domain.states import UNFINISHED, State

_STYLE: Final = files("worker.cli.report") / "report.css"
# Even if a text of a hostile producer were not escaped, the page would load and run nothing.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def page(found: Gathered) -> Html:
    """Return the report of a batch."""
    title = f"Batch {found.counts.batch_id}"
    head = (
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", f"{title}: import report"),
        tag("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    body = (_opening(found), *_sections(found), _footer(found))
    document = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return Html(f"<!DOCTYPE html>\n{document}\n")


def _opening(found: Gathered) -> Html:
    counts = found.counts
    lead = (
        f"{counts.by_state[State.SUCCEEDED]:,} of {counts.total:,} imports succeeded, "
        f"{counts.unsuccessful:,} did not succeed"
    )
    lead += f", {counts.left:,} have not ended." if counts.left else "."
    notices = [*_missing(found), *_expired(found)]
    return tag(
        "header",
        tag("h1", f"Batch {counts.batch_id}"),
        tag("p", lead, class_="lead"),
        tag("p", _period(found), class_="quiet"),
        tag("div", *(tag("p", notice) for notice in notices), class_="notice", role="note")
        if notices
        else "",
    )


def _period(found: Gathered) -> str:
    if not found.read:
        return f"Read on {moment(found.read_at_ms)}."
    took = duration((found.last_ms - found.first_ms) / 1000)
    if found.is_over:
        return (
            f"From {moment(found.first_ms)}, when the first import was accepted, to"
            f" {moment(found.last_ms)}, when the last one ended: {took}."
        )
    return (
        f"The first import was accepted on {moment(found.first_ms)}; the batch was read on"
        f" {moment(found.read_at_ms)}, {took} later."
    )


def _missing(found: Gathered) -> list[Html]:
    """Return what the report lacks because the batch has not ended."""
    counts = found.counts
    if found.is_over:
        return []
    under_way = {state: counts.by_state[state] for state in State if state in UNFINISHED}
    parts = [f"{number:,} {state}" for state, number in under_way.items() if number]
    if counts.not_arrived:
        parts.append(f"{counts.not_arrived:,} not arrived yet")
    listed = f": {', '.join(parts)}" if parts else ""
    missing = (
        f" Missing from this report are the ends of {counts.left:,} imports{listed}."
        " All figures are as of the time at which the batch was read."
    )
    notices = [join([tag("strong", "The batch has not ended."), missing])]
    if counts.is_paused:
        resume = tag("code", f"amplify-import batches resume {counts.batch_id}")
        notices.append(join([f"It is paused: {counts.paused_reason}. To resume it: ", resume]))
    elif reason := reason_to_wait(counts):
        notices.append(join([f"Scheduled: {reason}."]))
    elif counts.canary:
        notices.append(
            join([f"Its first {counts.canary:,} imports run alone; {counts.held:,} wait for them."])
        )
    if found.undecided:
        how = tag("code", "amplify-import explain IMPORT")
        notices.append(
            join([f"{found.undecided:,} wait for an operator to decide. To see how: ", how])
        )
    return notices


def _expired(found: Gathered) -> list[Html]:
    if not found.expired:
        return []
    left_out = (
        " and are no longer in the store. Those imports are counted under Outcomes; everything else"
        " on this page leaves them out."
    )
    return [join([tag("strong", f"{found.expired:,} records have expired"), left_out])]


def _sections(found: Gathered) -> list[Html]:
    sections = [outcomes(found), failures(found)]
    if found.read:
        sections += [timeline(found), throughput(found), durations(found)]
        sections += [slowest(found), lanes(found)]
    return [*sections, settings(found)]


def _footer(found: Gathered) -> Html:
    command = tag("code", f"amplify-import report {found.counts.batch_id} -o FILE")
    return tag(
        "footer",
        tag(
            "p",
            "Times are in UTC, on the clock of the store. An import waits from its acceptance"
            " until its job is known, and runs from then until its end. Written by ",
            command,
            f" on {moment(found.read_at_ms)}.",
        ),
    )
