"""The states of running tasks in Celery's result backend; they never replace an end.

A slow worker may show a state after another worker has ended the import. Celery's own method reads
the stored state first, and gives way only to a success. A Redis script decides in one atomic step.
"""

import threading
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
    """Shows the states of unfinished tasks. They don't expire: an import may outlast results.

    The end replaces them, and expires. In a backend other than Redis, a state that is shown late
    may replace the end until the end is published again.
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
            self._backends.lasting = self._lasting_backend()
        self._backends.lasting.store_result(task_id, meta, state, **more)

    def _lasting_backend(self) -> Any:
        found: Any = by_url(self._app.conf.result_backend, self._app.loader)
        kind, url = found
        if issubclass(kind, RedisBackend):
            kind = type(kind.__name__, (_GivesWay, kind), {})
        backend = kind(app=self._app, url=url)
        backend.expires = None
        return backend


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
