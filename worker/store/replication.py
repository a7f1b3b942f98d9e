"""Runs scripts on a primary that a replica may replace, and checks that replicas have the writes.

A failover loses what the new primary did not receive. Workers wait for the replicas whenever a
write must not be lost (docs/decisions/0010).
"""

import json
import time
from functools import cache
from typing import Any, Final

import structlog
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, ResponseError

from worker.store.cluster import ClusterPool
from worker.store.connection import translated
from worker.store.scripts import Reply, Scripts, read_reply

log = structlog.get_logger()

REPLICATION_MS: Final = 1000
"""How long a write may take to reach the replicas."""

MISSING_SECONDS: Final = 30.0
"""How long a replica that went away is still expected, because it may have become the primary.
Sentinels demote the old primary about ten seconds later. Until then it accepts writes that will
be lost."""


def is_unknown(reply: Any) -> bool:
    """Return whether the server does not have the command, as some managed servers."""
    return isinstance(reply, ResponseError) and str(reply).startswith("unknown command")


@cache
def _warn_of_hidden_replicas() -> None:
    log.warning("store.replicas_hidden")


class ReplicatedScripts(Scripts):
    """The scripts of a store with replicas."""

    _expected = 1
    _is_new = True
    _fewer_since: float | None = None
    _lasts = True

    @translated
    async def call_replicated(self, name: str, **args: Any) -> tuple[Reply, bool]:
        """Run `name` and wait until all replicas have its writes; return whether they have.

        The replicas are those that were connected within the last `MISSING_SECONDS`. If there are
        none, none can take over, and there is nothing to wait for.
        """
        script, text = self._scripts[name], json.dumps(args)
        began = time.perf_counter()
        reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, NoScriptError):
            await self._redis.script_load(script.script)
            reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, ResponseError):
            raise reply
        self._observer.ran(name, time.perf_counter() - began)
        return read_reply(reply), self._judge(copies, role)

    async def _run_and_wait(self, script: AsyncScript, text: str) -> list[Any]:
        # WAIT is about the writes of its own connection, and a moment later another server may be
        # the primary. So all three commands use one connection and one round trip.
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(script.sha, 1, self._route, text)
            pipeline.wait(self._expected, REPLICATION_MS)
            pipeline.execute_command("ROLE")
            return list(await pipeline.execute(raise_on_error=False))

    def _judge(self, copies: Any, role: Any) -> bool:
        """Judge by the replies to WAIT and ROLE; WAIT fails if the primary was demoted."""
        if is_unknown(copies) or is_unknown(role):
            _warn_of_hidden_replicas()
            return True
        kind, _, *rest = role
        is_primary = kind == "master" and not isinstance(copies, ResponseError)
        if self._is_new and isinstance(pool := self._redis.connection_pool, ClusterPool):
            self._expected = pool.replicas
        self._is_new = False
        if is_primary:
            self._expect(len(rest[0]))
        lasts = is_primary and copies >= self._expected
        if lasts != self._lasts:
            self._lasts = lasts
            level, state = (log.info, "replicated") if lasts else (log.warning, "unreplicated")
            level(f"store.{state}", replicas=self._expected)
        return lasts

    def _expect(self, present: int) -> None:
        """Expect as many replicas as are connected, or were until recently."""
        now = time.monotonic()
        if present >= self._expected:
            self._expected, self._fewer_since = present, None
        elif self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since > MISSING_SECONDS:
            log.warning("store.replica_missing", replicas=present, before=self._expected)
            self._expected, self._fewer_since = present, None
