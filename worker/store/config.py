"""The settings that the scripts need."""

from dataclasses import dataclass
from typing import Any

from worker.domain.requests import DEFAULT_OPERATION
from worker.store.codec import milliseconds
from worker.store.keys import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """The store's configuration."""

    retention_seconds: float
    events_max_length: int
    lease_seconds: float
    settle_seconds: float
    operations: tuple[str, ...] = (DEFAULT_OPERATION,)
    """The operations that this process knows. Imports of others are left to workers of a later
    release."""
    event_source: str = "amplify-import-worker"
    """The CloudEvents `source` of every event."""
    replicated: bool = False
    """Whether a replica may take over from the server."""

    def for_scripts(self) -> dict[str, Any]:
        """Return the configuration by the names that scripts use."""
        return {
            "retention_ms": milliseconds(self.retention_seconds),
            "events_max_length": self.events_max_length,
            "lease_ms": milliseconds(self.lease_seconds),
            "settle_ms": milliseconds(self.settle_seconds),
            "source": self.event_source,
            "format": FORMAT,
            "operations": dict.fromkeys(self.operations, 1),
        }
