"""A command on its own terminal."""

import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Mapping
from pathlib import Path

from tests.support.forking import ForkedProcess, Streams


class Terminal:
    """A command on its own terminal."""

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._ours, self._theirs = pty.openpty()  # the program's side stays open until `close`
        self.settings = termios.tcgetattr(self._ours)
        self.resize(80, 24)
        self.printed = ""
        path = Path(os.ttyname(self._theirs))
        self.process = ForkedProcess(
            "amplify_import:main",
            ["amplify-import", *arguments],
            {**environment, "TERM": "xterm"},
            Streams(input=path, output=path, errors=path),
        )

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
        code = None
        while True:
            if select.select([self._ours], [], [], 0 if code is not None else 0.02)[0]:
                self.printed += os.read(self._ours, 65536).decode(errors="replace")
            elif code is None:
                code = self.process.poll()
            else:
                return code

    def close(self) -> None:
        """Kill the command and close the terminal."""
        self.process.kill()
        self.process.wait(20)
        os.close(self._theirs)
        os.close(self._ours)
