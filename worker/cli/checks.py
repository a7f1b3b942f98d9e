"""What a check of `doctor` comes to, and the advice that fits what a server said."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from worker.cli.client import said_of

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
        "free disk space for the server and look into its log: it can't save, and takes no writes",
    ),
    (re.compile(r"read only replica"), "connect to the primary"),
    (re.compile(r"loading the dataset"), "wait until the server has read its data"),
    (
        re.compile(r"Not enough good replicas"),
        "start the replicas that min-replicas-to-write wants",
    ),
    (
        re.compile(r"Authentication required|already authenticated|invalid username-password"),
        "give the right user and password in the URL, percent-encoded",
    ),
    (
        re.compile(r"max number of clients"),
        "raise maxclients, or end other clients: a worker needs some 40 connections",
    ),
    (
        re.compile(r"no permissions?\b|NOPERM|ACL failure", re.IGNORECASE),
        "grant it to this user; config/redis-acl.conf holds all that is needed",
    ),
    (
        re.compile(r"blocked by an alarm"),
        "free memory or disk space of the broker; `rabbitmqctl status` names the alarm",
    ),
)


class Verdict(StrEnum):
    """How a check came out; a warning needs no mending for imports to work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy` is what to do, '' where all is well."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def judge(
    name: str, detail: str, *, well: bool, remedy: str, otherwise: Verdict = Verdict.FAIL
) -> Check:
    """Return a check that is well, or what else it is and what to do."""
    return Check(name, Verdict.OK, detail) if well else Check(name, otherwise, detail, remedy)


def failed(
    name: str, what: str, error: BaseException, remedy: str, verdict: Verdict = Verdict.FAIL
) -> Check:
    """Return the check of what an error ended; `remedy` is for causes that nobody knows better."""
    said = f"{what} {said_of(error)}"
    return Check(name, verdict, said, advice_on(said, remedy))


def advice_on(said: str, otherwise: str) -> str:
    """Return what to do about what a server said."""
    return next((advice for sign, advice in _ADVICE if sign.search(said)), otherwise)


async def within(
    seconds: float, name: str, checking: Awaitable[Sequence[Check]], remedy: str
) -> list[Check]:
    """Return the checks, or one that says that their time ran out."""
    try:
        async with asyncio.timeout(seconds):
            return [*await checking]
    except TimeoutError:
        return [Check(name, Verdict.FAIL, f"no answer within {seconds:g} s", remedy)]


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function that may hang on a thread that nobody waits for at the end."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)
