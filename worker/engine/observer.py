"""What the engine tells an observer about imports and lanes. The runtime passes the observer."""

from typing import Final, Protocol

from worker.domain.claims import Claim
from worker.domain.decisions import Decision
from worker.domain.outcomes import Verdict
from worker.domain.recording import Recorded


class Observer(Protocol):
    """Takes notes. Its methods return at once and never raise."""

    def admitted(self, verdict: Verdict, operation: str) -> None:
        """Note how a request was admitted. Repeating an admission gives another verdict."""
        ...

    def recorded(self, claim: Claim, decision: Decision, recorded: Recorded) -> None:
        """Note a decision on a claim, and the result of recording it."""
        ...


class _Nobody:
    def admitted(self, verdict: Verdict, operation: str) -> None: ...

    def recorded(self, claim: Claim, decision: Decision, recorded: Recorded) -> None: ...


NOBODY: Final[Observer] = _Nobody()
