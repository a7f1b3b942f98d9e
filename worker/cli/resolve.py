"""`amplify-import resolve`: decide what AWS does not tell of an import."""

import asyncio
from typing import Final

import click

from config.settings import load_settings
from worker.cli.client import DEFAULT_REASON, BadInputError, not_known, open_store
from worker.domain.outcomes import Action, Resolution
from worker.runtime import store_config
from worker.store.store import ImportStore

_REFUSALS: Final = {
    Resolution.OVER: "is over already",
    Resolution.NOT_UNDECIDED: "does not wait for a decision",
    Resolution.EARLIER: "was not decided: that job is an earlier import's",
    Resolution.RUNNING: "has a job already; say how that ended: --succeed or --fail",
}


class NotDoneError(click.ClickException):
    """The store refused the decision; nothing has changed."""


@click.command()
@click.argument("name", metavar="IMPORT")
@click.option("--adopt", "job_id", metavar="JOB", help="This job is the import's: follow it.")
@click.option(
    "--start-again",
    "action",
    flag_value=Action.START_AGAIN.value,
    help="No job is the import's: start it.",
)
@click.option(
    "--succeed", "action", flag_value=Action.SUCCEED.value, help="It has done what it should."
)
@click.option("--fail", "action", flag_value=Action.FAIL.value, help="It has failed.")
@click.option("--reason", default="", metavar="TEXT", help="Why; with --fail, the import's error.")
def resolve(name: str, job_id: str | None, action: str | None, reason: str) -> None:
    """Decide by hand what became of an import, where AWS does not tell.

    Such an import waits: `explain` says why, and names the jobs that may be its own. Look at them
    first (`aws amplifybackend list-backend-jobs`); with --start-again the import is started even if
    one of them is its own. --fail and --succeed end it; a job that runs goes on at AWS.
    """
    if (job_id is None) == (action is None):
        raise click.UsageError("Say one of --adopt JOB, --start-again, --succeed and --fail.")
    if action is None and not (job_id := (job_id or "").strip()):
        raise BadInputError("--adopt needs the id of a job.")
    decided = Action(action or Action.ADOPT)
    error = (reason.strip() or DEFAULT_REASON) if decided is Action.FAIL else ""
    asyncio.run(_resolve(name, decided, job_id or "", error))
    click.echo(f"Import {name} {_told(decided, job_id)}.")


async def _resolve(name: str, action: Action, job_id: str, error: str) -> None:
    settings = load_settings()
    async with open_store(settings) as redis:
        store = ImportStore(redis, store_config(settings))
        resolution = await store.resolve(name, action, job_id=job_id, error=error)
    if resolution is Resolution.UNKNOWN:
        raise not_known(name)
    if resolution is not Resolution.RESOLVED:
        raise NotDoneError(f"Import {name} {_REFUSALS[resolution]}.")


def _told(action: Action, job_id: str | None) -> str:
    match action:
        case Action.ADOPT:
            return f"follows job {job_id}"
        case Action.START_AGAIN:
            return "will be started again"
        case Action.SUCCEED:
            return "has succeeded"
    return "has failed"
