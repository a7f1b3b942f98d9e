"""The Celery application, found by `celery -A worker`."""

import gc
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Final

from celery import Celery, bootsteps
from celery.signals import (
    setup_logging,
    task_revoked,
    worker_init,
    worker_process_shutdown,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker.state import active_requests

import config
from config.celery import celery_config
from config.logging import configure_logging
from config.names import ADMIT_QUEUE, FINISH_HEADER, IMPORTS_QUEUE
from config.settings import SettingsError, load_settings
from worker.conductor import Conductor
from worker.doors.compression import bound_decompression
from worker.options import check_command, check_options, level_asked_for
from worker.runtime import close_runtime, runtime_of_process
from worker.store.broker import (
    ask_seldom,
    close_at_once,
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
        """Check the options; make Celery consume forwarded messages instead of `imports`."""
        super().__init__(worker, **kwargs)
        check_options(worker)
        gc.freeze()  # modules stay: collecting them would only hold up the loops and the exit
        worker.monitor = _open_monitor()
        worker_shutting_down.connect(self._note_stopping, weak=False)
        self._monitor = worker.monitor
        queues = worker.app.amqp.queues
        if ADMIT_QUEUE in queues:
            queues.select_add(queues[ADMIT_QUEUE])
            queues.deselect(IMPORTS_QUEUE)

    def start(self, worker: Any) -> None:
        """Start the conductor and the watchdog."""
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
        if self._monitor is not None:
            self._monitor.start(
                runtime,
                in_flight=lambda: worker.conductor.in_flight,
                silence=self._watchdog.silence,
                stuck=self._watchdog.stuck,
            )
        runtime.run(worker.conductor.start())
        self._watchdog.start()
        if worker.hub is not None:
            worker_shutting_down.connect(lambda **_: _wake(worker.hub), weak=False)

    def stop(self, worker: Any) -> None:
        """Finish the calls in progress, and claim nothing more."""
        self._note_stopping()
        self._watchdog.stop()
        runtime_of_process(worker.app).run(worker.conductor.stop())

    def terminate(self, worker: Any) -> None:
        """Do the same if the worker must end faster: calls in progress are worth the wait."""
        self.stop(worker)

    def _note_stopping(self, **_: Any) -> None:
        if self._monitor is not None:
            self._monitor.note_stopping()


def _open_monitor() -> Any:
    """Return what serves this worker's metrics and health; None if it serves none."""
    settings = load_settings()
    if not settings.metrics_port:
        return None
    return import_module("worker.monitor").Monitor(settings)  # its import takes long


def _unconsumed(conductor: Conductor) -> object:
    """Return the messages that wait to be consumed; None while this worker is busy."""
    return None if active_requests else conductor.intake.unconsumed


def _wake(hub: Any) -> None:
    """Make Celery's loop look at its flags now, not when its next timer is due.

    A signal does not end its wait. Another thread wakes it, because the signal's handler may have
    interrupted the loop itself, with its lock held.
    """
    Thread(target=hub.call_soon, args=(lambda: None,), name="wake", daemon=True).start()


class Pulse:
    """Counts up as long as Celery's consumer runs."""

    def __init__(self) -> None:
        self._beats = 0
        self._timer: Any = None

    def start(self, timer: Any) -> None:
        """Start counting."""
        self._timer = timer.call_repeatedly(PULSE_SECONDS, self._beat)

    def stop(self) -> None:
        """Stop counting, because there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def progress(self) -> object:
        """Return the count; None while the consumer waits for its broker."""
        return None if self._timer is None else self._beats

    def _beat(self) -> None:
        self._beats += 1


class PulseStep(bootsteps.StartStopStep):
    """Runs the pulse while the consumer is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Start the pulse on each new connection."""
        consumer.controller.pulse.start(consumer.timer)

    def stop(self, consumer: Any) -> None:
        """Stop the pulse when the connection is lost."""
        consumer.controller.pulse.stop()

    def shutdown(self, consumer: Any) -> None:
        """Stop the pulse when the worker stops."""
        self.stop(consumer)


class PrefetchStep(bootsteps.StartStopStep):
    """Makes RabbitMQ send more messages while others wait here for their time.

    Celery raises the prefetch count then, but this does not reach existing consumers.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Do so on each new connection."""
        if consumer.connection.transport.driver_type == "amqp":
            consumer.qos.callback = partial(_renew_consumers, consumer)


def _renew_consumers(consumer: Any, prefetch_count: int) -> None:  # noqa: ARG001 - kombu names it
    """Consume anew if the count rises, because the new count applies only to new consumers."""
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


# Flower reads options from the environment and from a file that this variable names.
os.environ.setdefault("FLOWER_CONF", str(Path(config.__file__).with_name("flower.py")))

outlive_lost_connections()
close_at_once()
limit_each_consumer()
bound_decompression()
refuse_to_be_blocked()

app = Celery("amplify-import-worker", include=["worker.doors.tasks"])
app.add_defaults(_configure)
app.steps["worker"].add(ConductorStep)
app.steps["consumer"].add(PrefetchStep)
app.steps["consumer"].add(PulseStep)


@setup_logging.connect
def _configure_logging(loglevel: int, logfile: str | None, **_: Any) -> None:
    configure_logging(load_settings(), level_asked_for(loglevel), logfile or "")


@worker_init.connect
def _adapt_transport(**_: Any) -> None:
    do_without_channels()
    ask_seldom()


@worker_init.connect
def _take_control(**_: Any) -> None:
    """Adapt Celery's remote control commands to imports."""
    import_module("worker.remote_control")  # only a worker needs it, and its import takes long


@task_revoked.connect
def _note_revoked_task_done(request: Any, **_: Any) -> None:
    """Note in the store that a task from the finish queue is done that Celery ended as REVOKED."""
    if import_id := (request.headers or {}).get(FINISH_HEADER):
        runtime = runtime_of_process(app)
        runtime.begin(runtime.store.note_task_done(import_id, request.id))


@worker_shutdown.connect
@worker_process_shutdown.connect
def _close_runtime(sender: Any = None, **_: Any) -> None:
    if monitor := getattr(sender, "monitor", None):
        monitor.close()
    close_runtime()
