"""`amplify-import relay`: sends events on to the systems that the sinks file names."""

import asyncio
import signal
from collections.abc import Mapping
from typing import Final

import click

from config.logging import configure_logging
from config.settings import Settings, load_settings
from worker.cli.client import BadInputError, FailedHereError, open_store
from worker.relay.process import RelayProcess
from worker.relay.sinksfile import AnySink, read_sinks
from worker.store.views import ImportViews

OLDEST_VERSION: Final = 7
"""Earlier servers don't count the entries of a stream, so that losses could not be noticed."""


@click.command()
def relay() -> None:
    """Send events on to the sinks that IMPORTS_SINKS_FILE names, until interrupted.

    Sinks are webhooks, queues, topics and event buses of AWS, and streams of NATS. Any number of
    relays share the sinks. Without a file, IMPORTS_WEBHOOK_URL, IMPORTS_EVENTBRIDGE_BUS,
    IMPORTS_SNS_TOPIC_ARN and IMPORTS_SQS_EVENTS_URL configure one sink each. With
    IMPORTS_METRICS_PORT, a relay serves its metrics and its health.
    """
    settings = load_settings()
    sinks = read_sinks(settings)
    if not sinks:
        raise BadInputError("There are no sinks: set IMPORTS_SINKS_FILE, see docs/guides/sinks.md")
    asyncio.run(_relay(settings, sinks))


async def _relay(settings: Settings, sinks: Mapping[str, AnySink]) -> None:
    configure_logging(settings)
    stopped = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    async with open_store(settings) as redis:
        facts = await ImportViews(redis).server()
        if int(facts.version.partition(".")[0]) < OLDEST_VERSION:
            raise FailedHereError(
                f"The relay needs Redis 7 or later, or Valkey; this is {facts.name} {facts.version}"
            )
        try:
            process = RelayProcess(settings, sinks, redis)
        except OSError as error:
            where = f"{settings.metrics_host}:{settings.metrics_port}"
            raise FailedHereError(f"Cannot listen on {where}: {error.strerror}") from error
        for name, sink in sorted(sinks.items()):
            click.echo(f"{name}: {sink.kind} {sink.place}")
        await process.run(stopped)
