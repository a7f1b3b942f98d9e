"""Pages of ListBackendJobs, in any order; tokens stay right while jobs are added."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from worker.sandbox.api import bad_request
from worker.sandbox.jobs import Job

DEFAULT_PAGE_SIZE = 25

_TOKEN = re.compile(r"(?P<after>-?\d{1,15}|start)\.(?P<empty>\d{1,9})")

Rank = Callable[[Job], int]
"""A job's place in the order of a list; none is another one's."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: after which rank, and after how many more empty pages."""

    after: float = -inf
    empty_pages: int = 0

    @property
    def token(self) -> str:
        """Write it for the client, who need not understand it."""
        after = "start" if self.after == -inf else int(self.after)
        return f"{after}.{self.empty_pages}"

    @classmethod
    def from_token(cls, token: str) -> "Position":
        """Read a token; raises the 400 of one that was not ours."""
        match = _TOKEN.fullmatch(token)
        if not match:
            raise bad_request("Member nextToken is not a token of this API.")
        after = -inf if match["after"] == "start" else float(match["after"])
        return cls(after, int(match["empty"]))


def page(
    jobs: list[Job], position: Position, size: int, rank: Rank
) -> tuple[list[Job], Position | None]:
    """Cut the page at a position out of a target's jobs, and say what follows."""
    if position.empty_pages:
        return [], Position(position.after, position.empty_pages - 1)
    rest = sorted((job for job in jobs if rank(job) > position.after), key=rank)
    chosen = rest[:size]
    following = Position(rank(chosen[-1])) if len(rest) > size else None
    return chosen, following
