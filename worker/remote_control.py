"""Celery's remote control commands, where Celery's own would not work with imports.

An import's task is in no worker while it waits and runs. On a Redis broker, Celery does not consume
the queue of the producers. A command that makes no sense is refused with a hint to the one that
does.
"""

from typing import Any, Final

from celery.worker import control
from celery.worker.control import control_command, inspect_command

from config.names import ADMIT_QUEUE, BATCH_TASK, FINISH_QUEUE, IMPORTS_QUEUE
from config.release import RELEASE
from worker.operations.registry import OPERATIONS
from worker.runtime import runtime_of_process

_celerys: Final[Any] = control  # its stubs leave out the commands
_OURS: Final = frozenset({BATCH_TASK, *OPERATIONS.tasks.values()})

_ok: Final = _celerys.ok
_nok: Final = _celerys.nok
_revoke: Final = _celerys.revoke
_stats: Final = _celerys.stats
_rate_limit: Final = _celerys.rate_limit
_time_limit: Final = _celerys.time_limit
_add_consumer: Final = _celerys.add_consumer
_cancel_consumer: Final = _celerys.cancel_consumer
_pool_grow: Final = _celerys.pool_grow
_pool_shrink: Final = _celerys.pool_shrink


@inspect_command()
def stats(state: Any, **options: Any) -> Any:
    """Return statistics of the worker, and the release of this software that it runs."""
    return {**_stats(state, **options), "release": RELEASE}


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: str | list[str], **options: Any) -> Any:
    """Revoke task by task id (or list of ids). An import that is under way is cancelled."""
    ids = [task_id] if isinstance(task_id, str) else task_id
    runtime = runtime_of_process(state.app)
    for import_id in ids:
        runtime.begin(runtime.store.cancel(import_id, "revoked"))
    return _revoke(state, task_id, **options)


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit>"
)
def rate_limit(state: Any, task_name: str, rate_limit: str, **options: Any) -> Any:
    """Limit a task's rate. Imports have the limits of their lanes instead."""
    if task_name in _OURS:
        return _nok(
            "limits belong to lanes and apply to all workers: use amplify-import lanes set-rate"
        )
    return _rate_limit(state, task_name, rate_limit, **options)


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(state: Any, task_name: str = "", **limits: Any) -> Any:
    """Limit a task's time. Imports have a deadline instead."""
    if task_name in _OURS:
        return _nok(
            "imports do not run in the pool: limit their time with deadlineSeconds or "
            "IMPORTS_DEADLINE_SECONDS"
        )
    return _time_limit(state, task_name, **limits)


@control_command(
    args=[
        ("queue", str),
        ("exchange", str),
        ("exchange_type", str),
        ("routing_key", str),
    ],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(state: Any, queue: str, *args: Any, **options: Any) -> Any:
    """Consume from a queue, or from `imports` again after cancel_consumer."""
    runtime = runtime_of_process(state.app)
    if queue == IMPORTS_QUEUE and runtime.messages is not None:
        runtime.run(runtime.messages.open())
        return _ok(f"add consumer {queue}")
    return _add_consumer(state, queue, *args, **options)


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **options: Any) -> Any:
    """Stop consuming from a queue. Other workers still consume `imports`."""
    if queue in (ADMIT_QUEUE, FINISH_QUEUE):
        return _nok(
            f"without {queue}, what this worker has taken would not end; to drain it, let it end: "
            "SIGTERM, or celery control shutdown"
        )
    runtime = runtime_of_process(state.app)
    if queue == IMPORTS_QUEUE and runtime.messages is not None:
        runtime.run(runtime.messages.close())
        return _ok(f"no longer consuming from {queue}")
    return _cancel_consumer(state, queue, **options)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **options: Any) -> Any:
    """Grow the pool, if it can grow."""
    return _refused_resizing(state) or _pool_grow(state, n, **options)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **options: Any) -> Any:
    """Shrink the pool, if it can shrink."""
    return _refused_resizing(state) or _pool_shrink(state, n, **options)


def _refused_resizing(state: Any) -> Any:
    if hasattr(state.consumer.pool, "grow"):
        return None
    return _nok(
        "this pool keeps its size: set IMPORTS_WORKER_CONCURRENCY and start the worker anew; "
        "calls to AWS are bounded by IMPORTS_MAX_IN_FLIGHT, whatever the pool"
    )
