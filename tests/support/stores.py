"""Stores for tests: their lanes' facts are known, and unlimited unless a test limits them.

Their clock is the server's, and tests move it on instead of waiting.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from tests.support import recording
from worker.domain.facts import LaneFacts, Times
from worker.domain.outcomes import Admission, InvalidRequest, LaneLimits, ValidRequest
from worker.store.store import ImportStore


class KnownLanes(ImportStore):
    """A store whose lanes know their facts: jobs report their age, lists show finished jobs."""

    async def admit_all(self, received: Sequence[ValidRequest | InvalidRequest]) -> list[Admission]:
        """Admit requests into lanes whose facts are known."""
        valid = [each for each in received if isinstance(each, ValidRequest)]
        for lane in dict.fromkeys(f"{each.request.account}/{each.region}" for each in valid):
            await recording.learn(self, lane, SEEN)
        return await super().admit_all(received)


_ADVANCED: Final = "test:seconds"
_SERVER_TIME: Final = "redis.call('TIME')"
_MOVED_TIME: Final = f"""(function()
  local time = {_SERVER_TIME}
  return {{ time[1] + (redis.call('GET', '{_ADVANCED}') or 0), time[2] }}
end)()"""


class TimedRedis(Redis):
    """A client whose scripts see the time of the server, moved on by `advance`.

    The ids of stream entries and the expiry of keys keep the server's own time.
    """

    def register_script(self, script: Any) -> Any:
        """Register a script; where it looks at the clock, it sees the moved time."""
        return super().register_script(script.replace(_SERVER_TIME, _MOVED_TIME))

    async def advance(self, seconds: float) -> None:
        """Move the time on."""
        await self.incrbyfloat(_ADVANCED, seconds)


SEEN = LaneFacts(times=Times.GOOD, list_lag_seconds=0.0, lists_finished=True)
MakeStore = Callable[..., Awaitable[ImportStore]]
GENEROUS = LaneLimits(start_rate=1000, start_burst=1000, poll_rate=1000, poll_burst=1000)
