"""The options of a worker: those that can't work here are refused with one sentence."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import click
from celery.concurrency.prefork import TaskPool as Prefork
from click.core import ParameterSource

from config.names import FINISH_QUEUE, IMPORTS_QUEUE

POOLS: Final = "threads, prefork and solo"


def check_options(worker: Any) -> None:
    """Check the options of a Celery worker before any part of it runs.

    Raises:
        SystemExit: with one sentence that says what to do.

    """
    if problem := _problem_of(worker):
        raise SystemExit(f"amplify-import-worker: {problem}")


def check_command(arguments: Sequence[str]) -> None:
    """Check a command line before the worker leaves the terminal, where errors are visible.

    Raises:
        SystemExit: with one sentence that says what to do.

    """
    is_detached = "worker" in arguments and {"-D", "--detach"} & set(arguments)
    if is_detached and not any(each.startswith(("-f", "--logfile")) for each in arguments):
        raise SystemExit(
            "amplify-import-worker: -D needs --logfile: the worker's log would be lost"
        )


def level_asked_for(level: int) -> str:
    """Return the log level in the command line; '' if it is only Celery's default."""
    context = click.get_current_context(silent=True)
    if (
        context is None
        or context.get_parameter_source("loglevel") is not ParameterSource.COMMANDLINE
    ):
        return ""
    return logging.getLevelName(level)


def _problem_of(worker: Any) -> str:
    pool = worker.pool_cls
    name = pool.__module__.rpartition(".")[2]
    if pool.is_green:
        return (
            f"the pool {name} can't run here, {POOLS} can: unset -P; calls to AWS wait in no pool, "
            "so that IMPORTS_MAX_IN_FLIGHT bounds them"
        )
    if worker.autoscale and not issubclass(pool, Prefork):
        return (
            f"--autoscale needs a pool that can grow, and {name} can't: set "
            "IMPORTS_WORKER_POOL=prefork, or IMPORTS_WORKER_CONCURRENCY in place of --autoscale"
        )
    consumed = worker.app.amqp.queues.consume_from
    if missing := [name for name in (IMPORTS_QUEUE, FINISH_QUEUE) if name not in consumed]:
        return (
            f"-Q and -X leave out {' and '.join(missing)}: a worker serves {IMPORTS_QUEUE} and "
            f"{FINISH_QUEUE}, else imports would not be admitted, or not end; give both to -Q"
        )
    return ""
