"""A command on its own terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support import BIN

PROGRAM: Final = BIN / "amplify-import"


class Terminal:
    """A command on its own terminal."""

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.settings = termios.tcgetattr(self._ours)
        self.resize(80, 24)
        self.printed = ""
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env={**environment, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def read_until(self, text: str) -> None:
        """Read until the command has printed the text."""
        while text not in self.printed:
            self.printed += os.read(self._ours, 4096).decode(errors="replace")

    def type(self, keys: str) -> None:
        """Type keys, without a line feed."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size. The program has to be told by SIGWINCH."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def answer(self, text: str) -> None:
        """Type a line."""
        os.write(self._ours, f"{text}\n".encode())

    def is_waiting(self) -> bool:
        """Whether the main thread sleeps. Python may lose an interrupt that comes just before."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(") ")[2].startswith("S")

    def end(self) -> int:
        """Read to the end and return the exit code."""
        with suppress(OSError):  # the other side was closed
            while data := os.read(self._ours, 4096):
                self.printed += data.decode(errors="replace")
        return self.process.wait(20)

    def close(self) -> None:
        """Kill the command and close the terminal."""
        self.process.kill()
        self.process.wait(20)
        os.close(self._ours)
