"""Lists the problems of a batch file for people."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from worker.cli.accounts import ACCOUNT
from worker.cli.batchfile import Problem

PROBLEMS_SHOWN: Final = 20
LINES_SHOWN: Final = 5


def lines_about(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a line for each of the first problems, and for each cause that rows share.

    Of the latter, accounts are all named, because each of them has to be configured.
    """
    alone = [problem for problem in problems if not problem.shared]
    yield from map(str, alone[:PROBLEMS_SHOWN])
    yield from _more(len(alone) - PROBLEMS_SHOWN)
    rows: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for problem in problems:
        if problem.shared:
            rows[problem.member, problem.reason].append(problem.line)
    left_out = 0
    for number, ((member, reason), lines) in enumerate(rows.items()):
        if number < PROBLEMS_SHOWN or member == ACCOUNT:
            yield f"{_place(lines)}: {member}: {reason}"
        else:
            left_out += len(lines)
    yield from _more(left_out)


def _more(number: int) -> Iterator[str]:
    if number > 0:
        yield f"... and {number:,} more problems"


def _place(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    more = len(lines) - LINES_SHOWN
    return f"line{'s' if len(lines) > 1 else ''} {shown}" + (
        f" and {more:,} more" if more > 0 else ""
    )
