"""The states of tasks in Celery's result backend. Those of unfinished tasks never replace an end.

A slow worker may show a state after another worker has ended the import. Celery's own method reads
the stored state first, and gives way only to a success. A Redis script decides in one atomic step.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

from celery import Celery, states
from celery.app.backends import by_url
from celery.backends.redis import RedisBackend
from redis.exceptions import ResponseError

WAITING: Final = "WAITING"
RUNNING: Final = "RUNNING"

_SHOW: Final = """
local remains = {}
for index = #KEYS + 1, #ARGV do
  remains[ARGV[index]] = true
end
for index, key in ipairs(KEYS) do
  local stored = redis.call('GET', key)
  if not (stored and remains[cjson.decode(stored).status]) then
    redis.call('SET', key, ARGV[index])
    redis.pcall('PUBLISH', key, ARGV[index]) -- a hint, which the server may refuse
  end
end
"""
"""Stores the text of each key, unless the key has one of the states that follow the texts."""

_END: Final = """
local refused = {}
for index, key in ipairs(KEYS) do
  local reply = redis.pcall('GET', key)
  local is_error = type(reply) == 'table' and reply.err
  if not is_error and not (reply and cjson.decode(reply).status == 'SUCCESS') then
    local lifetime = ARGV[#ARGV] ~= '0' and { 'EX', ARGV[#ARGV] } or {}
    reply = redis.pcall('SET', key, ARGV[index], unpack(lifetime))
    is_error = reply.err
    redis.pcall('PUBLISH', key, ARGV[index]) -- a hint, which the server may refuse
  end
  if is_error then
    refused[#refused + 1] = { index, is_error }
  end
end
return refused
"""
"""Stores the text of each key for so many seconds (the last argument, 0 for ever), unless the key
has a success, as Celery does. Returns what the server refused, as index and error."""

_NEVER_REPLACES: Final = {
    WAITING: (RUNNING, *states.READY_STATES),
    RUNNING: tuple(states.READY_STATES),
}


class TaskStates:
    """Stores the states of tasks. Those of unfinished tasks don't expire: an import may be long.

    The end replaces them, and expires. In a backend other than Redis, a state that is shown late
    may replace the end until the end is stored again.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._backends = threading.local()  # as in Celery, each thread has its own

    def show(self, tasks: Iterable[tuple[str, Any]], state: str) -> None:
        """Store the state of unfinished tasks, given as task id and meta.

        It takes one round trip if the backend is Redis.

        Raises:
            Exception: of the backend's kind, if it can't be reached or refuses.

        """
        if not hasattr(self._backends, "lasting"):
            self._backends.lasting = self._backend_with(_GivesWay)
            self._backends.lasting.expires = None
        backend = self._backends.lasting
        for task_id, meta in tasks:
            backend.store_result(task_id, meta, state)
        if isinstance(backend, _GivesWay):
            backend.store_gathered()

    @property
    def ending(self) -> Any:
        """A backend of this thread; what is stored in it remains with `end` if it is Redis."""
        if not hasattr(self._backends, "ending"):
            self._backends.ending = self._backend_with(_Ends)
        return self._backends.ending

    def end(self, ends: Iterable[tuple[str, Any, str]]) -> Mapping[str, Exception]:
        """Store final states, given as task id, result or error, and state.

        Those that were stored in `ending` are stored with them, all in one round trip if the
        backend is Redis. Returns the errors of tasks whose state could not be stored, by task id.
        Safe to repeat.
        """
        refused: dict[str, Exception] = {}
        for task_id, result, state in ends:
            try:
                self.ending.store_result(task_id, result, state)
            except Exception as error:  # noqa: BLE001 - a backend may fail in any way
                refused[task_id] = error
        if isinstance(self.ending, _Ends):
            refused |= self.ending.store_ends()
        return refused

    @cached_property
    def keeps_ends(self) -> bool:
        """Whether the state of an unfinished task never replaces an end: the backend is Redis."""
        return issubclass(self._configured_backend[0], RedisBackend)

    @property
    def _configured_backend(self) -> tuple[type, str]:
        found: Any = by_url(self._app.conf.result_backend, self._app.loader)
        kind, url = found
        return kind, url

    def _backend_with(self, change: type) -> Any:
        """Return a new backend; with a change to it if it is Redis."""
        kind, url = self._configured_backend
        if self.keeps_ends:
            kind = type(kind.__name__, (change, kind), {})
        return kind(app=self._app, url=url)


class _Gathers:
    """A Redis backend that gathers states, and stores them together."""

    def _store_result(
        self: Any,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_options: Any,
    ) -> Any:
        meta = {**self._get_result_meta(result, state, traceback, request), "task_id": task_id}
        self._gathered[task_id] = (self.get_key_for_task(task_id), self._text_of(meta), state)
        return result

    def store_gathered(self: Any) -> Any:
        gathered = list(self._gathered.values())
        self._gathered.clear()
        return self.ensure(self._store, (gathered,)) if gathered else []

    @cached_property
    def _gathered(self) -> dict[str, tuple[Any, Any, str]]:
        return {}


class _Ends(_Gathers):
    """A Redis backend that gathers final states."""

    def _text_of(self: Any, meta: dict[str, Any]) -> Any:
        return self.encode(meta)

    def store_ends(self) -> dict[str, Exception]:
        """Store what was gathered; return the errors by task id."""
        tasks = list(self._gathered)
        try:
            refused = self.store_gathered()
        except Exception as error:  # noqa: BLE001 - a server may fail in any way
            return dict.fromkeys(tasks, error)
        return {tasks[index - 1]: ResponseError(str(error)) for index, error in refused}

    def _store(self: Any, gathered: list[tuple[Any, Any, str]]) -> Any:
        keys, texts, _ = zip(*gathered, strict=True)
        return self._script(keys, [*texts, round(self.expires or 0)])

    @cached_property
    def _script(self: Any) -> Any:
        return self.client.register_script(_END)


class _GivesWay(_Gathers):
    """A Redis backend in which a state does not replace later states, and is short."""

    def _text_of(self, meta: dict[str, Any]) -> str:
        # There may be as many as unfinished imports, so what is empty is left out.
        present = {name: value for name, value in meta.items() if value is not None}
        return json.dumps(present, separators=(",", ":"))

    def _store(self: Any, gathered: list[tuple[Any, Any, str]]) -> None:
        keys, texts, (state, *_) = zip(*gathered, strict=True)  # all have the same state
        self._script(keys, [*texts, *_NEVER_REPLACES[state]])

    @cached_property
    def _script(self: Any) -> Any:
        return self.client.register_script(_SHOW)
