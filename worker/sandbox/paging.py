"""Pages of ListBackendJobs: newest first, and tokens that stay right while jobs are added."""

import re
from dataclasses import dataclass
from math import inf

from worker.sandbox.api import bad_request
from worker.sandbox.jobs import Job

DEFAULT_PAGE_SIZE = 25

_TOKEN = re.compile(r"(?P<below>\d{1,15}|start)\.(?P<empty>\d{1,9})")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: below which job number, and after how many more empty pages."""

    below: float = inf
    empty_pages: int = 0

    @property
    def token(self) -> str:
        """Write it for the client, who need not understand it."""
        below = "start" if self.below == inf else int(self.below)
        return f"{below}.{self.empty_pages}"

    @classmethod
    def from_token(cls, token: str) -> "Position":
        """Read a token; raises the 400 of one that was not ours."""
        match = _TOKEN.fullmatch(token)
        if not match:
            raise bad_request("Member nextToken is not a token of this API.")
        below = inf if match["below"] == "start" else float(match["below"])
        return cls(below, int(match["empty"]))


def page(jobs: list[Job], position: Position, size: int) -> tuple[list[Job], Position | None]:
    """Cut the page at a position out of a target's jobs (oldest first), and say what follows."""
    if position.empty_pages:
        return [], Position(position.below, position.empty_pages - 1)
    rest = [job for job in reversed(jobs) if job.number < position.below]
    chosen = rest[:size]
    following = Position(chosen[-1].number) if len(rest) > size else None
    return chosen, following
