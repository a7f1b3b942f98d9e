"""The Celery tasks: two doors, and the native end of every import.

An import's task is deferred, not held: it admits the request and steps aside (`Ignore`), and the
same task id is published again when the import is over. So results, links, chains, groups, chords
and Flower work as for any task, while nothing occupies a worker slot or the broker meanwhile.
"""

import time
from collections.abc import Coroutine
from datetime import UTC
from typing import Any, Final, TypeVar

import structlog
from celery import Task, shared_task
from celery.exceptions import Ignore, Reject
from celery.utils.time import maybe_iso8601
from kombu.utils.json import dumps

from config.names import (
    BATCH_TASK,
    EXPIRES_HEADER,
    FINISH_HEADER,
    FINISH_QUEUE,
    FORMAT_HEADER,
    IMPORT_TASK,
    NOT_BEFORE_HEADER,
)
from worker.domain.errors import ImportEndedError, ImportRejected
from worker.domain.imports import Import, ImportResult
from worker.domain.outcomes import Entrance, Verdict
from worker.domain.requests import InvalidRequestError
from worker.runtime import Runtime, runtime_of_process
from worker.sinks.celery import WAITING
from worker.store.connection import StoreUnavailableError
from worker.store.keys import FORMAT

log = structlog.get_logger()

T = TypeVar("T")

STAND_BACK_SECONDS: Final = 1.0
_BATCH_MEMBERS: Final = (
    "batchId",
    "requests",
    "offset",
    "total",
    "canary",
    "stopPercent",
    "recoverSince",
)


class ImportTask(Task[..., Any]):
    """The task of one import: settles with the store once its result is stored."""

    typing = False  # members are checked by the request model, which names what is wrong
    throws = (ImportEndedError,)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task; unlike Celery's own call, with any member name, `self` too."""
        return self.run(*args, **kwargs)

    @property
    def runtime(self) -> Runtime:
        """The runtime of this process."""
        return runtime_of_process(self.app)

    def after_return(self, _status: str, _result: Any, task_id: str, *_: Any) -> None:
        """Tell the store that this task is owed nothing more."""
        import_id = self.request.get("import_id")
        if import_id:
            self.runtime.run(self.runtime.store.settle(import_id, task_id))


@shared_task(bind=True, base=ImportTask, name=IMPORT_TASK)
def import_backend_auth(self: ImportTask, /, *args: Any, **members: Any) -> ImportResult:
    """Import one app's backend auth; the members are those of the request.

    Returns the import's result.

    Raises:
        ImportEndedError: one of its kinds, when the import ended other than `succeeded`.

    """
    item = _ended_import(self) if _is_finishing(self) else _admitted_import(self, args, members)
    if item.has_expired:
        raise _revoked(self, item)
    self.request.update(import_id=item.id)
    if error := item.ended_error():
        raise error
    return item.result()


@shared_task(bind=True, base=ImportTask, name=BATCH_TASK)
def import_batch(self: ImportTask, /, *args: Any, **members: Any) -> dict[str, Any]:
    """Admit up to 1,000 requests of a batch.

    Returns `{"batchId", "accepted", "known", "rejected"}`: how many requests were received how.
    """
    batch: dict[str, Any] = dict.fromkeys(_BATCH_MEMBERS)
    problems = [(name, "is not a member of a batch") for name in members if name not in batch]
    if args:
        problems.append(("arguments", "must be given by name"))
    if problems:
        raise _rejected_batch(self, str(InvalidRequestError(tuple(problems))))
    batch.update(members)
    admitting = self.runtime.admitter.admit_batch(
        batch["batchId"],
        batch["requests"],
        offset=0 if batch["offset"] is None else batch["offset"],
        total=batch["total"],
        canary=batch["canary"],
        stop_percent=batch["stopPercent"],
        recover_since=batch["recoverSince"],
        not_before_ms=_time_in(self, NOT_BEFORE_HEADER),
    )
    try:
        admissions = _or_requeue(self, admitting)
    except InvalidRequestError as error:
        raise _rejected_batch(self, str(error)) from None
    verdicts = [admission.verdict for admission in admissions]
    told = (Verdict.ACCEPTED, Verdict.KNOWN, Verdict.REJECTED)
    return {"batchId": batch["batchId"], **{name.value: verdicts.count(name) for name in told}}


def _rejected_batch(task: ImportTask, error: str) -> ImportRejected:
    """Leave a trace of a message that is wrong as a whole: a rejected import of the task's id."""
    task_id = str(task.request.id)
    entrance = Entrance(import_id=task_id, task_id=task_id, signature="native")
    _or_requeue(task, task.runtime.admitter.reject({}, entrance, error))
    return ImportRejected(error)


def _is_finishing(task: ImportTask) -> bool:
    return bool((task.request.headers or {}).get(FINISH_HEADER))


def _format_of(task: ImportTask) -> int:
    told = (task.request.headers or {}).get(FORMAT_HEADER)
    return told if isinstance(told, int) else FORMAT


def _ended_import(task: ImportTask) -> Import:
    """Load the import that this message says is over."""
    if _format_of(task) > FORMAT:
        time.sleep(STAND_BACK_SECONDS)  # a later release's worker may take it meanwhile
        raise Reject(f"a record of a later format than {FORMAT}", requeue=True)
    import_id = str((task.request.headers or {})[FINISH_HEADER])
    item = _or_requeue(task, task.runtime.store.load(import_id))
    if item is None:
        raise ImportRejected(f"import {import_id} ended, and its record has expired since")
    if not item.is_terminal:
        raise Ignore
    return item


def _admitted_import(task: ImportTask, args: tuple[Any, ...], members: dict[str, Any]) -> Import:
    """Admit the import; return it if it is over already, else step aside."""
    # Before admission: an import may be over before a later note is written.
    _show_waiting(task)
    task_id = str(task.request.id)
    entrance = Entrance(
        import_id=task_id,
        task_id=task_id,
        signature=dumps(task.signature_from_request(queue=FINISH_QUEUE, expires=None)),
        not_before_ms=_time_in(task, NOT_BEFORE_HEADER),
        expires_at_ms=_time_in(task, EXPIRES_HEADER),
        ignores_result=bool(task.request.ignore_result),
    )
    admission = _or_requeue(task, task.runtime.admitter.admit(_request_of(args, members), entrance))
    if admission.item is None or not admission.item.is_terminal:
        raise Ignore
    return admission.item


def _time_in(task: ImportTask, header: str) -> int:
    """Return a time of the message, in milliseconds since the epoch; 0 where there is none."""
    moment = maybe_iso8601((task.request.headers or {}).get(header))
    if moment is None:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, round(aware.timestamp() * 1000))


def _revoked(task: ImportTask, item: Import) -> Ignore:
    """End the task of an import that has expired, as Celery ends a task that has."""
    request = task.request
    task.backend.mark_as_revoked(
        str(request.id), item.error, request=request, store_result=not request.ignore_result
    )
    task.send_event("task-revoked", terminated=False, signum=None, expired=True)
    task.runtime.run(task.runtime.store.settle(item.id, str(request.id)))
    return Ignore()


def _show_waiting(task: ImportTask) -> None:
    """Show the state; a result backend or a broker that can't tells nobody, and stops nothing."""
    request = task.request
    try:
        if not request.ignore_result:
            meta = {"importId": request.id}
            task.runtime.announcer.store_state(str(request.id), meta, WAITING, request=request)
        task.send_event("task-waiting")
    except Exception as error:  # noqa: BLE001 - backends and brokers of any make fail in any way
        log.warning("announcement.failed", step=WAITING, error=str(error))


def _request_of(args: tuple[Any, ...], members: dict[str, Any]) -> object:
    """Return the request's members; the result of an import before it in a chain is no member."""
    if not args or (len(args) == 1 and _is_import_result(args[0])):
        return members
    return {"arguments": list(args), **members}


def _is_import_result(value: object) -> bool:
    return isinstance(value, dict) and {"importId", "outcome", "acceptedAt"} <= value.keys()


def _or_requeue(task: ImportTask, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a step; while the store can't be reached, the message goes back to the broker."""
    try:
        return task.runtime.run(coroutine)
    except StoreUnavailableError as error:
        raise Reject(error, requeue=True) from error
