"""The checks of `doctor`: their verdicts, and advice for the error messages of servers."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from worker.cli.client import message_of

T = TypeVar("T")

_ADVICE: Final = (
    (
        re.compile(r"used memory > 'maxmemory'"),
        (
            "raise maxmemory (policy noeviction); what grows: records and results with"
            " the imports of IMPORTS_RETENTION_SECONDS, events up to IMPORTS_EVENTS_MAX_LENGTH,"
            " queues while no worker runs"
        ),
    ),
    (
        re.compile(r"MISCONF"),
        "free disk space for the server and read its log: it can't save, and takes no writes",
    ),
    (re.compile(r"read only replica"), "connect to the primary"),
    (re.compile(r"loading the dataset"), "wait until the server has read its data"),
    (
        re.compile(r"Not enough good replicas"),
        "start the replicas that min-replicas-to-write wants",
    ),
    (
        re.compile(r"Authentication required|already authenticated|invalid username-password"),
        "set the right user and password in the URL, percent-encoded",
    ),
    (
        re.compile(r"max number of clients"),
        "raise maxclients, or disconnect other clients: a worker needs about 40 connections",
    ),
    (
        re.compile(r"no permissions?\b|NOPERM|ACL failure", re.IGNORECASE),
        "grant it to this user; config/redis-acl.conf has all permissions that are needed",
    ),
    (
        re.compile(r"blocked by an alarm"),
        "free memory or disk space of the broker; `rabbitmqctl status` names the alarm",
    ),
)


class Verdict(StrEnum):
    """The result of a check. Imports work in spite of a warning."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `remedy` says what to do; it is '' if there is nothing to do."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def judge(
    name: str, detail: str, *, well: bool, remedy: str, otherwise: Verdict = Verdict.FAIL
) -> Check:
    """Return an OK check if `well`; else one with the verdict `otherwise` and the remedy."""
    return Check(name, Verdict.OK, detail) if well else Check(name, otherwise, detail, remedy)


def failed(
    name: str, what: str, error: BaseException, remedy: str, verdict: Verdict = Verdict.FAIL
) -> Check:
    """Return the check of something that failed with `error`.

    `remedy` is the advice for errors that have no advice of their own.
    """
    said = f"{what} {message_of(error)}"
    return Check(name, verdict, said, advice_on(said, remedy))


def advice_on(said: str, otherwise: str) -> str:
    """Return the advice for a server's error message; `otherwise` if there is none."""
    return next((advice for sign, advice in _ADVICE if sign.search(said)), otherwise)


async def within(
    seconds: float, name: str, checking: Awaitable[Sequence[Check]], remedy: str
) -> list[Check]:
    """Return the results of `checking`, or one failed check if it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return [*await checking]
    except TimeoutError:
        return [Check(name, Verdict.FAIL, f"no answer within {seconds:g} s", remedy)]


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function that may hang. Its thread does not delay the end of the program."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - any error is passed to the caller
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)
