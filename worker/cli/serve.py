"""`amplify-import serve`: takes requests by HTTP."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import click

from config.logging import configure_logging
from config.settings import Settings, load_settings
from worker.cli.client import BadInputError, FailedHereError
from worker.client import AsyncImportClient
from worker.doors.http.server import HttpServer
from worker.metrics.http_catalogue import HTTP, STREAMS
from worker.metrics.server import Page, PageServer
from worker.metrics.values import Values
from worker.tracing.switch import open_tracing


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for any.",
)
def serve(host: str, port: int) -> None:
    """Take requests by HTTP, from programs with neither Celery nor Redis, until interrupted.

    Each request must carry a token of IMPORTS_HTTP_TOKEN. The server takes up to IMPORTS_HTTP_RATE
    requests a second with a token. It speaks plain HTTP: put a proxy with TLS in front of it.
    /openapi.json describes its paths. With IMPORTS_METRICS_PORT, it serves its metrics there.
    """
    settings = load_settings()
    if not settings.http_tokens:
        raise BadInputError(
            "IMPORTS_HTTP_TOKEN is not set, and requests need one. Make it: openssl rand -hex 32"
        )
    try:
        asyncio.run(_serve(settings, host, port))
    except OSError as error:
        raise FailedHereError(f"Cannot listen on {host}:{port}: {error.strerror}") from error


async def _serve(settings: Settings, host: str, port: int) -> None:
    configure_logging(settings)
    values = Values(HTTP)
    stopped = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    tracing = open_tracing(socket.gethostname(), settings.event_source)
    try:
        async with (
            AsyncImportClient(tracer=tracing) as client,
            HttpServer(settings, client, host, port, values) as server,
        ):
            values.read_from(lambda: [(STREAMS, (), server.streams.number)])
            with _showing(settings, values):
                click.echo(f"Listening on {server.url}")
                await stopped.wait()
    finally:
        tracing.close()


@contextmanager
def _showing(settings: Settings, values: Values) -> Iterator[None]:
    """Serve the metrics on a port of their own, if the settings have one."""
    if not settings.metrics_port:
        yield
        return
    try:
        pages = PageServer(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise FailedHereError(f"Cannot listen on {where}: {error.strerror}") from error
    pages.start({"/metrics": lambda accept: Page(*values.text(accept))})
    try:
        yield
    finally:
        pages.close()
