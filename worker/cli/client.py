"""Shared by the commands: connections to the store, and errors with their exit codes.

Exit codes are part of the command line's interface. `amplify-import --help` lists them.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import click
from amqp.exceptions import ChannelError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from rich.console import Console

from config.settings import Settings, SettingsError
from config.text import mask_text
from worker.cli.output import ShownConsole, drawn
from worker.store.connection import StoreUnavailableError, connect
from worker.store.views import ImportViews


class BadInputError(click.ClickException):
    """The user's input is invalid."""

    exit_code = 2


class UnreachableError(click.ClickException):
    """The store or the broker can't be reached."""

    exit_code = 3


class FailedHereError(click.ClickException):
    """A command can't run or write something on this machine. The message says what, and where."""

    exit_code = 3


class NotKnownError(click.ClickException):
    """There is no such import, batch or lane, or its record has expired."""

    exit_code = 4


DEFAULT_REASON: Final = "by an operator, no reason given"
"""The reason if an operator pauses or cancels something and gives none."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def print_result(text: str, members: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a command did: as text for people, or as one JSON object of these members."""
    click.echo(json.dumps(members) if as_json else text)


def not_known(name: str) -> NotKnownError:
    """Return the error for a name that belongs neither to an import nor to a batch."""
    return NotKnownError(
        f"There is no import or batch {name} in this store; its record may have expired."
    )


def not_known_batch(batch_id: str) -> NotKnownError:
    """Return the error for a name that does not belong to a batch."""
    return NotKnownError(
        f"There is no batch {batch_id} in this store; its record may have expired."
    )


def make_console(*, stderr: bool = False, plain: bool = False) -> Console:
    """Return a console that prints text as it is, without markup and highlighting.

    With `plain`, it treats a terminal as a file.
    """
    stream = drawn(sys.stderr if stderr else sys.stdout)
    terminal = False if plain else None
    return ShownConsole(
        file=stream, force_terminal=terminal, markup=False, highlight=False, emoji=False
    )


@asynccontextmanager
async def open_views(settings: Settings) -> AsyncIterator[ImportViews]:
    """Yield the read side of the store. Raises the same errors as `open_store`."""
    async with open_store(settings) as redis:
        yield ImportViews(redis)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator["Redis"]:
    """Yield a client of the store; close it at the end.

    Raises:
        SettingsError: if the store's URL is invalid.
        UnreachableError: in place of the driver's errors, also those in the `async with` block.

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
        raise UnreachableError(f"The store at {where} {message_of(cause or error)}") from error
    finally:
        await redis.aclose()


def heed_interrupt() -> None:
    """Raise CancelledError if this task was cancelled but the cancellation was lost.

    The driver uses `asyncio.wait_for`. In Python 3.11, this loses a cancellation that arrives just
    as the awaited operation completes (python/cpython#86296). Then Ctrl-C would not end a loop.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def message_of(error: BaseException) -> str:
    """Return the error of a connection as the end of a sentence, without secrets."""
    is_answer = isinstance(error, ResponseError | AuthenticationError | ChannelError)
    verb = "refused" if is_answer else "can't be reached"
    text = str(error).partition(" : <")[0]  # Sentinel errors end with a list of connection pools
    return f"{verb}: {mask_text(text) or type(error).__name__}"
