"""Group commit: answers that arrive while a script records others are recorded together next."""

import asyncio
from collections import defaultdict
from typing import Any, Final

from worker.store.connection import StoreUnavailableError
from worker.store.scripts import Reply, Scripts

RECORDED_AT_ONCE: Final = 50
"""A script blocks the server until its last answer is recorded."""

_Waiting = tuple[dict[str, Any], "asyncio.Future[Reply]"]


class GroupCommit:
    """Gathers answers for the scripts that record them; each script runs once at a time.

    Each answer keeps its own reply, and its own failure. An answer that comes alone does not wait.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        self._commits: dict[str, asyncio.Task[None]] = {}

    async def record(self, script: str, answer: dict[str, Any]) -> Reply:
        """Record an answer with a script, perhaps together with other answers.

        The answer is recorded even if the caller is cancelled.

        Raises:
            StoreUnavailableError: if the server can't be reached or refuses.

        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self._waiting[script].append((answer, reply))
        if script not in self._commits:  # a task begins after all answers that have arrived already
            self._commits[script] = loop.create_task(
                self._commit_all(script), name=f"record {script}"
            )
        return await reply

    async def _commit_all(self, script: str) -> None:
        waiting = self._waiting[script]
        while waiting:
            group = waiting[:RECORDED_AT_ONCE]
            del waiting[:RECORDED_AT_ONCE]
            await self._commit(script, group)
        del self._commits[script]

    async def _commit(self, script: str, group: list[_Waiting]) -> None:
        results: list[Reply | Exception]
        try:
            reply = await self._scripts.call(script, answers=[answer for answer, _ in group])
        except Exception as error:  # noqa: BLE001 - whoever waits for a reply handles it
            results = [error] * len(group)
        else:
            results = [_result(each) for each in reply["replies"]]
        for (_, waiting), result in zip(group, results, strict=True):
            if waiting.done():  # the caller was cancelled
                continue
            if isinstance(result, Exception):
                waiting.set_exception(result)
            else:
                waiting.set_result(result)


def _result(reply: Reply) -> Reply | Exception:
    return StoreUnavailableError(reply["error"]) if "error" in reply else reply
