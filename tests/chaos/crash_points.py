"""A worker that records each crash boundary it passes, and is killed or frozen at one of them.

The environment of `celery -A tests.chaos.crash_points worker` controls it:

- `CRASH_RECORD`: a file that gets a line with the boundary's name at each passing;
- `CRASH_AT`, `CRASH_COUNT`: the worker sends itself a signal when it passes the boundary of this
  name for the n-th time;
- `CRASH_SIGNAL`: that signal, SIGKILL by default. Before SIGSTOP, the worker writes
  `FROZEN_MESSAGE`.

A crash boundary is before and after each step that leaves the process: each script by its name,
other commands to the store, each API call, each published task, each stored result, each message
taken and each acknowledgement. This module has no list of boundaries: a recording of a worker
yields it.
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

from tests.chaos.crashing_worker import FROZEN_MESSAGE
from worker import conductor
from worker.announcer.celery import CeleryAnnouncer
from worker.announcer.states import TaskStates
from worker.celery import app
from worker.operations.aws import Aws
from worker.store.group_commit import GroupCommit
from worker.store.messages import ImportsQueue
from worker.store.requests import RequestsStream
from worker.store.scripts import Scripts
from worker.store.store import ImportStore

__all__ = ["app"]

NOTHING: Final = "nothing"
"""Stands for the result of a step that found no work."""

ALWAYS_TRUE: Final = frozenset({"answered", "settled"})
"""Arguments of scripts that distinguish nothing, since nearly every answer sets them."""

OBSERVED: Final = ("failure", "pause", "throttle")
"""What a lane may learn from an answer in the step that records it.

Facts and the answer to a probe are left out: which call brings them first depends on timing, and a
boundary must have the same name in every run.
"""


class Boundaries:
    """Records the boundaries that are passed, and ends the process at the configured one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._crash_at = environment.get("CRASH_AT")
        self._remaining = int(environment.get("CRASH_COUNT", "1"))
        self._signal = signal.Signals[environment.get("CRASH_SIGNAL", "SIGKILL")]
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._record: int | None = None
        if path := environment.get("CRASH_RECORD"):
            self._record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reach_in_loop(self, name: str) -> None:
        """Pass a boundary on the event loop, where calls are made."""
        self._loop = asyncio.get_running_loop()
        if self._pass(name):
            self._end()

    def reach(self, name: str) -> None:
        """Pass a boundary on another thread. The process may end here."""
        if not self._pass(name):
            return
        if self._signal is not signal.SIGSTOP or self._loop is None:
            self._end()
            return
        # The loop must stop at a boundary, too. A signal from this thread could stop the loop
        # between its last look at the clock and the system call that sends a request. Threads
        # switch at system calls, so this happens. The request would then be sent late, and no
        # promise covers that.
        frozen = threading.Event()

        def freeze() -> None:
            self._end()
            frozen.set()

        self._loop.call_soon_threadsafe(freeze)
        frozen.wait()

    def _pass(self, name: str) -> bool:
        """Record that a boundary is passed; return whether the process must end now."""
        if self._record is not None:
            os.write(self._record, f"{name}\n".encode())
        if name != self._crash_at:
            return False
        with self._lock:
            self._remaining -= 1
            return self._remaining == 0

    def _end(self) -> None:
        if self._signal is signal.SIGSTOP:
            os.write(1, f"{FROZEN_MESSAGE}\n".encode())
        os.kill(os.getpid(), self._signal)


boundaries = Boundaries(os.environ)

Naming = Callable[..., str]
Finding = Callable[[str, Any], Collection[str]]


def wrap(owner: type, method: str, naming: Naming, finding: Finding = lambda *_: ()) -> None:
    """Put boundaries before and after a method.

    `naming` makes the step's name from the arguments. `finding` returns what the step found; each
    finding has its own boundary after the step. A step that raises has its boundary after it as
    well.
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


def script_step(name: str, **args: Any) -> str:
    """Return a script's name and the arguments that distinguish one use of it from another."""
    parts = [args[key] for key in ("call", "doubt", "state", "why") if args.get(key)]
    flags = [key for key, value in args.items() if value is True and key not in ALWAYS_TRUE]
    learned = [key for key in OBSERVED if key in args.get("observed", ())]
    return ".".join((name, *parts, *flags, *learned))


def answer_step(_: GroupCommit, script: str, answer: Mapping[str, Any]) -> str:
    """Return the name of the step that records one answer, perhaps together with others."""
    return script_step(script, **answer)


def found_by_script(name: str, reply: Any) -> Collection[str]:
    """Return what a script that looks for work has found; `reply` is None if the script failed."""
    match name, reply:
        case "claim", dict():
            return sorted({claim["call"] for claim in reply["claims"]}) or (NOTHING,)
        case "take_messages", dict():
            kinds = {"messages": reply["taken"], "junk": reply["junk"]}
            return [kind for kind, there in kinds.items() if there] or (NOTHING,)
        case "overdue", dict() if not reply["ended"]:
            return (NOTHING,)
        case "sweep", dict() if not reply["stranded"]:
            return (NOTHING,)
    return ()


def found_in_stream(_: str, reply: Any) -> Collection[str]:
    """Return whether entries were found."""
    return () if reply else (NOTHING,)


def _named(name: str) -> Naming:
    return lambda *_args, **_kwargs: name


def _wrap_store() -> None:
    wrap(Scripts, "call", lambda _self, name, **args: script_step(name, **args), found_by_script)
    wrap(GroupCommit, "record", answer_step)
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
    # These methods run on the announcer's own thread. A worker may die there between a result and
    # its event.
    wrap(CeleryAnnouncer, "_show_waiting", _named("announce.waiting"))
    wrap(CeleryAnnouncer, "_show_running", _named("announce.running"))
    wrap(CeleryAnnouncer, "_complete", _named("announce.complete"))
    wrap(TaskStates, "end", _named("results.end"))


def _wrap_celery() -> None:
    wrap(Celery, "send_task", lambda _self, name, *_, **__: f"publish.{name}")
    wrap(Backend, "store_result", lambda _self, _id, _result, state, *_, **__: f"result.{state}")
    wrap(QoS, "append", lambda _self, message, _tag: f"take.{_queue_of(message)}")
    for method in ("ack", "reject"):
        wrap(QoS, method, _naming_acknowledgement(method))


def _naming_acknowledgement(method: str) -> Naming:
    def name(qos: QoS, delivery_tag: str, **_: Any) -> str:
        noted: Mapping[str, Any] = qos._delivered or {}  # noqa: SLF001 - kombu records deliveries here
        return f"{method}.{_queue_of(noted.get(delivery_tag))}"

    return name


def _queue_of(message: Any) -> str:
    return str(message.delivery_info["routing_key"]) if message else "unknown"


_wrap_store()
_wrap_world()
_wrap_celery()
# The default of half a minute would slow every trial down.
conductor.SWEEP_SECONDS = 1.0  # type: ignore[misc]  # the test shortens it deliberately
