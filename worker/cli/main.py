"""`amplify-import`: the group of all commands, and how each kind of end becomes an exit code."""

import os
import sys
from typing import Any, Final

import click

from config.logging import configure_logging
from config.settings import SettingsError, load_settings
from worker.cli.audit import audit
from worker.cli.batches import batches
from worker.cli.cancel import cancel
from worker.cli.client import BadInputError
from worker.cli.demo import demo
from worker.cli.doctor import doctor
from worker.cli.events import events
from worker.cli.explain import explain
from worker.cli.lanes import lanes
from worker.cli.recover import recover
from worker.cli.resolve import resolve
from worker.cli.retry import retry
from worker.cli.run import run
from worker.cli.sandbox import sandbox
from worker.cli.status import status
from worker.cli.submit import submit
from worker.cli.watch import watch

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""As a shell reports a program that ended by SIGINT or SIGPIPE."""

EPILOG: Final = """\b
Examples:
  amplify-import demo                          see it work, without AWS or Redis
  amplify-import run apps.csv                  import all apps of a file, with nothing else running
  amplify-import submit apps.csv --watch       the same through the workers that run already
  amplify-import status BATCH --failed         what went wrong, and why
  amplify-import explain IMPORT                what happened to it, and when it will start
  amplify-import retry BATCH                   try again what ended badly
  amplify-import cancel IMPORT                 end an import that is not wanted any more
  amplify-import resolve IMPORT --adopt JOB    decide what AWS does not tell of an import
  amplify-import batches resume BATCH          let a batch go on that its stop rule has paused
  amplify-import lanes                         limits, queues and pauses, by account and region
  amplify-import events --follow               what happens right now
  amplify-import recover apps.csv --since T    go on after the store was lost
  amplify-import doctor                        what to mend
  amplify-import audit                         whether every promise held, import by import

\b
Exit codes:
  0    done; all imports in question succeeded or are under way
  1    an import ended badly or can't be retried, a batch is paused, doctor found
       something to mend, audit a promise that did not hold, or resolve changed nothing
  2    wrong usage, a wrong setting, or an invalid file
  3    the store or the broker can't be reached, or those of `run` do not run
  4    no such import, batch or lane is known
  130  interrupted

\b
Settings are environment variables: IMPORTS_REDIS_URL and others of that prefix,
and AWS's own (AWS_PROFILE, AWS_REGION ...).
"""


class Commands(click.Group):
    """A group whose commands end with one line and an exit code, never with a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which people meet them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; translate the ends that every command may come to."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise BadInputError(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # What is still buffered has no reader: let the interpreter's last flush go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.version_option(package_name="amplify-import-worker")
@click.option("--verbose", is_flag=True, help="Log what happens to standard error.")
def main(*, verbose: bool) -> None:
    """Move AWS Amplify app environments onto existing Cognito user pools, once each."""
    if verbose:
        configure_logging(load_settings())


for command in (
    demo,
    run,
    submit,
    watch,
    status,
    explain,
    retry,
    cancel,
    resolve,
    batches,
    lanes,
    events,
    recover,
    audit,
    doctor,
    sandbox,
):
    main.add_command(command)
