"""Stores for tests: their lanes' facts are known, and unlimited unless a test limits them."""

from collections.abc import Awaitable, Callable

from tests.support import recording
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Admission, Envelope, LaneLimits
from worker.domain.requests import ImportRequest
from worker.store.store import ImportStore


class KnownLanes(ImportStore):
    """A store whose lanes know their facts: jobs report their age, lists show finished jobs."""

    async def admit(self, envelope: Envelope, request: ImportRequest, region: str) -> Admission:
        """Admit a request into a lane whose facts are known."""
        await recording.learn(self, f"{request.account}/{region}", SEEN)
        return await super().admit(envelope, request, region)


SEEN = LaneFacts(times=Times.GOOD, list_lag_seconds=0.0, lists_finished=True)
MakeStore = Callable[..., Awaitable[ImportStore]]
GENEROUS = LaneLimits(start_rate=1000, start_burst=1000, poll_rate=1000, poll_burst=1000)
