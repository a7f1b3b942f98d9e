"""The states of tasks in Celery's result backend. Those of unfinished tasks never replace an end.

A slow worker may show a state after another worker has ended the import. Celery's own method reads
the stored state first, and gives way only to a success. A Redis script decides in one atomic step.
"""

import json
import threading
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from celery import Celery, states
from celery.app.backends import by_url
from celery.backends.redis import RedisBackend

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

    def show(self, task_id: str, meta: Any, state: str, **more: Any) -> None:
        """Store the state of an unfinished task; see `show_all`."""
        self.show_all([(task_id, meta)], state, **more)

    def show_all(self, tasks: Iterable[tuple[str, Any]], state: str, **more: Any) -> None:
        """Store the state of unfinished tasks, given as task id and meta.

        It takes one round trip if the backend is Redis.

        Raises:
            Exception: of the backend's kind, if it can't be reached or refuses.

        """
        if not hasattr(self._backends, "lasting"):
            self._backends.lasting = self._backend_with(_GivesWay)
            self._backends.lasting.expires = None
        _store_all(self._backends.lasting, ((*task, state) for task in tasks), **more)

    def end(self, ends: Iterable[tuple[str, Any, str]]) -> None:
        """Store final states, given as task id, result or error, and state.

        It takes one round trip if the backend is Redis. Safe to repeat.

        Raises:
            Exception: of the backend's kind, if it can't be reached or refuses.

        """
        if not hasattr(self._backends, "ending"):
            self._backends.ending = self._backend_with(_Gathers)
        _store_all(self._backends.ending, ends)

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


def _store_all(backend: Any, states_of: Iterable[tuple[str, Any, str]], **more: Any) -> None:
    for task_id, result, state in states_of:
        backend.store_result(task_id, result, state, **more)
    if isinstance(backend, _Gathers):
        backend.store_gathered()


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
        self._gathered.append((self.get_key_for_task(task_id), self._text_of(meta), state))
        return result

    def _text_of(self: Any, meta: dict[str, Any]) -> Any:
        return self.encode(meta)

    def store_gathered(self: Any) -> None:
        gathered = list(self._gathered)
        self._gathered.clear()
        if gathered:
            self.ensure(self._store, (gathered,))

    def _store(self: Any, gathered: list[tuple[Any, Any, str]]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for key, text, _ in gathered:
                pipeline.set(key, text, ex=self.expires or None)
                pipeline.publish(key, text)  # a hint, which the server may refuse
            replies = pipeline.execute(raise_on_error=False)
        for reply in replies[::2]:
            if isinstance(reply, Exception):
                raise reply

    @cached_property
    def _gathered(self) -> list[tuple[Any, Any, str]]:
        return []


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
