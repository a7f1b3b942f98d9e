"""What the store tells an observer about its scripts. The runtime passes the observer."""

from collections.abc import Sequence
from typing import Final, Protocol

from worker.domain.claims import Claim
from worker.domain.imports import Import


class StoreObserver(Protocol):
    """Takes notes. Its methods return at once and never raise."""

    def ran(self, script: str, seconds: float) -> None:
        """Note that a script replied after so many seconds, its round trip included."""
        ...

    def claimed(self, claims: Sequence[Claim], expired_leases: int) -> None:
        """Note new claims, and the number of earlier claims whose leases had ended."""
        ...

    def learned_of_end(self, item: Import) -> None:
        """Note an import that a script ended without an answer of a worker; noted once for each."""
        ...


class _Nobody:
    def ran(self, script: str, seconds: float) -> None: ...

    def claimed(self, claims: Sequence[Claim], expired_leases: int) -> None: ...

    def learned_of_end(self, item: Import) -> None: ...


NOBODY: Final[StoreObserver] = _Nobody()
