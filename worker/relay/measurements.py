"""Turns what happens in a relay into measurements."""

import time
from collections.abc import Sequence

from worker.domain.claims import Claim
from worker.domain.imports import Import
from worker.metrics import relay_catalogue as of
from worker.metrics.catalogue import SCRIPT_SECONDS
from worker.metrics.registry import Recorder
from worker.relay.sink import Fault
from worker.store.relays import Settlement


class RelayMeasurements:
    """Observes the deliveries of a relay, and its scripts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.store_answered_at: float | None = None
        """When the store answered last (`time.monotonic`); None until it has."""

    def attempted(self, sink: str, seconds: float) -> None:
        """Observe a call to a sink."""
        self._recorder.add(of.SEND_SECONDS, seconds, sink)

    def failed(self, sink: str, fault: Fault) -> None:
        """Count an attempt to send an event that failed."""
        self._recorder.add(of.FAILURES, 1, sink, fault)

    def settled(self, sink: str, settlement: Settlement) -> None:
        """Count what became of events."""
        for result, entries in (
            ("delivered", settlement.delivered),
            ("skipped", settlement.skipped),
            ("parked", settlement.parked),
        ):
            if entries:
                self._recorder.add(of.SENT, len(entries), sink, result)

    def lost(self, sink: str, events: int) -> None:
        """Count events that were trimmed off the stream."""
        self._recorder.add(of.LOST, events, sink)

    def ran(self, script: str, seconds: float) -> None:
        """Observe how long a script of the store took."""
        self.store_answered_at = time.monotonic()
        self._recorder.add(SCRIPT_SECONDS, seconds, script)

    def claimed(self, claims: Sequence[Claim], expired_leases: int) -> None:
        """Do nothing: a relay claims no imports."""

    def learned_of_end(self, item: Import) -> None:
        """Do nothing: a relay ends no imports."""
