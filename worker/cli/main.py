"""`amplify-import`: the group of all commands, and their exit codes."""

import errno
import gc
import os
import signal
import sys
from contextlib import redirect_stderr, suppress
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from config.settings import SettingsError, load_settings
from worker.cli.client import BadInputError, FailedHereError
from worker.cli.examples import add_examples
from worker.cli.output import Outlet, OutputError, drawn, open_outlets
from worker.local.errors import LocalError

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""INTERRUPTED and BROKEN_PIPE are the codes that a shell reports for SIGINT and SIGPIPE."""

COMMANDS: Final = (
    "demo",
    "plan",
    "run",
    "submit",
    "watch",
    "status",
    "explain",
    "report",
    "next-steps",
    "imports",
    "retry",
    "cancel",
    "resolve",
    "batches",
    "lanes",
    "events",
    "serve",
    "relay",
    "sinks",
    "recover",
    "audit",
    "doctor",
    "metrics",
    "schema",
    "sandbox",
)
"""In the order in which users need them. Each command is a module of this package, imported only
when the command is used, so that commands start quickly."""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Without "color", click would remove escape sequences from foreign text, which `output` shows.
CONTEXT: Final = {"max_content_width": 100, "color": True}

EPILOG: Final = """\b
Examples:
  amplify-import demo                          see it work, without AWS or Redis
  amplify-import plan -o apps.csv              list the app environments of an account as a file
  amplify-import run apps.csv                  import all apps of a file, with nothing else running
  amplify-import submit apps.csv --watch       the same, through workers that are already running
  amplify-import watch                         batches, lanes and failures, on the whole screen
  amplify-import status BATCH --failed         what went wrong, and why
  amplify-import explain IMPORT                what happened to it, and when it will start
  amplify-import report BATCH -o report.html   the batch on one page, to keep or to send
  amplify-import next-steps BATCH -o next.sh   what to run so that the apps' builds find their pools
  amplify-import imports --older-than 2h       imports that take long, and what they wait for
  amplify-import retry BATCH                   retry the imports that did not succeed
  amplify-import cancel IMPORT                 cancel an import that is no longer wanted
  amplify-import resolve IMPORT --adopt JOB    decide about an import whose outcome is unknown
  amplify-import batches --stalled             batches that make no progress
  amplify-import batches resume BATCH          resume a batch that its stop rule has paused
  amplify-import lanes                         limits, queues and pauses, by account and region
  amplify-import events --follow               events as they happen
  amplify-import serve --port 8080             take requests by HTTP
  amplify-import relay                         send events to webhooks, AWS or NATS
  amplify-import sinks                         what waits for them, what they refused
  amplify-import recover apps.csv --since T    continue after the store was lost
  amplify-import doctor                        what to fix in this environment
  amplify-import audit                         check every promise, import by import
  amplify-import metrics --port 9464           serve the store's metrics to Prometheus
  amplify-import schema event                  the JSON Schema of events, for other programs

\b
Exit codes:
  0    success: all imports in question succeeded or are under way
  1    an import did not succeed or can't be retried, a batch is paused, you answered a
       question with no, resolve changed nothing, doctor found a problem, or audit a
       violation
  2    wrong usage, an invalid setting, or an invalid file
  3    the store or the broker is unreachable; `run`, `demo`, `sandbox`, `serve` or `relay`
       could not start what they need on this machine; or the disk is full
  4    no such import, batch or lane
  130  interrupted
  141  the reader of standard output closed it

\b
Settings are environment variables: IMPORTS_REDIS_URL and others of that prefix,
and AWS's own (AWS_PROFILE, AWS_REGION ...).
"""


class Commands(click.Group):
    """A group whose commands report an error as one line and an exit code, not as a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of this name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"worker.cli.{name}"), name)
        add_examples(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, and import its module."""
        found = super().resolve_command(ctx, args)
        gc.freeze()  # all is imported, and `amplify_import` has paused the collection until now
        gc.enable()
        return found

    def main(self, *_: Any, **__: Any) -> NoReturn:
        """Run the command that the arguments name, and exit with its exit code."""
        outlets = open_outlets()
        code = self._code_of()
        for outlet in outlets:
            code = _checked(outlet, code)
        # The command has ended. A Ctrl-C now must not print a traceback of the interpreter's exit.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An interrupt ends it without a message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)

    def _code_of(self) -> int:
        """Run the command, report its error if it raises one, and return its exit code."""
        try:
            code = super().main(standalone_mode=False)
        except OutputError:
            return 0  # `_checked` reports the lost output
        except click.Abort as abort:  # from a question; click converts a Ctrl-C to it too
            if isinstance(abort.__context__, KeyboardInterrupt):
                return INTERRUPTED
            return _report(click.ClickException("Aborted; nothing was changed."))
        except click.ClickException as error:
            return _report(error)
        except SettingsError as error:
            return _report(BadInputError(str(error)))
        except LocalError as error:
            return _report(FailedHereError(str(error)))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            place = error.filename or "writing a file"
            return _report(FailedHereError(f"{place}: {error.strerror}"))
        return code if isinstance(code, int) else 0


def _report(error: click.ClickException) -> int:
    """Print the error, and return its exit code."""
    with suppress(OutputError):
        error.show()
    return error.exit_code


def _checked(outlet: Outlet, code: int) -> int:
    """Return the exit code, or another one if this outlet was lost; report the loss."""
    with suppress(OutputError):
        outlet.flush()
    if outlet.lost is None:
        return code
    if outlet.lost.is_broken_pipe:
        return code or BROKEN_PIPE
    return _report(FailedHereError(f"{outlet.lost}. The output is incomplete."))


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(package_name="amplify-import-worker")
@click.option("--verbose", is_flag=True, help="Write a log to standard error.")
def main(*, verbose: bool) -> None:
    """Import Cognito user pools into AWS Amplify backends in bulk, each exactly once."""
    if verbose:
        from config.logging import configure_logging  # noqa: PLC0415 - slow, and rarely needed

        with redirect_stderr(
            drawn(sys.stderr)
        ):  # the log has colors, and shows foreign text itself
            configure_logging(load_settings())
