"""A real store server, behind a connection on which commands and replies may be lost.

Each command runs at once and as a whole, with a pause before and after it. The scripts' only look
at the clock returns the virtual time.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from typing import Any, Final, TypeVar

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from tests.simulation.loop import EPOCH
from tests.simulation.world import World
from worker.store.connection import RETRIES
from worker.store.keys import IMPORT
from worker.store.scripts import loaded_texts

T = TypeVar("T")

CLOCK: Final = "redis.call('TIME')"
VIRTUAL: Final = (
    (CLOCK, "{ ARGV[2], ARGV[3] }"),
    ("CONFIG.events_max_length, '*',", "CONFIG.events_max_length, string.format('%.0f-*', now),"),
)
"""Where scripts use the server's time: directly, and in the id of an event."""

RETRY_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Text:
    """A script as it runs here."""

    name: str
    lua: str
    digest: str


@cache
def text_of(lua: str, changes: tuple[tuple[str, str], ...] = ()) -> Text:
    """Return a script of the store with its clock replaced by arguments, and other changes made."""
    name = next(name for name, loaded in loaded_texts().items() if lua.endswith(loaded))
    for before, after in (*VIRTUAL, *changes):
        lua = lua.replace(before, after)
    return Text(name, lua, sha1(lua.encode(), usedforsecurity=False).hexdigest())


def clock_arguments(now: float) -> list[str]:
    """Return what a script takes for the server's TIME, `now` seconds after the start."""
    microseconds = round((EPOCH + now) * 1_000_000)
    return [str(microseconds // 1_000_000), str(microseconds % 1_000_000)]


class Server:
    """An asynchronous client of the server, as far as the store needs one."""

    def __init__(self, redis: "Redis", world: World, changes: Sequence[tuple[str, str]]) -> None:
        self.redis: Any = redis
        self.connection_pool = self.redis.connection_pool
        self._world = world
        self._changes = tuple(changes)
        self.on_script: Callable[[str, dict[str, Any], Any], None] = lambda *_: None
        """Called for each script with its name, arguments and reply."""

    def register_script(self, lua: str) -> Callable[..., Any]:
        """Return a script that can be called, as redis-py does."""
        text = text_of(lua, self._changes)

        async def run(*, keys: Sequence[str], args: Sequence[str]) -> Any:
            assert keys, "a cluster needs a key to know where a script runs"
            return await self._transmit(text.name, lambda: self._run(text, args[0]))

        return run

    async def hgetall(self, key: str) -> Any:
        """Read a hash."""
        return await self._transmit("hgetall", lambda: self.redis.hgetall(key))

    async def blpop(self, keys: Sequence[str], timeout: float) -> Any:  # noqa: ASYNC109 - redis-py's signature
        """Take the first element of a list, which may be added during the wait."""
        taken = await self._transmit("lpop", lambda: self.redis.lpop(keys[0]))
        if taken is None:
            await asyncio.sleep(self._world.rng.uniform(0, timeout))
            taken = await self._transmit("lpop", lambda: self.redis.lpop(keys[0]))
        return taken

    async def _transmit(self, what: str, command: Callable[[], T]) -> T:
        """Run a command, and repeat it if its reply is lost, as redis-py does."""
        for _ in range(1 + RETRIES):
            await self._world.pause(f"{what} ...")
            if self._is_unavailable():
                self._world.note(f"{what}: the store is unavailable")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            reply = command()
            self._world.note(f"{what} -> {reply!s:.200}")
            await self._world.pause(f"... {what}")
            if not self._world.fault_occurs(self._world.plan.chances.lost_reply):
                return reply
            self._world.note(f"{what}: the reply is lost")
        raise RedisConnectionError("the store is unavailable")

    def _is_unavailable(self) -> bool:
        return any(begin <= self._world.now < end for begin, end in self._world.plan.outages)

    def _run(self, text: Text, argument: str) -> Any:
        args = json.loads(argument)
        before = self._records_of_others(args.get("answers", ()))
        reply = self._evaluate(text, argument)
        for import_id, record in before.items():
            if record and self.redis.hgetall(IMPORT.name + import_id) != record:
                self._world.report_violation(
                    f"{text.name} changes {import_id} under another worker's lease"
                )
        self.on_script(text.name, args, reply)
        return reply

    def _records_of_others(self, answers: Sequence[Any]) -> dict[str, dict[str, str]]:
        """Return the records of imports whose leases are no longer those of any answer."""
        leases: defaultdict[str, set[str]] = defaultdict(set)
        for answer in answers:
            leases[answer["id"]].add(answer["lease"])
        records = {each: self.redis.hgetall(IMPORT.name + each) for each in leases}
        return {each: of for each, of in records.items() if of.get("lease") not in leases[each]}

    def _evaluate(self, text: Text, argument: str) -> Any:
        arguments = (0, argument, *clock_arguments(self._world.now))
        try:
            return self.redis.evalsha(text.digest, *arguments)
        except NoScriptError:
            return self.redis.eval(text.lua, *arguments)
