"""`amplify-import`: the group of all commands, and how each kind of end becomes an exit code."""

import errno
import os
import signal
import sys
from contextlib import redirect_stderr, suppress
from typing import Any, Final, NoReturn

import click

from config.logging import configure_logging
from config.settings import SettingsError, load_settings
from worker.cli.audit import audit
from worker.cli.batches import batches
from worker.cli.cancel import cancel
from worker.cli.client import BadInputError
from worker.cli.demo import demo
from worker.cli.doctor import doctor
from worker.cli.embedded import LocalError
from worker.cli.events import events
from worker.cli.explain import explain
from worker.cli.lanes import lanes
from worker.cli.output import Outlet, OutputError, drawn, open_outlets
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

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# "color": or else click would drop the escape sequences of others' texts, which are to be shown.
CONTEXT: Final = {"max_content_width": 100, "color": True}

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
  1    an import ended badly or can't be retried, a batch is paused, a question was
       answered with no, resolve changed nothing, doctor found something to mend,
       or audit a promise that did not hold
  2    wrong usage, a wrong setting, or an invalid file
  3    the store or the broker can't be reached, or what runs on this machine
       (`run`, `demo`, `sandbox`) does not run; or a full disk took no more output
  4    no such import, batch or lane is known
  130  interrupted
  141  the reader of standard output went away

\b
Settings are environment variables: IMPORTS_REDIS_URL and others of that prefix,
and AWS's own (AWS_PROFILE, AWS_REGION ...).
"""


class Commands(click.Group):
    """A group whose commands end with one line and an exit code, never with a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which people meet them."""
        return list(self.commands)

    def main(self, *_: Any, **__: Any) -> NoReturn:
        """Run the command that the command line names, and end with its exit code."""
        outlets = open_outlets()
        code = self._code_of()
        for outlet in outlets:
            code = _checked(outlet, code)
        # All is said: a Ctrl-C could only show the interpreter's own last steps.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interrupt is no end that needs words."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)

    def _code_of(self) -> int:
        """Run the command; translate the ends that every command may come to."""
        try:
            code = super().main(standalone_mode=False)
        except OutputError:
            return 0  # what was lost is told by its outlet
        except click.Abort as abort:  # of a question; click hides a Ctrl-C behind it
            if isinstance(abort.__context__, KeyboardInterrupt):
                return INTERRUPTED
            return _said(click.ClickException("Aborted; nothing was changed."))
        except click.ClickException as error:
            return _said(error)
        except SettingsError as error:
            return _said(BadInputError(str(error)))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return _said(LocalError(f"{error.filename or 'writing a file'}: {error.strerror}"))
        return code if isinstance(code, int) else 0


def _said(error: click.ClickException) -> int:
    with suppress(OutputError):
        error.show()
    return error.exit_code


def _checked(outlet: Outlet, code: int) -> int:
    """Return the exit code, another one where the outlet was lost; say what nobody said yet."""
    with suppress(OutputError):
        outlet.flush()
    if outlet.lost is None:
        return code
    if outlet.lost.is_broken_pipe:
        return code or BROKEN_PIPE
    return _said(LocalError(f"{outlet.lost}. What stood there is cut off."))


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(package_name="amplify-import-worker")
@click.option("--verbose", is_flag=True, help="Log what happens to standard error.")
def main(*, verbose: bool) -> None:
    """Move AWS Amplify app environments onto existing Cognito user pools, once each."""
    if verbose:
        with redirect_stderr(drawn(sys.stderr)):  # a log has its own colours, and shows the rest
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
