"""Scripts of a store whose primary may be replaced by a replica: what they wrote is on one, or not.

A failover forgets what the new primary was not told. What must not be forgotten is waited for
(docs/decisions/0010).
"""

import json
import time
from typing import Any, Final

import structlog
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, ResponseError

from worker.store.connection import translated
from worker.store.scripts import Scripts

log = structlog.get_logger()

REPLICATION_MS: Final = 1000
"""How long a write may take to reach the replicas."""

MISSING_SECONDS: Final = 30.0
"""How long a replica that went away is still waited for: it may have become the primary.

Sentinels demote the old one some ten seconds later; until then it takes writes to be forgotten."""


class ReplicatedScripts(Scripts):
    """The scripts of a store with replicas."""

    _expected = 1
    _fewer_since: float | None = None
    _lasts = True

    @translated
    async def call_replicated(self, name: str, **args: Any) -> tuple[Any, bool]:
        """Run `name` and wait until all replicas have what it wrote; tell whether they have.

        Replicas are those that were connected within the last `MISSING_SECONDS`. Without any there
        is none that could take over, and nothing to wait for.
        """
        script, text = self._scripts[name], json.dumps(args)
        reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, NoScriptError):
            await self._redis.script_load(script.script)
            reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, ResponseError):
            raise reply
        return reply, self._judge(copies, role)

    async def _run_and_wait(self, script: AsyncScript, text: str) -> list[Any]:
        # One connection: WAIT is about what its own connection wrote, and a moment later another
        # server may be the primary. And one round trip.
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(script.sha, 0, text)
            pipeline.wait(self._expected, REPLICATION_MS)
            pipeline.execute_command("ROLE")
            return list(await pipeline.execute(raise_on_error=False))

    def _judge(self, copies: Any, role: Any) -> bool:
        """Judge by the replies to WAIT and ROLE; WAIT fails where a primary was demoted."""
        kind, _, *rest = role
        is_primary = kind == "master" and not isinstance(copies, ResponseError)
        if is_primary:
            self._expect(len(rest[0]))
        lasts = is_primary and copies >= self._expected
        if lasts != self._lasts:
            self._lasts = lasts
            level, state = (log.info, "replicated") if lasts else (log.warning, "unreplicated")
            level(f"store.{state}", replicas=self._expected)
        return lasts

    def _expect(self, present: int) -> None:
        """Expect as many replicas as there are, or were until lately."""
        now = time.monotonic()
        if present >= self._expected:
            self._expected, self._fewer_since = present, None
        elif self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since > MISSING_SECONDS:
            log.warning("store.replica_missing", replicas=present, before=self._expected)
            self._expected, self._fewer_since = present, None
