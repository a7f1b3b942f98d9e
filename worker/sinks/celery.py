"""Announces imports to Celery: task states, rows in Flower, and the native end of tasks.

Celery's client is synchronous, so everything here runs in order on a thread of its own.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from celery import Celery
from celery.canvas import Signature

from config.names import FINISH_HEADER, FINISH_QUEUE, FORMAT_HEADER
from worker.domain.imports import Import
from worker.domain.outcomes import Ended, Envelope
from worker.sinks.states import RUNNING, WAITING, TaskStates

log = structlog.get_logger()

SHOWN_WITHIN_SECONDS: Final = 2.0


def _ignore(_step: str) -> None: ...


class CeleryAnnouncer:
    """Announces through the result backend, Celery's event stream and the broker.

    `tasks` maps operations to task names. `on_failure` is called with the name of each step that
    fails. Nothing here raises: the store knows which tasks have not
    ended, and workers publish them again.
    """

    def __init__(
        self,
        app: "Celery",
        tasks: Mapping[str, str],
        hostname: str | None = None,
        on_failure: Callable[[str], None] = _ignore,
    ) -> None:
        self._app = app
        self._tasks = tasks
        self._hostname = hostname
        self._dispatcher: Any = None
        self._on_failure = on_failure
        self.states = TaskStates(app)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="announcer")

    async def waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        """Show imports that came in without a task of their own."""
        await self._show(self._show_waiting, envelopes, targets)

    async def running(self, item: Import, job_id: str, status: str) -> None:
        """Show that the import's job runs."""
        meta = {**item.result(), "jobId": job_id, "status": status}
        await self._show(self._show_running, item, meta)

    async def ended(self, ended: Ended) -> None:
        """Publish each task that ends with the import, so that it ends natively."""
        await self._do(self._publish_tasks, ended)

    def close(self) -> None:
        """Finish what was begun, and close the connections."""
        self._thread.submit(self._close_dispatcher)
        self._thread.shutdown(wait=True)

    async def _show(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function that only shows a state, but don't make an import wait for it long."""
        try:
            async with asyncio.timeout(SHOWN_WITHIN_SECONDS):
                await self._do(function, *args)
        except TimeoutError:
            log.warning("announcement.slow", step=function.__name__)

    async def _do(self, function: Callable[..., None], *args: Any) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except Exception as error:  # noqa: BLE001 - a backend or a broker may fail in any way
            self.note_failure(function.__name__, error)

    def note_failure(self, step: str, error: Exception) -> None:
        """Log and report that a step failed."""
        log.warning("announcement.failed", step=step, error=str(error))
        self._on_failure(step)

    def _show_waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        for envelope, target in zip(envelopes, targets, strict=True):
            if not envelope.ignores_result:
                self.states.show(envelope.import_id, {"target": target}, WAITING)
            self._send(
                "task-received",
                envelope.import_id,
                name=self._tasks[envelope.operation],
                args="()",
                kwargs=repr({"target": target}),
            )

    def _show_running(self, item: Import, meta: dict[str, Any]) -> None:
        if not item.ignores_result:
            self.states.show(item.id, meta, RUNNING)
        self._send("task-running", item.id, result=f"job {meta['jobId']}: {meta['status']}")

    def _publish_tasks(self, ended: Ended) -> None:
        for task_id, text in ended.tasks.items():
            signature = self._signature_of(ended.item, task_id, text)
            headers = {
                **(signature.options.get("headers") or {}),
                FINISH_HEADER: ended.item.id,
                FORMAT_HEADER: ended.item.format,
            }
            signature.set(queue=FINISH_QUEUE, headers=headers).apply_async()

    def _signature_of(self, item: Import, task_id: str, text: str) -> Signature:
        if text:
            return Signature.from_dict(json.loads(text), app=self._app)
        return self._app.signature(
            self._tasks[item.requested_operation],
            kwargs=item.members,
            task_id=task_id,
            ignore_result=item.ignores_result or None,
        )

    def _send(self, kind: str, import_id: str, **fields: Any) -> None:
        if not self._app.conf.worker_send_task_events:
            return
        if self._dispatcher is None:
            self._dispatcher = self._app.events.Dispatcher(
                self._app.connection_for_write(), hostname=self._hostname
            )
        self._dispatcher.send(kind, uuid=import_id, **fields)

    def _close_dispatcher(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher.connection.release()
