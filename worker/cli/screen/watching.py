"""`amplify-import watch` on a terminal: the screen, and the summaries after it."""

from config.settings import Settings
from worker.cli.client import make_console, not_known_batch, open_store
from worker.cli.screen.app import INTERRUPTED, OVER, QUIT, WatchScreen
from worker.cli.screen.reading import Reader
from worker.cli.summary import exit_code_of, summary
from worker.cli.watch import first_failures
from worker.store.views import ImportViews


async def watch_on_screen(settings: Settings, batch_ids: tuple[str, ...]) -> int:
    """Show these batches, or without any all that are running; return the exit code.

    With batch ids, it ends when these batches have completed, and prints their summaries.

    Raises:
        NotKnownError: if there is no such batch.
        UnreachableError: if the store can't be reached at the beginning or at the end.

    """
    async with open_store(settings) as redis:
        reader = Reader(redis, batch_ids)
        reading = await reader.read()
        found = {batch.batch_id for batch in reading.batches}
        for batch_id in batch_ids:
            if batch_id not in found:
                raise not_known_batch(batch_id)
        code = OVER
        if not batch_ids or not all(batch.completed for batch in reading.batches):
            screen = WatchScreen(redis, settings, reader, reading, ends=bool(batch_ids))
            code = await screen.run()
            reading = screen.reading
        if code not in {OVER, QUIT} or not batch_ids:
            return max(code, 0)
        console = make_console()
        for counts in reading.batches:
            failures = await first_failures(ImportViews(redis), counts)
            console.print(summary(counts, failures), soft_wrap=True)
    if any(not (counts.completed or counts.is_paused) for counts in reading.batches):
        return INTERRUPTED
    return max((exit_code_of(counts) for counts in reading.batches), default=0)
