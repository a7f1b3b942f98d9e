"""The Celery tasks: two entry points, and the native end of every import.

An import's task is deferred. Its message only admits the request (`worker.doors.arrivals`). The
worker that ends the import runs the task, in its own process (`worker.announcer.completion`). So
results, links, chains, groups and chords work as for any task, and a waiting import occupies no
worker slot and no place in the broker.

Workers of the previous release publish a message in place of this run, to the queue
`imports.finish`. Such a message is answered here, in the same way.
"""

import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from celery import Task, shared_task, states
from celery.exceptions import Ignore, Reject

from config.names import BATCH_TASK, FINISH_HEADER, FORMAT_HEADER
from worker.announcer.completion import (
    backend_in_completion,
    import_in_completion,
    outcome_of,
)
from worker.domain.batches import BatchMessage
from worker.domain.errors import ImportEndedError, ImportRejected
from worker.domain.imports import Import, ImportResult
from worker.domain.outcomes import Verdict
from worker.domain.requests import DEFAULT_OPERATION, InvalidRequestError
from worker.doors.arrivals import STRATEGY
from worker.doors.envelopes import envelope_of, not_before_ms, trace_of
from worker.operations.registry import OPERATIONS
from worker.runtime import Runtime, runtime_of_process
from worker.store.connection import StoreUnavailableError
from worker.store.keys import FORMAT

T = TypeVar("T")

STAND_BACK_SECONDS: Final = 1.0


class ImportTask(Task[..., Any]):
    """A task that needs the runtime. If it ends with an import, it notes that it has finished."""

    typing = False  # the request model checks the members, and its errors name them
    throws = (ImportEndedError,)
    operation = DEFAULT_OPERATION

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Unlike Celery's own call, this allows any member name, even `self`."""
        return self.run(*args, **kwargs)

    @property
    def runtime(self) -> Runtime:
        """The runtime of this process."""
        return runtime_of_process(self.app, self.request.hostname)

    @property  # type: ignore[misc]  # Celery's can also be set, which nothing does
    def backend(self) -> Any:
        """The result backend. Results of imports that end together are stored together.

        That of a chord's task is stored at once, before the chord counts it.
        """
        return (not self.request.chord and backend_in_completion()) or super().backend

    def after_return(self, status: str, result: Any, *_: Any) -> None:
        """Note that this task has finished, if it ran in a pool and its import is over."""
        item = self.request.get("ended_import")
        if isinstance(item, Import):  # a message may have a header of this name
            self.note_finished(item, status, result)

    def note_finished(self, item: Import, state: str, result: Any = None) -> None:
        """Show the task's final state in Celery, and note in the store that it has finished."""
        task_id = str(self.request.id)
        self.runtime.announcer.events.ended(item, task_id, state, result)
        self.runtime.run(self.runtime.store.note_task_done(item.id, task_id))


def _task_of(operation: str, name: str) -> Any:
    @shared_task(
        bind=True,
        base=ImportTask,
        name=name,
        operation=operation,
        Strategy=STRATEGY,
        send_events=False,
    )
    def import_one(self: ImportTask, /, *_args: Any, **_members: Any) -> ImportResult:
        """Import one app's resource. The members are those of the request.

        Returns the import's result.

        Raises:
            ImportEndedError: one of its subclasses, if the import did not succeed.

        """
        if item := import_in_completion():
            return outcome_of(self, item)
        item = _ended_import(self)
        self.request.update(ended_import=item)
        try:
            return outcome_of(self, item)
        except Ignore:  # then Celery does not call `after_return`
            self.note_finished(item, states.REVOKED)
            raise

    return import_one


TASKS: Final = [_task_of(operation, name) for operation, name in OPERATIONS.tasks.items()]


@shared_task(bind=True, base=ImportTask, name=BATCH_TASK)
def import_batch(self: ImportTask, /, *args: Any, **members: Any) -> Any:
    """Admit up to 1,000 requests of a batch.

    Returns `{"batchId", "accepted", "known", "rejected"}`, with the number of requests of each
    kind.

    Raises:
        ImportRejected: if the message is invalid as a whole; then it becomes a rejected import.

    """
    if item := import_in_completion():
        return outcome_of(self, item)
    request = self.request
    try:
        message = BatchMessage.parse({"arguments": list(args), **members} if args else members)
    except InvalidRequestError as error:
        rejecting = self.runtime.admitter.reject(envelope_of(self, request), str(error))
        _or_requeue(self, rejecting)
        raise Ignore from None
    admitting = self.runtime.admitter.admit_batch(
        message, not_before_ms=not_before_ms(request), trace=trace_of(request)
    )
    verdicts = [admission.verdict for admission in _or_requeue(self, admitting)]
    counted = (Verdict.ACCEPTED, Verdict.KNOWN, Verdict.REJECTED)
    return {"batchId": message.batch_id, **{name.value: verdicts.count(name) for name in counted}}


def _ended_import(task: ImportTask) -> Import:
    """Load the import that, according to this message, is over.

    Raises:
        RuntimeError: if there is no message, because the task was called or applied directly.

    """
    headers = task.request.headers or {}
    if FINISH_HEADER not in headers:
        raise RuntimeError("an import runs in workers only: send its task, with apply_async")
    number = headers.get(FORMAT_HEADER)
    if isinstance(number, int) and number > FORMAT:
        time.sleep(STAND_BACK_SECONDS)  # meanwhile a worker of a later release may take the message
        raise Reject(f"a record of a later format than {FORMAT}", requeue=True)
    import_id = str(headers[FINISH_HEADER])
    item = _or_requeue(task, task.runtime.store.load(import_id))
    if item is None:
        raise ImportRejected(f"import {import_id} ended, and its record has expired since")
    if not item.is_terminal:
        raise Ignore
    return item


def _or_requeue(task: ImportTask, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a step. If the store can't be reached, return the message to the broker."""
    try:
        return task.runtime.run(coroutine)
    except StoreUnavailableError as error:
        raise Reject(error, requeue=True) from error
