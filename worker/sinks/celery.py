"""Tells Celery's side of the world: task states under way, Flower's rows, and the native end.

Celery's client is synchronous, so everything here runs on one thread of its own, in order.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from celery import Celery
from celery.app.backends import by_url
from celery.canvas import Signature

from config.names import FINISH_HEADER, FINISH_QUEUE, FORMAT_HEADER, IMPORT_TASK
from worker.domain.imports import Import
from worker.domain.outcomes import Ended, Entrance

log = structlog.get_logger()

WAITING: Final = "WAITING"
RUNNING: Final = "RUNNING"
SHOWN_WITHIN_SECONDS: Final = 2.0


class CeleryAnnouncer:
    """Announces over the result backend, Celery's event stream and the broker.

    Nothing here raises: the store knows which tasks are owed their end, and publishes them again.
    """

    def __init__(self, app: "Celery", hostname: str | None = None) -> None:
        self._app = app
        self._hostname = hostname
        self._dispatcher: Any = None
        self._backends = threading.local()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="announcer")

    async def waiting(self, entrances: Sequence[Entrance], targets: Sequence[str]) -> None:
        """Show imports that came in by a door without a task of their own."""
        await self._show(self._show_waiting, entrances, targets)

    async def running(self, item: Import, job_id: str, status: str) -> None:
        """Show that the import's job runs."""
        meta = {**item.result(), "jobId": job_id, "status": status}
        await self._show(self._show_running, item, meta)

    async def ended(self, ended: Ended) -> None:
        """Publish each task that is owed the import's end; it finishes natively then."""
        await self._do(self._publish_tasks, ended)

    def store_state(self, task_id: str, meta: Any, state: str, **more: Any) -> None:
        """Store a state under way. It never expires: an import may wait longer than results stay.

        The end overwrites it, and expires.
        """
        if not hasattr(self._backends, "lasting"):  # like Celery's, each thread has its own
            self._backends.lasting = self._lasting_backend()
        self._backends.lasting.store_result(task_id, meta, state, **more)

    def close(self) -> None:
        """Finish what was begun and let go of the connections."""
        self._thread.submit(self._close_dispatcher)
        self._thread.shutdown(wait=True)

    def _lasting_backend(self) -> Any:
        made: Any = by_url(self._app.conf.result_backend, self._app.loader)
        backend = made[0](app=self._app, url=made[1])
        backend.expires = None
        return backend

    async def _show(self, function: Callable[..., None], *args: Any) -> None:
        """Do it, but do not wait for long: what only shows a state must not hold up an import."""
        try:
            async with asyncio.timeout(SHOWN_WITHIN_SECONDS):
                await self._do(function, *args)
        except TimeoutError:
            log.warning("announcement.slow", step=function.__name__)

    async def _do(self, function: Callable[..., None], *args: Any) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except Exception as error:  # noqa: BLE001 - backends and brokers of any make fail in any way
            log.warning("announcement.failed", step=function.__name__, error=str(error))

    def _show_waiting(self, entrances: Sequence[Entrance], targets: Sequence[str]) -> None:
        for entrance, target in zip(entrances, targets, strict=True):
            if not entrance.ignores_result:
                self.store_state(entrance.import_id, {"target": target}, WAITING)
            self._send(
                "task-received",
                entrance.import_id,
                name=IMPORT_TASK,
                args="()",
                kwargs=repr({"target": target}),
            )

    def _show_running(self, item: Import, meta: dict[str, Any]) -> None:
        if not item.ignores_result:
            self.store_state(item.id, meta, RUNNING)
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
            IMPORT_TASK,
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
