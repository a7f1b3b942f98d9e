"""Celery's task events, as Flower shows them: one row for each import, with true times.

Celery sends no events of its own for these tasks (`send_events`), because what a worker does with a
message is not what happens to the import. Celery's events `task-received` and `task-started` carry
the times; `task-waiting` and `task-running` name the states as the result backend does.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Final

from celery import Celery, states

from worker.domain.imports import Import

GATHERED_SECONDS: Final = 0.1
"""How long events are gathered before they are sent in one message."""

SENT_TOGETHER: Final = 100
MOST_WAITING: Final = 10_000
"""How many events wait while the broker is slow; then the oldest are dropped."""

AGAIN_SECONDS: Final = 5.0


class ImportEvents:
    """Sends events on a thread of its own, in groups, so that nothing waits for the broker.

    `tasks` maps operations to task names. `on_failure` is called with each error; the events of
    that group are dropped. Methods may be called from any thread.
    """

    def __init__(
        self,
        app: "Celery",
        tasks: Mapping[str, str],
        hostname: str | None,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._app = app
        self._tasks = tasks
        self._hostname = hostname
        self._on_failure = on_failure
        self._dispatcher: Any = None
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST_WAITING)
        self._is_sending = False
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")

    def accepted(self, task_id: str, operation: str, target: str, lane: str, batch_id: str) -> None:
        """Show a task whose import was accepted just now."""
        self._send("task-received", task_id, **self._shown(operation, target, lane, batch_id))
        self._send("task-waiting", task_id)

    def started(self, item: Import, job_id: str, status: str) -> None:
        """Show that the import's job has just started."""
        self._send("task-started", item.id, **self._row_of(item))
        self._send("task-running", item.id, result=f"job {job_id}: {status}")

    def ended(self, item: Import, task_id: str, state: str, error: Exception | None) -> None:
        """Show a task's final state in Celery, with the import's own times.

        The runtime is that from the import's start to its end, in seconds; None without a start.
        """
        row = self._row_of(item)
        began_ms = item.started_at_ms or item.last_start_at_ms
        if began_ms:
            row["started"] = began_ms / 1000
            row["runtime"] = max(0, item.finished_at_ms - began_ms) / 1000
        if state == states.SUCCESS:
            self._send("task-succeeded", task_id, result=repr(item.result()), **row)
        elif state == states.FAILURE:
            self._send("task-failed", task_id, exception=repr(error), **row)
        else:
            expired = item.has_expired
            self._send(
                "task-revoked", task_id, terminated=False, signum=None, expired=expired, **row
            )

    def close(self) -> None:
        """Send what waits, and close the connection."""
        with self._lock:
            self._closing.set()
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=True)

    @cached_property
    def _are_wanted(self) -> bool:
        """Whether the worker sends events. Celery's configuration is slow to read."""
        return bool(self._app.conf.worker_send_task_events)

    def _row_of(self, item: Import) -> dict[str, Any]:
        shown = self._shown(item.requested_operation, item.target, item.lane, item.batch_id)
        return {**shown, "received": item.accepted_at_ms / 1000}

    def _shown(self, operation: str, target: str, lane: str, batch_id: str) -> dict[str, Any]:
        shown = {"target": target, "lane": lane, **({"batchId": batch_id} if batch_id else {})}
        return {"name": self._tasks[operation], "args": "()", "kwargs": repr(shown)}

    def _send(self, kind: str, task_id: str, **fields: Any) -> None:
        if not self._are_wanted:
            return
        with self._lock:
            self._waiting.append((kind, {"uuid": task_id, "timestamp": time.time(), **fields}))
            if self._is_sending or self._closing.is_set():
                return
            self._is_sending = True
            self._thread.submit(self._send_waiting)

    def _send_waiting(self) -> None:
        self._closing.wait(GATHERED_SECONDS)
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            self._is_sending = False
        try:
            dispatcher = self._connected()
            for kind, fields in taken:
                dispatcher.send(kind, **fields)
            dispatcher.flush()
        except Exception as error:  # noqa: BLE001 - a broker may fail in any way
            self._on_failure(error)
            self._disconnect()
            self._closing.wait(AGAIN_SECONDS)

    def _connected(self) -> Any:
        if self._dispatcher is None:
            connection = self._app.connection_for_write()
            connection.ensure_connection(max_retries=1)  # kombu's default is to retry forever
            self._dispatcher = self._app.events.Dispatcher(
                connection,
                hostname=self._hostname,
                buffer_group={"task"},
                buffer_limit=SENT_TOGETHER,
                buffer_while_offline=False,
            )
        return self._dispatcher

    def _disconnect(self) -> None:
        if self._dispatcher is not None:
            dispatcher, self._dispatcher = self._dispatcher, None
            dispatcher.close()
            dispatcher.connection.release()
