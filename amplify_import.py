"""The program `amplify-import`: looks whose packages it would run before it runs any.

The packages `worker` and `config` have names that others use as well, and the current directory or
PYTHONPATH may come before ours.
"""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

PACKAGES = ("worker", "config")
BAD_INPUT = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    # To import all that it needs takes a second, in which an interrupt would be a traceback.
    heeds_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds_interrupts:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if said := what_is_in_the_way():
        _end(said)
    try:
        from worker.cli.main import main as command_line  # noqa: PLC0415 - only if it is ours
    except ImportError as error:
        _end(_cause_of(error))
    if heeds_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


def what_is_in_the_way() -> str:
    """Return a sentence about a file that is found in place of a package of ours; '' if none is."""
    for name in PACKAGES:
        found = find_spec(name)
        ours = Path(__file__).with_name(name) / "__init__.py"
        if found and found.origin and Path(found.origin).resolve() != ours.resolve():
            return (
                f"{found.origin} is in the way of our own package {name}: rename it, start from"
                " another directory, or take its directory off PYTHONPATH."
            )
    return ""


def _cause_of(error: ImportError) -> str:
    """Return what could not be imported, and the file that was taken for it."""
    name = (error.name or "").partition(".")[0]
    found = find_spec(name) if name else None
    if found is None or found.origin is None:
        return f"{error}; is everything installed?"
    return f"{error}: Python finds {name} in {found.origin}; if that is yours, it is in the way."


def _end(said: str) -> NoReturn:
    sys.stderr.write(f"Error: {said}\n")
    sys.exit(BAD_INPUT)
