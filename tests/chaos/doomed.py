"""A worker that notes each boundary it passes, and dies or stands still at one of them.

`celery -A tests.chaos.doomed worker`, steered by the environment:

- `DOOMED_RECORD`: a file that gets a line, the boundary's name, at each passing;
- `DOOMED_AT`, `DOOMED_COUNT`: the name at whose n-th passing it sends itself a signal;
- `DOOMED_BY`: that signal, SIGKILL if none is given. With SIGSTOP it says `STANDS_STILL` before.

A boundary stands before and after each step that leaves the process: each script by its name,
other commands of the store, each API call, each task published, each result stored, each message
taken and acknowledged. No list of them is kept here: what a worker passes is what there is.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final

from celery import Celery
from celery.backends.base import Backend
from kombu.transport.redis import QoS

from tests.chaos.nursery import STANDS_STILL
from worker import conductor
from worker.celery import app
from worker.operations.aws import Aws
from worker.sinks.celery import CeleryAnnouncer
from worker.store.messages import ImportsQueue
from worker.store.requests import RequestsStream
from worker.store.scripts import Scripts
from worker.store.store import ImportStore

__all__ = ["app"]

NOTHING: Final = "nothing"
"""What is said of a step that found no work."""

ALWAYS_TRUE: Final = frozenset({"answered", "settled"})
"""Arguments of scripts that tell apart nothing: nearly every answer sets them."""


class Boundaries:
    """Notes what is passed, and ends the process where it is told to."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._fatal = environment.get("DOOMED_AT")
        self._left = int(environment.get("DOOMED_COUNT", "1"))
        self._signal = signal.Signals[environment.get("DOOMED_BY", "SIGKILL")]
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._record: int | None = None
        if path := environment.get("DOOMED_RECORD"):
            self._record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reach_in_loop(self, name: str) -> None:
        """Pass a boundary on the event loop, where calls are made."""
        self._loop = asyncio.get_running_loop()
        if self._pass(name):
            self._end()

    def reach(self, name: str) -> None:
        """Pass a boundary on another thread; may be the last thing this process does."""
        if not self._pass(name):
            return
        if self._signal is not signal.SIGSTOP or self._loop is None:
            self._end()
            return
        # The loop is to stand at a boundary as well. Stopped from here, it could stand between the
        # last look at the clock and the system call that sends: rarely, if threads did not take
        # turns at system calls. What is sent then is late, and nobody promises that it is not.
        stood_still = threading.Event()

        def stand_still() -> None:
            self._end()
            stood_still.set()

        self._loop.call_soon_threadsafe(stand_still)
        stood_still.wait()

    def _pass(self, name: str) -> bool:
        """Note that a boundary is passed; return whether this is the time to end."""
        if self._record is not None:
            os.write(self._record, f"{name}\n".encode())
        if name != self._fatal:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0

    def _end(self) -> None:
        if self._signal is signal.SIGSTOP:
            os.write(1, f"{STANDS_STILL}\n".encode())
        os.kill(os.getpid(), self._signal)


boundaries = Boundaries(os.environ)

Naming = Callable[..., str]
Finding = Callable[[str, Any], Collection[str]]


def wrap(owner: type, method: str, naming: Naming, finding: Finding = lambda *_: ()) -> None:
    """Put boundaries before and after a method.

    `naming` makes the step's name of its arguments, `finding` tells after it what it brought, each
    of which is a boundary of its own. A step that fails has been made all the same.
    """
    function = getattr(owner, method)

    def boundaries_after(name: str, reply: Any) -> list[str]:
        return [f"after:{name}{found and '='}{found}" for found in finding(name, reply) or ("",)]

    @wraps(function)
    async def passing_async(*args: Any, **kwargs: Any) -> Any:
        name, reply = naming(*args, **kwargs), None
        boundaries.reach_in_loop(f"before:{name}")
        try:
            reply = await function(*args, **kwargs)
        finally:
            for boundary in boundaries_after(name, reply):
                boundaries.reach_in_loop(boundary)
        return reply

    @wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        name, reply = naming(*args, **kwargs), None
        boundaries.reach(f"before:{name}")
        try:
            reply = function(*args, **kwargs)
        finally:
            for boundary in boundaries_after(name, reply):
                boundaries.reach(boundary)
        return reply

    setattr(owner, method, passing_async if iscoroutinefunction(function) else passing)


def script_step(_: Scripts, name: str, **args: Any) -> str:
    """Name a script, and what it is called for: a transition is told from another."""
    told = [args[key] for key in ("call", "doubt", "state") if args.get(key)]
    flags = [key for key, value in args.items() if value is True and key not in ALWAYS_TRUE]
    return ".".join((name, *told, *flags))


def found_by_script(name: str, reply: Any) -> Collection[str]:
    """Tell what a script that looks for work has found."""
    match name, reply:
        case "claim", [_, *claims]:
            return sorted({claim[0] for claim in claims}) or (NOTHING,)
        case "take_messages", [taken, _, _, junk]:
            return (*(["messages"] if taken else []), *(["junk"] if junk else [])) or (NOTHING,)
        case (("overdue" | "sweep"), []):
            return (NOTHING,)
    return ()


def found_in_stream(_: str, reply: Any) -> Collection[str]:
    """Tell whether entries came."""
    return () if reply else (NOTHING,)


def _named(name: str) -> Naming:
    return lambda *_args, **_kwargs: name


def _wrap_store() -> None:
    wrap(Scripts, "call", script_step, found_by_script)
    for method in ("read", "take_over"):
        wrap(RequestsStream, method, _named(f"requests.{method}"), found_in_stream)
    for method in ("open", "done"):
        wrap(RequestsStream, method, _named(f"requests.{method}"))
    wrap(ImportStore, "load", _named("store.load"))
    wrap(ImportStore, "wait_for_hint", _named("store.wait_for_hint"), found_in_stream)
    for method in ("wait", "forget"):
        wrap(ImportsQueue, method, _named(f"messages.{method}"))


def _wrap_world() -> None:
    wrap(Aws, "call", lambda _self, _account, _region, method, *_: f"aws.{method}")
    # Its own methods, on its thread: a worker that shows a state may die between result and event.
    wrap(CeleryAnnouncer, "_show_waiting", _named("announce.waiting"))
    wrap(CeleryAnnouncer, "_show_running", _named("announce.running"))
    wrap(CeleryAnnouncer, "_publish_tasks", _named("announce.ended"))


def _wrap_celery() -> None:
    wrap(Celery, "send_task", lambda _self, name, *_, **__: f"publish.{name}")
    wrap(Backend, "store_result", lambda _self, _id, _result, state, *_, **__: f"result.{state}")
    wrap(QoS, "append", lambda _self, message, _tag: f"take.{_queue_of(message)}")
    for method in ("ack", "reject"):
        wrap(QoS, method, _settling(method))


def _settling(method: str) -> Naming:
    def name(qos: QoS, delivery_tag: str, **_: Any) -> str:
        noted: Mapping[str, Any] = qos._delivered or {}  # noqa: SLF001 - kombu's own ledger
        return f"{method}.{_queue_of(noted.get(delivery_tag))}"

    return name


def _queue_of(message: Any) -> str:
    return str(message.delivery_info["routing_key"]) if message else "unknown"


_wrap_store()
_wrap_world()
_wrap_celery()
# Lest each trial of it take half a minute.
conductor.SWEEP_SECONDS = 1.0  # type: ignore[misc]  # that is the point
