"""The Celery application, found by `celery -A worker`."""

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any, Final

from celery import Celery, bootsteps
from celery.signals import (
    setup_logging,
    task_revoked,
    worker_init,
    worker_process_shutdown,
    worker_shutdown,
)
from celery.worker.state import active_requests

from config import flower
from config.celery import celery_config
from config.logging import configure_logging
from config.names import ADMIT_QUEUE, FINISH_HEADER, IMPORTS_QUEUE
from config.settings import SettingsError, load_settings
from worker.compression import bound_decompression
from worker.conductor import Conductor
from worker.options import check_command, check_options, level_asked_for
from worker.runtime import close_runtime, runtime_of_process
from worker.store.broker import (
    do_without_channels,
    limit_each_consumer,
    outlive_lost_connections,
    refuse_to_be_blocked,
)
from worker.watchdog import Watchdog

PULSE_SECONDS: Final = 1.0


class ConductorStep(bootsteps.StartStopStep):
    """Runs the conductor in the worker's main process, after its pool has been forked."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        """Check the worker's options; let Celery consume what is handed on, not what is taken."""
        super().__init__(worker, **kwargs)
        check_options(worker)
        queues = worker.app.amqp.queues
        if ADMIT_QUEUE in queues:
            queues.select_add(queues[ADMIT_QUEUE])
            queues.deselect(IMPORTS_QUEUE)

    def start(self, worker: Any) -> None:
        """Start conducting."""
        runtime = runtime_of_process(worker.app, worker.hostname)
        worker.conductor = Conductor(runtime, worker.hostname)
        worker.pulse = Pulse()
        self._watchdog = Watchdog(
            {
                "conductor": worker.conductor.progress,
                "consumer": worker.pulse.progress,
                "queues": partial(_unconsumed, worker.conductor),
            },
            patience_seconds=2 * runtime.settings.lease_seconds,
        )
        runtime.run(worker.conductor.start())
        self._watchdog.start()

    def stop(self, worker: Any) -> None:
        """Finish the calls on the way, claim nothing more."""
        self._watchdog.stop()
        runtime_of_process(worker.app).run(worker.conductor.stop())

    def terminate(self, worker: Any) -> None:
        """Do the same when the worker is told to hurry: claims are worth their calls' time."""
        self.stop(worker)


def _unconsumed(conductor: Conductor) -> object:
    """Return the messages that wait to be consumed; None while this worker has its hands full."""
    return None if active_requests else conductor.unconsumed


class Pulse:
    """Beats as long as Celery's consumer goes round."""

    def __init__(self) -> None:
        self._beats = 0
        self._timer: Any = None

    def start(self, timer: Any) -> None:
        """Beat from now on."""
        self._timer = timer.call_repeatedly(PULSE_SECONDS, self._beat)

    def stop(self) -> None:
        """Beat no longer: there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def progress(self) -> object:
        """Return the beats so far; None while the consumer waits for its broker."""
        return None if self._timer is None else self._beats

    def _beat(self) -> None:
        self._beats += 1


class PulseStep(bootsteps.StartStopStep):
    """Lets the pulse beat while the consumer is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Start the pulse on each new connection."""
        consumer.controller.pulse.start(consumer.timer)

    def stop(self, consumer: Any) -> None:
        """Stop it when the connection is lost."""
        consumer.controller.pulse.stop()

    def shutdown(self, consumer: Any) -> None:
        """Stop it when the worker stops."""
        self.stop(consumer)


class PrefetchStep(bootsteps.StartStopStep):
    """Lets RabbitMQ send on while messages wait here for their time.

    Celery raises the prefetch count then, which reaches no consumer that is there already.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Do so on each new connection."""
        if consumer.connection.transport.driver_type == "amqp":
            consumer.qos.callback = partial(_renew_consumers, consumer)


def _renew_consumers(consumer: Any, prefetch_count: int) -> None:  # noqa: ARG001 - kombu names it
    """Consume anew where the count rises: what was received before counts no more."""
    if consumer.qos.prev is not None and consumer.qos.value > consumer.qos.prev:
        consumer.task_consumer.qos(prefetch_count=consumer.initial_prefetch_count)
        consumer.task_consumer.cancel()
        consumer.task_consumer.consume()


def _configure() -> dict[str, Any]:
    check_command(sys.argv)
    try:
        return celery_config(load_settings())
    except SettingsError as error:
        raise SystemExit(f"amplify-import-worker: {error}") from None


# Flower looks for options in the environment and in a file that this names; it has no other hook.
os.environ.setdefault("FLOWER_CONF", flower.__file__)

outlive_lost_connections()
limit_each_consumer()
bound_decompression()
refuse_to_be_blocked()

app = Celery("amplify-import-worker", include=["worker.tasks"])
app.add_defaults(_configure)
app.steps["worker"].add(ConductorStep)
app.steps["consumer"].add(PrefetchStep)
app.steps["consumer"].add(PulseStep)


@setup_logging.connect
def _configure_logging(loglevel: int, logfile: str | None, **_: Any) -> None:
    configure_logging(load_settings(), level_asked_for(loglevel), logfile or "")


@worker_init.connect
def _do_without_channels(**_: Any) -> None:
    do_without_channels()


@worker_init.connect
def _take_control(**_: Any) -> None:
    """Let Celery's remote control do here what its user means."""
    import_module("worker.control")  # a worker's alone, and slow to import


@task_revoked.connect
def _settle_what_is_revoked(request: Any, **_: Any) -> None:
    """Note that a task is owed nothing more that Celery has ended as REVOKED."""
    if import_id := (request.headers or {}).get(FINISH_HEADER):
        runtime = runtime_of_process(app)
        runtime.begin(runtime.store.settle(import_id, request.id))


@worker_shutdown.connect
@worker_process_shutdown.connect
def _close_runtime(**_: Any) -> None:
    close_runtime()
