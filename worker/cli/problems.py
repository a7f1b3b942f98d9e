"""Lists the problems of a batch file for people."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from worker.cli.accounts import ACCOUNT
from worker.cli.batchfile import Problem

PROBLEMS_SHOWN: Final = 20
LINES_SHOWN: Final = 5


def lines_about(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a line for each of the first problems, and for each account that can't be used.

    Many rows may have the same account, and each such account has to be configured.
    """
    others = [problem for problem in problems if problem.member != ACCOUNT]
    yield from map(str, others[:PROBLEMS_SHOWN])
    if (more := len(others) - PROBLEMS_SHOWN) > 0:
        yield f"... and {more:,} more problems"
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for problem in problems:
        if problem.member == ACCOUNT:
            rows[problem.reason].append(problem.line)
    for reason, lines in rows.items():
        yield f"{_place(lines)}: {ACCOUNT}: {reason}"


def _place(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    more = len(lines) - LINES_SHOWN
    return f"line{'s' if len(lines) > 1 else ''} {shown}" + (
        f" and {more:,} more" if more > 0 else ""
    )
