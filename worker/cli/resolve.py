"""`amplify-import resolve`: lets an operator decide what happened to an import."""

import asyncio
from typing import Final

import click

from config.settings import load_settings
from worker.cli.client import (
    DEFAULT_REASON,
    BadInputError,
    json_option,
    not_known,
    open_store,
    print_result,
)
from worker.domain.outcomes import Action, Resolution
from worker.parameters import store_config
from worker.store.store import ImportStore

_REFUSALS: Final = {
    Resolution.OVER: "has already ended",
    Resolution.NOT_UNDECIDED: "does not wait for a decision",
    Resolution.EARLIER: "was not changed: that job belongs to an earlier import",
    Resolution.RUNNING: "has a job, so it can't be started again; use --adopt, --succeed or --fail",
}


class NotDoneError(click.ClickException):
    """The store refused the decision; nothing has changed."""


@click.command()
@click.argument("name", metavar="IMPORT")
@click.option(
    "--adopt", "job_id", metavar="JOB", help="Adopt JOB as the import's own and follow it."
)
@click.option(
    "--start-again",
    "action",
    flag_value=Action.START_AGAIN.value,
    help="Start the import again; none of the jobs is its own.",
)
@click.option(
    "--succeed", "action", flag_value=Action.SUCCEED.value, help="End the import as succeeded."
)
@click.option("--fail", "action", flag_value=Action.FAIL.value, help="End the import as failed.")
@click.option("--reason", default="", metavar="TEXT", help="The import's error, with --fail.")
@json_option
def resolve(
    name: str, job_id: str | None, action: str | None, reason: str, *, as_json: bool
) -> None:
    """Decide about an import whose outcome AWS does not reveal.

    Such an import waits for you. `doctor` lists them, and `explain` says why one waits and which
    jobs may be its own. Look at those jobs first (`aws amplifybackend list-backend-jobs`).

    If one of them is the import's own and you start the import again, the import is done twice.
    JOB is not checked with AWS. --succeed and --fail end the import; they do not stop a job.
    """
    if (job_id is None) == (action is None):
        raise click.UsageError("Give exactly one of --adopt JOB, --start-again, --succeed, --fail.")
    if action is None and not (job_id := (job_id or "").strip()):
        raise BadInputError("--adopt needs the id of a job.")
    decided = Action(action or Action.ADOPT)
    error = (reason.strip() or DEFAULT_REASON) if decided is Action.FAIL else ""
    asyncio.run(_resolve(name, decided, job_id or "", error))
    members = {"importId": name, "action": decided, "jobId": job_id}
    print_result(f"Import {name} {_as_text(decided, job_id)}.", members, as_json=as_json)


async def _resolve(name: str, action: Action, job_id: str, error: str) -> None:
    settings = load_settings()
    async with open_store(settings) as redis:
        store = ImportStore(redis, store_config(settings))
        resolution = await store.resolve(name, action, job_id=job_id, error=error)
    if resolution is Resolution.UNKNOWN:
        raise not_known(name)
    if resolution is not Resolution.RESOLVED:
        raise NotDoneError(f"Import {name} {_REFUSALS[resolution]}.")


def _as_text(action: Action, job_id: str | None) -> str:
    match action:
        case Action.ADOPT:
            return f"follows job {job_id}"
        case Action.START_AGAIN:
            return "will be started again"
        case Action.SUCCEED:
            return "is marked as succeeded"
    return "is marked as failed"
