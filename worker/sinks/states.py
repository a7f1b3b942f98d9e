"""The states of tasks in Celery's result backend. Those of unfinished tasks never replace an end.

A slow worker may show a state after another worker has ended the import. Celery's own method reads
the stored state first, and gives way only to a success. A Redis script decides in one atomic step.
"""

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
local stored = redis.call('GET', KEYS[1])
if stored then
  local state = cjson.decode(stored).status
  for index = 2, #ARGV do
    if ARGV[index] == state then
      return
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1])
"""

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
        """Store the state of an unfinished task.

        Raises:
            Exception: of the backend's kind, if it can't be reached or refuses.

        """
        if not hasattr(self._backends, "lasting"):
            self._backends.lasting = self._backend_with(_GivesWay)
            self._backends.lasting.expires = None
        self._backends.lasting.store_result(task_id, meta, state, **more)

    def end(self, ends: Iterable[tuple[str, Any, str]]) -> None:
        """Store final states, given as task id, result or error, and state.

        It takes one round trip if the backend is Redis. Safe to repeat.

        Raises:
            Exception: of the backend's kind, if it can't be reached or refuses.

        """
        if not hasattr(self._backends, "ending"):
            self._backends.ending = self._backend_with(_Gathers)
        backend = self._backends.ending
        for task_id, result, state in ends:
            backend.store_result(task_id, result, state)
        if isinstance(backend, _Gathers):
            backend.store_gathered()

    def _backend_with(self, change: type) -> Any:
        """Return a new backend; with a change to it if it is Redis."""
        found: Any = by_url(self._app.conf.result_backend, self._app.loader)
        kind, url = found
        if issubclass(kind, RedisBackend):
            kind = type(kind.__name__, (change, kind), {})
        return kind(app=self._app, url=url)


class _GivesWay:
    """A Redis backend in which a state does not replace later states."""

    def _store_result(
        self: Any,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_options: Any,
    ) -> Any:
        meta = self._get_result_meta(result, state, traceback, request)
        text = self.encode({**meta, "task_id": task_id})
        args = [text, *_NEVER_REPLACES[state]]
        self.ensure(self._script, ([self.get_key_for_task(task_id)], args))
        return result

    @cached_property
    def _script(self: Any) -> Any:
        return self.client.register_script(_SHOW)


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
        self._gathered.append((self.get_key_for_task(task_id), self.encode(meta)))
        return result

    def store_gathered(self: Any) -> None:
        gathered = list(self._gathered)
        self._gathered.clear()
        self.ensure(self._store, (gathered,))

    def _store(self: Any, gathered: list[tuple[Any, Any]]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for key, text in gathered:
                pipeline.set(key, text, ex=self.expires or None)
                pipeline.publish(key, text)  # a hint, which the server may refuse
            replies = pipeline.execute(raise_on_error=False)
        for reply in replies[::2]:
            if isinstance(reply, Exception):
                raise reply

    @cached_property
    def _gathered(self) -> list[tuple[Any, Any]]:
        return []
