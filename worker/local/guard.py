"""Runs a command that does not outlive its parent process, however the parent ends.

The guard is a small process between the two. Its standard input is the lifeline: a pipe whose write
end only the parent has open. When the parent ends, even by SIGKILL, the operating system closes
the pipe. Then the guard terminates the command, waits for a limited time, and kills it. When the
command ends first, the guard ends with the command's exit code.

The guard runs this file as a script, which imports only the standard library.
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
    """A command that runs until it ends, until `stop` is called, or until this process ends.

    Ctrl-C on the terminal does not reach the command, so this process decides when it ends. Its
    output is appended to `log_path`. `stop` kills it if it takes longer than `grace_seconds`.

    `outlived_by` are guarded processes that must run as long as this one. This one's guard keeps
    their lifelines open, so they end after it even if the parent is killed. `held` are descriptors,
    such as those of locks, that the command keeps open as long as it runs.
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
        # -I: Python must not import modules of the user's directory instead of standard ones.
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
        """The descriptor that keeps the command running as long as any process has it open."""
        assert self._process.stdin is not None  # noqa: S101 - stdin is a pipe
        return self._process.stdin.fileno()

    def poll(self) -> int | None:
        """Return the command's exit code (128 + N if signal N ended it), None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Terminate the command, kill it after `grace_seconds`, and return its exit code.

        This call blocks until the command has ended. It may be repeated. Before this process, stop
        those that name it in `outlived_by`.
        """
        assert self._process.stdin is not None  # noqa: S101 - stdin is a pipe
        self._process.stdin.close()
        return self._process.wait()


def main() -> int:
    """Run the command that the arguments name, and return its exit code."""
    parser = argparse.ArgumentParser(description="Run a command until standard input ends.")
    parser.add_argument("--grace", type=float, default=DEFAULT_GRACE_SECONDS, metavar="SECONDS")
    parser.add_argument("--held", type=int, action="append", default=[], metavar="DESCRIPTOR")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    return _guard(arguments.command, arguments.grace, arguments.held)


def _guard(command: Sequence[str], grace_seconds: float, held: Sequence[int]) -> int:
    terminated = threading.Event()
    # Handlers instead of SIG_IGN, because the command would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    signals = _signals()
    # The command must not inherit the guard's other descriptors: with a lifeline among them, it
    # could keep the processes of that lifeline running.
    child = subprocess.Popen(  # noqa: S603 - the parent's own command
        command, stdin=subprocess.DEVNULL, process_group=0, pass_fds=held
    )
    threading.Thread(target=_end_with_lifeline, args=(child, grace_seconds), daemon=True).start()
    while (code := child.poll()) is None:
        if terminated.is_set():
            terminated.clear()
            child.terminate()
        with suppress(TimeoutError):
            signals.recv(1)
    return code if code >= 0 else 128 - code


def _signals() -> socket.socket:
    """Return a socket that receives one byte for each signal.

    Reading from it misses no signal. Other ways to wait, such as `signal.pause`, can miss a signal
    that arrives just before the wait begins.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reader.settimeout(CHECK_SECONDS)  # in case the other thread reaped the command first
    signal.set_wakeup_fd(writer.detach())
    return reader


def _end_with_lifeline(child: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        # The child has not been reaped, so the system can't have reused its group id.
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
