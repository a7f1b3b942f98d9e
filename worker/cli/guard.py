"""Runs a command that does not outlive its parent, however the parent dies.

The guard is a small process between the two. Its standard input is the lifeline: a pipe whose write
end only the parent holds, so that the system closes it when the parent ends, be it by SIGKILL. Then
the guard tells the command to end, waits for a bounded time, and kills it. The command's own end
ends the guard with the same code.

The guard starts as a script of the standard library alone: it imports nothing of this project.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

DEFAULT_GRACE_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 1.0


class GuardedProcess:
    """A command that runs until it ends, until `stop`, or until this process is no more.

    It is out of reach of the terminal's Ctrl-C: its parent decides when it ends. What it prints is
    appended to `log_path`. `outlived_by` names guarded processes that must run as long as this one:
    their lifeline is this one's too, so they end after it even when the parent dies. `held` are
    descriptors, such as those of locks, that the command itself keeps open as long as it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
        outlived_by: Sequence["GuardedProcess"] = (),
        held: Sequence[int] = (),
    ) -> None:
        # -I: a module of the user's working directory must not stand in for the standard library's.
        guard = [sys.executable, "-I", __file__, f"--grace={grace_seconds}"]
        guard += [f"--held={descriptor}" for descriptor in held]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*guard, "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
                pass_fds=[*held, *(process.lifeline for process in outlived_by)],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def lifeline(self) -> int:
        """The descriptor that keeps the command alive as long as anybody holds it."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdin.fileno()

    def poll(self) -> int | None:
        """Return the command's exit code (128 + N if signal N ended it), None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Tell the command to end, kill it after its grace, and return its exit code.

        Blocks until then; may be repeated. Stop the processes that this one outlives before it.
        """
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.close()
        return self._process.wait()


def main() -> int:
    """Run the command of the command line under guard; return its exit code."""
    parser = argparse.ArgumentParser(description="Run a command until standard input ends.")
    parser.add_argument("--grace", type=float, default=DEFAULT_GRACE_SECONDS, metavar="SECONDS")
    parser.add_argument("--held", type=int, action="append", default=[], metavar="DESCRIPTOR")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    return _guard(arguments.command, arguments.grace, arguments.held)


def _guard(command: Sequence[str], grace_seconds: float, held: Sequence[int]) -> int:
    told_to_end = threading.Event()
    # Handlers, not SIG_IGN: the command must not inherit that it ignores SIGINT.
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    signals = _signals()
    # The command gets none of the guard's other descriptors: a lifeline that leaked into it would
    # let it keep its siblings alive.
    child = subprocess.Popen(  # noqa: S603 - the parent's own command
        command, stdin=subprocess.DEVNULL, process_group=0, pass_fds=held
    )
    threading.Thread(target=_end_with_lifeline, args=(child, grace_seconds), daemon=True).start()
    while (code := child.poll()) is None:
        if told_to_end.is_set():
            told_to_end.clear()
            child.terminate()
        with suppress(TimeoutError):
            signals.recv(1)
    return code if code >= 0 else 128 - code


def _signals() -> socket.socket:
    """Return a socket that has a byte to read for each signal, also for one that just came.

    Python's own waiting can sleep through a signal that comes in the moment before it begins.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reader.settimeout(CHECK_SECONDS)  # the other thread may have learned of the end before us
    signal.set_wakeup_fd(writer.detach())
    return reader


def _end_with_lifeline(child: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        # Not reaped yet, so the group's id is still the child's.
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
