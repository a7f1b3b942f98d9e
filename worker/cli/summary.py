"""The summary of a batch, in a few lines."""

from collections.abc import Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from worker.cli.scheduling import reason_to_wait
from worker.domain.imports import Import
from worker.domain.states import TERMINAL, State
from worker.store.batchview import BatchCounts

FAILURES_SHOWN: Final = 10
UNSUCCESSFUL_STATES: Final = TERMINAL - {State.SUCCEEDED}

STYLE: Final = {
    State.WAITING: "yellow",
    State.STARTING: "cyan",
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    **dict.fromkeys(UNSUCCESSFUL_STATES, "red"),
}


def summary(
    counts: BatchCounts, failures: Sequence[Import], more_at: str = "", resume_by: str = ""
) -> RenderableType:
    """Return a batch's counts, and the first of `failures` with target and reason.

    `more_at` says where to find the other failures, `resume_by` how to resume a paused batch. The
    defaults are the commands for this.
    """
    text = Text(f"Batch {counts.batch_id}: {counts.by_state[State.SUCCEEDED]:,} of ")
    text.append(f"{counts.total:,} succeeded, {counts.unsuccessful:,} did not succeed")
    text.append(f", {left:,} not finished.\n" if (left := counts.left) else ".\n")
    for state, number in counts.by_state.items():
        if number:
            text.append(f"  {state:10}", style=STYLE[state]).append(f"{number:>10,}\n")
    if counts.known:
        text.append(f"  {'known':10}{counts.known:>10,}  imports of other batches\n")
    if counts.is_paused:
        resume_by = resume_by or f"amplify-import batches resume {counts.batch_id}"
        text.append(f"Paused: {counts.paused_reason}. ", style="yellow")
        text.append(f"To resume it: {resume_by}\n")
    elif reason := reason_to_wait(counts):
        text.append(f"Scheduled: {reason}.\n", style="yellow")
    if failures:
        text.append(failure_list(failures[:FAILURES_SHOWN]))
        if (more := counts.unsuccessful - FAILURES_SHOWN) > 0:
            text.append(f"  ... and {more:,} more: ")
            text.append(f"{more_at or f'amplify-import status {counts.batch_id} --failed'}\n")
    text.rstrip()
    return text


def failure_list(failures: Sequence[Import]) -> Text:
    """Return a line for each import that did not succeed: target, state, reason, id."""
    text = Text("Did not succeed:\n")
    width = max((len(item.target) for item in failures), default=0)
    for item in failures:
        text.append(f"  {item.target:{width}}  ")
        text.append(f"{item.state:9}", style=STYLE[item.state])
        text.append(f"  {item.error or 'no reason given'}  ").append(f"({item.id})\n", style="dim")
    return text


def exit_code_of(counts: BatchCounts) -> int:
    """Return 1 if an import of the batch did not succeed, or the batch is paused; else 0."""
    return 1 if counts.unsuccessful or counts.is_paused else 0
