"""Announces imports to Celery: task states, rows in Flower, and the native end of tasks.

Celery's client is synchronous, so everything here runs in order on a thread of its own.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import structlog
from celery import Celery, states
from celery.exceptions import TaskRevokedError
from celery.worker.state import revoked as revoked_tasks

from worker.announcer.completion import Completion
from worker.announcer.events import ImportEvents
from worker.announcer.states import RUNNING, WAITING, TaskStates
from worker.domain.imports import Import
from worker.domain.outcomes import Ended, Envelope

log = structlog.get_logger()

T = TypeVar("T")

SHOWN_WITHIN_SECONDS: Final = 2.0
FINISHED_TOGETHER: Final = 100
"""How many tasks are finished at once, so that states to show don't wait long."""

MOST_ENDING: Final = 10_000
"""How many tasks wait here to be finished; further ones are left to the store."""

CLOSED_WITHIN_SECONDS: Final = 10.0


def _ignore(_step: str) -> None: ...


TaskKey = tuple[str, str]
"""An import's id, and the id of a task that ends with it."""

Done = tuple[str, str, bool]
"""An import's id, a finished task's id, and whether that task was created by no producer."""

Ending = tuple[TaskKey, Import, str]
"""A task that is to be finished, its import, and its signature; '' if no producer sent the task."""


class CeleryAnnouncer:
    """Announces through the result backend, Celery's event stream and the broker.

    `tasks` maps operations to task names. `note_done` notes in the store which tasks have finished.
    `on_failure` is called with the name of each step that fails. Nothing here raises: the store
    knows which tasks have not finished, and workers finish them later.
    """

    def __init__(
        self,
        app: "Celery",
        tasks: Mapping[str, str],
        note_done: Callable[[Sequence[Done]], Awaitable[None]],
        hostname: str | None = None,
        on_failure: Callable[[str], None] = _ignore,
    ) -> None:
        self._note_done = note_done
        self._on_failure = on_failure
        self._running: deque[tuple[str, Any]] = deque()
        self._ending: dict[TaskKey, Ending] = {}
        self._finishing: asyncio.Task[None] | None = None
        self._is_closing = False
        self._completion = Completion(app, hostname)
        self.states = TaskStates(app)
        self.events = ImportEvents(app, tasks, hostname, partial(self.note_failure, "events"))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="announcer")

    async def waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        """Show imports that came in without a task of their own."""
        await self._show(self._show_waiting, envelopes, targets)

    def accepted(self, envelope: Envelope, target: str, lane: str, batch_id: str) -> None:
        """Show a task whose import was accepted just now."""
        self.events.accepted(envelope.task_id, envelope.operation, target, lane, batch_id)

    async def running(self, item: Import, job_id: str, status: str) -> bool:
        """Show that the import's job runs; return whether this may have replaced an end."""
        self.events.started(item, job_id, status)
        if not item.ignores_result:
            self._running.append((item.id, {"jobId": job_id}))
            await self._show(self._show_running)
        return not self.states.keeps_ends

    async def ended(self, ended: Ended) -> None:
        """Finish each task that ends with the import, soon and together with others."""
        for task_id, text in ended.tasks.items():
            key = (ended.item.id, task_id)
            # One that waits here may also have been taken over from the store.
            if key not in self._ending and len(self._ending) < MOST_ENDING:
                self._ending[key] = (key, ended.item, text)
        if self._finishing is None or self._finishing.done():
            self._finishing = asyncio.create_task(self._finish_ending(), name="finish_tasks")

    async def settled(self) -> None:
        """Return when all tasks that are to be finished are finished, or have failed to."""
        while self._finishing is not None and not self._finishing.done():
            await asyncio.wait({self._finishing})

    async def repair(self, item: Import) -> None:
        """Store the end of an import's own task again, in case a late RUNNING has replaced it."""
        await self._do(self._finish, [((item.id, item.id), item, "")])

    async def drain(self) -> None:
        """Finish what was begun; leave to the store what takes too long."""
        try:
            async with asyncio.timeout(CLOSED_WITHIN_SECONDS):
                await self.settled()
        except TimeoutError:
            log.warning("announcement.slow", step="_finish")
            if self._finishing is not None:
                self._finishing.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._is_closing = True
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.events.close()

    async def _show(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function that only shows a state, but don't make an import wait for it long."""
        try:
            async with asyncio.timeout(SHOWN_WITHIN_SECONDS):
                await self._do(function, *args)
        except TimeoutError:
            log.warning("announcement.slow", step=function.__name__)

    async def _do(self, function: Callable[..., T], *args: Any) -> T | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except Exception as error:  # noqa: BLE001 - a backend or a broker may fail in any way
            self.note_failure(function.__name__, error)
            return None

    def note_failure(self, step: str, error: Exception) -> None:
        """Log and report that a step failed."""
        log.warning("announcement.failed", step=step, error=str(error))
        self._on_failure(step)

    def _show_waiting(self, envelopes: Sequence[Envelope], targets: Sequence[str]) -> None:
        shown = zip(envelopes, targets, strict=True)
        tasks = ((one.import_id, {"target": at}) for one, at in shown if not one.ignores_result)
        self.states.show(tasks, WAITING)

    def _show_running(self) -> None:
        """Show all that wait for it, so that later calls find little or nothing."""
        if shown := [self._running.popleft() for _ in range(len(self._running))]:
            self.states.show(shown, RUNNING)

    async def _finish_ending(self) -> None:
        while self._ending:
            ending = list(islice(self._ending.values(), FINISHED_TOGETHER))
            done = await self._do(self._finish, ending)
            for key, *_ in ending:
                del self._ending[key]
            if done:
                try:
                    await self._note_done(done)
                except Exception as error:  # noqa: BLE001 - the store finds them unfinished
                    self.note_failure("note_done", error)

    def _finish(self, ending: Sequence[Ending]) -> list[Done]:
        """Finish tasks, each for itself; return those that have finished."""
        ends: dict[TaskKey, tuple[Any, str]] = {}
        for key, item, text in ending:
            try:
                if not text:
                    ends[key] = _end_of(item, key[1])
                elif not self._is_closing:
                    ends[key] = self._complete(item, text)
            except Exception as error:  # noqa: BLE001 - a backend or a broker may fail in any way
                self.note_failure("_finish", error)
        refused = self.states.end(
            (key[1], *ends[key])
            for key, item, text in ending
            if not text and not item.ignores_result
        )
        done: list[Done] = []
        for key, item, text in ending:
            if key[1] in refused:
                self.note_failure("_finish", refused[key[1]])
            elif key in ends:
                self.events.ended(item, key[1], *reversed(ends[key]))
                done.append((*key, not text))
        return done

    def _complete(self, item: Import, text: str) -> tuple[Exception | None, str]:
        """Complete a task that a producer waits for; return its error and its state in Celery."""
        return self._completion.complete(item, text, self.states.ending)


def _end_of(item: Import, task_id: str) -> tuple[Any, str]:
    """Return the result or error of a task, and its final state in Celery."""
    if item.has_expired:
        return TaskRevokedError(item.error), states.REVOKED
    if task_id in revoked_tasks:
        return TaskRevokedError("revoked"), states.REVOKED
    if error := item.ended_error():
        return error, states.FAILURE
    return item.result(), states.SUCCESS
