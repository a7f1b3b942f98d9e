"""Everything that the command line prints goes through this module.

Control characters in the output are shown as escapes, because they come from arguments, files and
servers and could control the terminal. Characters that the terminal's encoding lacks are replaced.
A stream whose reader has gone, or whose disk is full, fails once; later output to it is dropped.
Each command decides whether it continues then.
"""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from config.text import shown

_STAND_INS: Final = {"·": "-", "…": "~", "━": "-", "╸": "-", "╺": "-"}
_STAND_IN: Final = "amplify-import.stand-in"


class OutputError(Exception):
    """Standard output or standard error can no longer be written to. The message says why.

    This is not an OSError, because the commands take an OSError for an error of the store.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        self.is_broken_pipe = cause.errno == errno.EPIPE
        super().__init__(f"{name}: {cause.strerror}")


class Outlet(io.TextIOBase):
    """Standard output or standard error, which fails at most once.

    `lost` is the error with which it failed, None if it has not. If `is_vital` is set, the error is
    also raised; otherwise the code that prints does not notice it.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.is_vital = True
        self.lost: OutputError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_STAND_IN)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there, without a value
        """The encoding of the stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        """How the stream handles characters that its encoding lacks."""
        return self._stream.errors

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True: an outlet accepts output even after it has failed."""
        return True

    def write(self, text: str) -> int:
        """Write text without changes."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write the buffered text."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # Drop the buffered text and all later output.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        self.lost = OutputError(self._name, error)
        if self.is_vital:
            raise self.lost from error


class ShownText:
    """An outlet that shows control characters as escapes, for text of any origin."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet

    def __getattr__(self, name: str) -> Any:
        return getattr(self.outlet, name)

    def write(self, text: str) -> int:
        """Write text with its control characters as escapes."""
        return self.outlet.write(shown(text))


class ShownConsole(Console):
    """A console that shows control characters in text as escapes, but keeps rich's own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable, with control characters in text as escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def open_outlets() -> list[Outlet]:
    """Replace standard output and standard error by outlets, and return these.

    If one of the descriptors 0 to 2 is closed, it is opened on /dev/null. Otherwise a file could
    get its number, and receive the output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this descriptor
    outlets = []
    if sys.stdout is not None:
        outlets.append(Outlet(sys.stdout, "standard output"))
        sys.stdout = cast("TextIO", ShownText(outlets[-1]))
    if sys.stderr is not None:
        outlets.append(Outlet(sys.stderr, "standard error"))
        sys.stderr = cast("TextIO", ShownText(outlets[-1]))
    return outlets


def outlive_output() -> None:
    """Continue the command when its output can't be written; its exit code reports that later."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, ShownText):
            stream.outlet.is_vital = False


def drawn(stream: TextIO) -> TextIO:
    """Return the stream for text that contains our own control characters, such as colors."""
    return cast("TextIO", stream.outlet) if isinstance(stream, ShownText) else stream


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_STAND_INS.get(c, ascii(c)[1:-1]) for c in lacking), error.end


codecs.register_error(_STAND_IN, _stand_in)
