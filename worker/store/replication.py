"""Scripts of a store whose primary may be replaced by a replica: what they wrote is on one, or not.

A failover forgets what no replica has. What must not be forgotten is waited for (docs/decisions,
0010).
"""

import json
from enum import StrEnum
from typing import Any, Final

import structlog
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, ResponseError

from worker.store.connection import translated
from worker.store.scripts import Scripts

log = structlog.get_logger()

REPLICATION_MS: Final = 1000
"""How long a write may take to reach a replica."""

ALONE_MS: Final = 1
"""The same where there was no replica a moment ago; one that has come since is seen anyway."""


class Safety(StrEnum):
    """What a failover would do to what was just written."""

    REPLICATED = "replicated"
    ALONE = "alone"  # no replica is there to take over
    UNREPLICATED = "unreplicated"  # one is, and would know nothing of it


class ReplicatedScripts(Scripts):
    """The scripts of a store with replicas."""

    _safety = Safety.REPLICATED

    @translated
    async def call_replicated(self, name: str, **args: Any) -> tuple[Any, bool]:
        """Run `name` and wait until a replica has what it wrote; tell whether it may be relied on.

        It may where the primary has no replica, too: to wait for one would stop everything.
        """
        script, text = self._scripts[name], json.dumps(args)
        reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, NoScriptError):
            await self._redis.script_load(script.script)
            reply, copies, role = await self._run_and_wait(script, text)
        if isinstance(reply, ResponseError):
            raise reply
        self._note(_judge(copies, role))
        return reply, self._safety is not Safety.UNREPLICATED

    async def _run_and_wait(self, script: AsyncScript, text: str) -> list[Any]:
        # One connection: WAIT is about what its own connection wrote, and a moment later another
        # server may be the primary. And one round trip.
        wait_ms = ALONE_MS if self._safety is Safety.ALONE else REPLICATION_MS
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(script.sha, 0, text)
            pipeline.wait(1, wait_ms)
            pipeline.execute_command("ROLE")
            return list(await pipeline.execute(raise_on_error=False))

    def _note(self, safety: Safety) -> None:
        if safety is not self._safety:
            level = log.info if safety is Safety.REPLICATED else log.warning
            level(f"store.{safety}")
        self._safety = safety


def _judge(copies: Any, role: Any) -> Safety:
    """Judge by the replies to WAIT and ROLE; the first is an error where a primary was demoted."""
    if isinstance(copies, int) and copies > 0:
        return Safety.REPLICATED
    kind, _, *replicas = role
    return Safety.ALONE if kind == "master" and replicas == [[]] else Safety.UNREPLICATED
