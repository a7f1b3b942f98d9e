"""`amplify-import metrics`: prints the metrics of the store, or serves them to Prometheus."""

import asyncio
import signal

import click
from redis.asyncio import Redis

from config.logging import configure_logging
from config.settings import Settings, load_settings
from worker.cli.client import FailedHereError, open_store
from worker.metrics.server import Page, PageServer, health_page
from worker.metrics.store_samples import SCRAPE_SECONDS, StoreSamples, samples_of
from worker.metrics.values import Values
from worker.store.overview import Overview, read_overview


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to serve on, until interrupted. Without it, the metrics are printed once.",
)
@click.option(
    "--batches",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="How many batches to show: the newest that are not over. Their ids become labels.",
)
def metrics(host: str, port: int | None, batches: int) -> None:
    """Print the metrics of the store, or serve them to Prometheus.

    They are about all imports and lanes in the store. Each worker serves its own metrics if
    IMPORTS_METRICS_PORT is set.
    """
    settings = load_settings()
    if port is None:
        click.echo(asyncio.run(_text(settings, batches)), nl=False)
        return
    try:
        server = PageServer(host, port)
    except OSError as error:
        raise FailedHereError(f"Cannot listen on {host}:{port}: {error.strerror}") from error
    url = f"http://{host}:{server.port}/metrics"
    asyncio.run(_serve(settings, server, url, batches))


async def _text(settings: Settings, batches: int) -> str:
    async with open_store(settings) as redis:
        overview = await read_overview(redis, batches)
    values = Values(metrics=())
    values.read_from(lambda: samples_of(overview, values.lanes))
    return values.text()[0].decode()


async def _serve(settings: Settings, server: PageServer, url: str, batches: int) -> None:
    configure_logging(settings)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stopped.set)
    async with open_store(settings) as redis:
        values = Values(metrics=())

        def read() -> Overview:
            reading = asyncio.run_coroutine_threadsafe(_read(redis, batches), loop)
            return reading.result()

        values.read_from(StoreSamples(read, values.lanes))
        server.start(
            {
                "/metrics": lambda accept: Page(*values.text(accept)),
                "/livez": lambda _: health_page(()),
            }
        )
        click.echo(f"Metrics at {url}")
        await stopped.wait()
        await asyncio.to_thread(server.close)


async def _read(redis: "Redis", batches: int) -> Overview:
    async with asyncio.timeout(SCRAPE_SECONDS):
        return await read_overview(redis, batches)
