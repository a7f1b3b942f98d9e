"""The program `amplify-import`, and the clients for other programs (`worker.client`).

It checks that it imports its own packages. `worker` and `config` are common package names. Python
may find other packages of these names first, in the current directory or on PYTHONPATH.
"""

import gc
import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from worker.client import (
        AsyncImportClient,
        BatchCounts,
        Cancellation,
        ConflictError,
        Event,
        ImportClient,
        ImportResult,
        InvalidSubmissionError,
        NotKnownError,
        Problem,
        Retried,
        State,
        StoreUnavailableError,
        SubmissionError,
    )

__all__ = [
    "AsyncImportClient",
    "BatchCounts",
    "Cancellation",
    "ConflictError",
    "Event",
    "ImportClient",
    "ImportResult",
    "InvalidSubmissionError",
    "NotKnownError",
    "Problem",
    "Retried",
    "State",
    "StoreUnavailableError",
    "SubmissionError",
]

PACKAGES = ("worker", "config")
BAD_INPUT = 2
INTERRUPTED = 130


def __getattr__(name: str) -> Any:
    """Import the clients when they are first used: the command line does not need them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if problem := what_is_in_the_way():
        raise ImportError(problem)
    return getattr(import_module("worker.client"), name)


def main() -> None:
    """Run the command line."""
    # The imports take about a second. An interrupt during this time would print a traceback.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if problem := what_is_in_the_way():
        _fail(problem)
    gc.disable()  # until all is imported: what is imported stays, and collecting it takes long
    try:
        from worker.cli.main import main as command_line  # noqa: PLC0415 - only after the check
    except ImportError as error:
        _fail(_cause_of(error))
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


def what_is_in_the_way() -> str:
    """Return an error message if Python finds another file instead of our packages; else ''."""
    for name in PACKAGES:
        found = find_spec(name)
        ours = Path(__file__).parents[1] / name / "__init__.py"
        if found and found.origin and Path(found.origin).resolve() != ours.resolve():
            return (
                f"{found.origin} is in the way of our own package {name}: rename it, start from"
                " another directory, or take its directory off PYTHONPATH."
            )
    return ""


def _cause_of(error: ImportError) -> str:
    """Return a message about a failed import, with the file that Python found instead."""
    name = (error.name or "").partition(".")[0]
    found = find_spec(name) if name else None
    if found is None or found.origin is None:
        return f"{error}; is everything installed?"
    return f"{error}: Python finds {name} in {found.origin}; if that is yours, it is in the way."


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(BAD_INPUT)
