"""The Celery tasks: two entry points, and the native end of every import.

An import's task is deferred. It admits the request and steps aside (`Ignore`). The worker that ends
the import then runs the task again, in its own process (`worker.announcer.completion`). So results,
links, chains, groups and chords work as for any task, and a waiting import occupies no worker slot
and no place in the broker.

Workers of the previous release publish a message in place of this second run, to the queue
`imports.finish`. Such a message is answered here, in the same way.
"""

import time
from collections.abc import Coroutine
from datetime import UTC
from typing import Any, Final, TypeVar

from celery import Task, shared_task, states
from celery.exceptions import Ignore, Reject
from celery.utils.time import maybe_iso8601
from kombu.utils.json import dumps

from config.names import (
    BATCH_TASK,
    EXPIRES_HEADER,
    FINISH_HEADER,
    FINISH_QUEUE,
    FORMAT_HEADER,
    NOT_BEFORE_HEADER,
    TRACEPARENT_HEADER,
    TRACESTATE_HEADER,
)
from worker.announcer.completion import import_in_completion, outcome_of
from worker.announcer.states import WAITING
from worker.domain.batches import BatchMessage
from worker.domain.errors import ImportEndedError, ImportRejected
from worker.domain.imports import Import, ImportResult
from worker.domain.outcomes import Envelope, Verdict
from worker.domain.requests import InvalidRequestError
from worker.domain.traces import TraceContext, read_trace
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

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task. Unlike Celery's own call, this allows any member name, even `self`."""
        return self.run(*args, **kwargs)

    @property
    def runtime(self) -> Runtime:
        """The runtime of this process."""
        return runtime_of_process(self.app, self.request.hostname)

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
    @shared_task(bind=True, base=ImportTask, name=name, send_events=False)
    def import_one(self: ImportTask, /, *args: Any, **members: Any) -> ImportResult:
        """Import one app's resource. The members are those of the request.

        Returns the import's result.

        Raises:
            ImportEndedError: one of its subclasses, if the import did not succeed.

        """
        if item := import_in_completion():
            return outcome_of(self, item)
        if _is_finishing(self):
            item = _ended_import(self)
        else:
            item = _admitted_import(self, operation, args, members)
        self.request.update(ended_import=item)
        try:
            return outcome_of(self, item)
        except Ignore:  # then Celery does not call `after_return`
            self.note_finished(item, states.REVOKED)
            raise

    return import_one


TASKS: Final = [_task_of(operation, name) for operation, name in OPERATIONS.tasks.items()]


@shared_task(bind=True, base=ImportTask, name=BATCH_TASK)
def import_batch(self: ImportTask, /, *args: Any, **members: Any) -> dict[str, Any]:
    """Admit up to 1,000 requests of a batch.

    Returns `{"batchId", "accepted", "known", "rejected"}`, with the number of requests of each
    kind.
    """
    try:
        message = BatchMessage.parse({"arguments": list(args), **members} if args else members)
    except InvalidRequestError as error:
        raise _rejected_batch(self, str(error)) from None
    not_before_ms = _time_in(self, NOT_BEFORE_HEADER)
    admitting = self.runtime.admitter.admit_batch(
        message, not_before_ms=not_before_ms, trace=_trace_of(self)
    )
    verdicts = [admission.verdict for admission in _or_requeue(self, admitting)]
    counted = (Verdict.ACCEPTED, Verdict.KNOWN, Verdict.REJECTED)
    return {"batchId": message.batch_id, **{name.value: verdicts.count(name) for name in counted}}


def _rejected_batch(task: ImportTask, error: str) -> ImportRejected:
    """Record a message that is invalid as a whole as a rejected import with the task's id."""
    task_id = str(task.request.id)
    envelope = Envelope(
        import_id=task_id, task_id=task_id, signature="native", trace=_trace_of(task)
    )
    _or_requeue(task, task.runtime.admitter.reject({}, envelope, error))
    return ImportRejected(error)


def _is_finishing(task: ImportTask) -> bool:
    return bool((task.request.headers or {}).get(FINISH_HEADER))


def _format_of(task: ImportTask) -> int:
    number = (task.request.headers or {}).get(FORMAT_HEADER)
    return number if isinstance(number, int) else FORMAT


def _ended_import(task: ImportTask) -> Import:
    """Load the import that, according to this message, is over."""
    if _format_of(task) > FORMAT:
        time.sleep(STAND_BACK_SECONDS)  # meanwhile a worker of a later release may take the message
        raise Reject(f"a record of a later format than {FORMAT}", requeue=True)
    import_id = str((task.request.headers or {})[FINISH_HEADER])
    item = _or_requeue(task, task.runtime.store.load(import_id))
    if item is None:
        raise ImportRejected(f"import {import_id} ended, and its record has expired since")
    if not item.is_terminal:
        raise Ignore
    return item


def _admitted_import(
    task: ImportTask, operation: str, args: tuple[Any, ...], members: dict[str, Any]
) -> Import:
    """Admit the import. Return it if it is already over, otherwise step aside."""
    # before admission, because afterwards the import may run, and even end, at any time
    _show_waiting(task)
    task_id = str(task.request.id)
    envelope = Envelope(
        import_id=task_id,
        task_id=task_id,
        operation=operation,
        signature=dumps(task.signature_from_request(queue=FINISH_QUEUE, expires=None)),
        not_before_ms=_time_in(task, NOT_BEFORE_HEADER),
        expires_at_ms=_time_in(task, EXPIRES_HEADER),
        ignores_result=bool(task.request.ignore_result),
        trace=_trace_of(task),
    )
    admission = _or_requeue(task, task.runtime.admitter.admit(_request_of(args, members), envelope))
    if admission.item is None or not admission.item.is_terminal:
        raise Ignore
    return admission.item


def _trace_of(task: ImportTask) -> TraceContext | None:
    """Return the trace that the message's headers name."""
    headers = task.request.headers or {}
    return read_trace(headers.get(TRACEPARENT_HEADER), headers.get(TRACESTATE_HEADER))


def _time_in(task: ImportTask, header: str) -> int:
    """Return a time in the message's headers, in milliseconds since the epoch; 0 for none."""
    moment = maybe_iso8601((task.request.headers or {}).get(header))
    if moment is None:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, round(aware.timestamp() * 1000))


def _show_waiting(task: ImportTask) -> None:
    """Show the state. If the result backend fails, the import continues."""
    request = task.request
    try:
        if not request.ignore_result:
            meta = {"importId": request.id}
            task.runtime.announcer.states.show(str(request.id), meta, WAITING, request=request)
    except Exception as error:  # noqa: BLE001 - a backend may fail in any way
        task.runtime.announcer.note_failure(WAITING, error)


def _request_of(args: tuple[Any, ...], members: dict[str, Any]) -> object:
    """Return the request's members. In a chain, the previous import's result is not one of them."""
    if not args or (len(args) == 1 and _is_import_result(args[0])):
        return members
    return {"arguments": list(args), **members}


def _is_import_result(value: object) -> bool:
    return isinstance(value, dict) and {"importId", "outcome", "acceptedAt"} <= value.keys()


def _or_requeue(task: ImportTask, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a step. If the store can't be reached, return the message to the broker."""
    try:
        return task.runtime.run(coroutine)
    except StoreUnavailableError as error:
        raise Reject(error, requeue=True) from error
