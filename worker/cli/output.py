"""The one way out of the command line: what happens to all that it prints, whoever prints it.

Control characters in it are shown, not obeyed: they come from arguments, files and servers. What a
terminal's encoding lacks gets a stand-in. A stream whose reader went away, or whose disk is full,
fails once and is silent from then on; what that means for the command is the command's choice.
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

from config.logging import shown

_STAND_INS: Final = {"·": "-", "…": "~", "━": "-", "╸": "-", "╺": "-"}
_STAND_IN: Final = "amplify-import.stand-in"


class OutputError(Exception):
    """Standard output or standard error can't be written any more. The message says why.

    No OSError: that would look like one of the store's.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        self.is_broken_pipe = cause.errno == errno.EPIPE
        super().__init__(f"{name}: {cause.strerror}")


class Outlet(io.TextIOBase):
    """Standard output or standard error, which fails at most once.

    `lost` is what it failed with. While `is_vital`, that is raised as well; else whoever prints
    does not notice.
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
        """How the stream writes what its encoding lacks."""
        return self._stream.errors

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Whether it can be written: as far as anybody knows, it can."""
        return True

    def write(self, text: str) -> int:
        """Write text as it is."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is still buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # What is still buffered has no reader: let it, and all that follows, go nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        self.lost = OutputError(self._name, error)
        if self.is_vital:
            raise self.lost from error


class ShownText:
    """An outlet for text of any origin: control characters become visible."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet

    def __getattr__(self, name: str) -> Any:
        return getattr(self.outlet, name)

    def write(self, text: str) -> int:
        """Write text with its control characters shown."""
        return self.outlet.write(shown(text))


class ShownConsole(Console):
    """A console that obeys rich's control characters, and shows those of what it prints."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of anything that can be printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))


def open_outlets() -> list[Outlet]:
    """Put outlets in the place of standard output and error, and return them.

    A descriptor that is closed is taken, so that no file gets its number and is printed into.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    outlets = []
    if sys.stdout is not None:
        outlets.append(Outlet(sys.stdout, "standard output"))
        sys.stdout = cast("TextIO", ShownText(outlets[-1]))
    if sys.stderr is not None:
        outlets.append(Outlet(sys.stderr, "standard error"))
        sys.stderr = cast("TextIO", ShownText(outlets[-1]))
    return outlets


def outlive_output() -> None:
    """Go on when nothing can be printed any more; how the command ends will tell."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, ShownText):
            stream.outlet.is_vital = False


def drawn(stream: TextIO) -> TextIO:
    """Return the stream for what may hold control characters of our own."""
    return cast("TextIO", stream.outlet) if isinstance(stream, ShownText) else stream


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_STAND_INS.get(c, ascii(c)[1:-1]) for c in lacking), error.end


codecs.register_error(_STAND_IN, _stand_in)
