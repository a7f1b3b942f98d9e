"""What the commands share: the way to the store and to the broker, and how commands end.

Exit codes are part of the command line's contract; `amplify-import --help` lists them.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import click
from amqp.exceptions import AMQPError, ChannelError
from celery import Celery
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from rich.console import Console

from config.logging import mask_text
from config.names import BATCH_TASK, IMPORTS_QUEUE
from config.settings import Settings, SettingsError
from worker.cli.batchfile import Row
from worker.cli.output import ShownConsole, drawn
from worker.domain.outcomes import NO_RULE, StopRule
from worker.domain.requests import derive_import_id
from worker.store.connection import StoreUnavailableError, connect
from worker.store.views import ImportViews

REQUESTS_A_MESSAGE: Final = 500
BROKER_ERRORS: Final = (OperationalError, AMQPError, RedisError, OSError)
SEND_RETRIES: Final = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2}


class BadInputError(click.ClickException):
    """What the user gave can't be used."""

    exit_code = 2


class UnreachableError(click.ClickException):
    """The store or the broker can't be reached."""

    exit_code = 3


class NotKnownError(click.ClickException):
    """No such import, batch or lane, or none any more."""

    exit_code = 4


DEFAULT_REASON: Final = "by hand, no reason given"
"""Of whoever pauses or cancels something and does not say why."""


def not_known(name: str) -> NotKnownError:
    """Return the error for a name that is neither an import's nor a batch's."""
    return NotKnownError(f"No import and no batch {name} is known here; it may have expired.")


def not_known_batch(batch_id: str) -> NotKnownError:
    """Return the error for a name that is no batch's."""
    return NotKnownError(f"No batch {batch_id} is known here; it may have expired.")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: no markup, no guessed colours."""
    stream = drawn(sys.stderr if stderr else sys.stdout)
    return ShownConsole(file=stream, markup=False, highlight=False, emoji=False)


@asynccontextmanager
async def open_views(settings: Settings) -> AsyncIterator[ImportViews]:
    """Open the read side of the store for a while; raises what `open_store` does."""
    async with open_store(settings) as redis:
        yield ImportViews(redis)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator["Redis"]:
    """Open a connection to the store for a while.

    Raises:
        SettingsError: when the store's URL is none.
        UnreachableError: in place of the driver's errors, also those of the body.

    """
    try:
        redis = connect(settings.redis_url)
    except ValueError as error:
        raise SettingsError(f"IMPORTS_REDIS_URL: {error}") from error
    try:
        yield redis
    except (RedisError, StoreUnavailableError, OSError) as error:
        where = mask_text(settings.redis_url)
        cause = error.__cause__ if isinstance(error, StoreUnavailableError) else None
        raise UnreachableError(f"The store at {where} {said_of(cause or error)}") from error
    finally:
        await redis.aclose()


def heed_interrupt() -> None:
    """Raise the cancellation of this task, should it have been lost.

    `asyncio.wait_for` of Python 3.11, which the driver uses, loses one that arrives just as what
    it waits for is done (python/cpython#86296); an endless loop would then outlive Ctrl-C.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def submit_batch(
    app: "Celery",
    batch_id: str,
    rows: Sequence[Row],
    total: int,
    rule: StopRule = NO_RULE,
    on_sent: Callable[[int], None] = lambda _: None,
    recover_since: str | None = None,
) -> int:
    """Publish the rows as messages of one batch; return how many messages that took.

    Import ids follow from the batchId and a row's content, task ids from the batchId and the
    position, so that to submit the same again is harmless, and a mended row is a new import. The
    batch's stop rule is that of its first message to arrive. `on_sent` is told how many requests
    each message held. For `recover_since` see `Admitter.admit_batch`.

    Raises:
        UnreachableError: when the broker can't be reached; what was sent before stays sent.

    """
    messages = 0
    with _broker_errors(broker_of(app)):
        for offset in range(0, len(rows), REQUESTS_A_MESSAGE):
            chunk = rows[offset : offset + REQUESTS_A_MESSAGE]
            kwargs = {
                "batchId": batch_id,
                "requests": [_request_of(row, batch_id) for row in chunk],
                "offset": offset,
                "total": total,
                "canary": rule.canary,
                "stopPercent": rule.stop_percent,
                **({"recoverSince": recover_since} if recover_since else {}),
            }
            app.send_task(
                BATCH_TASK,
                kwargs=kwargs,
                queue=IMPORTS_QUEUE,
                task_id=str(uuid5(NAMESPACE_URL, f"amplify-import:{batch_id}:message:{offset}")),
                ignore_result=True,  # else the client would listen for each result
                retry_policy=SEND_RETRIES,
            )
            messages += 1
            on_sent(len(chunk))
    return messages


def broker_of(app: "Celery") -> str:
    """Return the broker's address for people, without its password.

    Raises:
        SettingsError: when it is none that Celery knows what to do with.

    """
    try:
        app.connection_for_write().release()
    except (ImportError, KeyError, ValueError) as error:
        raise SettingsError(f"IMPORTS_BROKER_URL: {error.args[0]}") from error
    return mask_text(str(app.conf.broker_write_url))


def said_of(error: BaseException) -> str:
    """Return what happened to a connection as the end of a sentence, without secrets."""
    is_answer = isinstance(error, ResponseError | AuthenticationError | ChannelError)
    verb = "refused" if is_answer else "can't be reached"
    text = str(error).partition(" : <")[0]  # behind it, a Sentinel's connection pools
    return f"{verb}: {mask_text(text) or type(error).__name__}"


def import_id_of(row: Row, batch_id: str) -> str:
    """Return a row's own importId, or the one that follows from the batchId and its content."""
    return str(row.members.get("importId") or derive_import_id(batch_id, row.fingerprint))


def _request_of(row: Row, batch_id: str) -> dict[str, Any]:
    return {**row.members, "importId": import_id_of(row, batch_id)}


@contextmanager
def _broker_errors(broker: str) -> Iterator[None]:
    try:
        yield
    except BROKER_ERRORS as error:
        raise UnreachableError(f"The broker at {broker} {said_of(error)}") from error
