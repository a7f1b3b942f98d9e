"""The command line in its own environment."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.forking import ForkedProcess, Streams
from tests.support.sandbox import ACCESS_KEY
from tests.support.workers import BIN

SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class CommandLine:
    """`amplify-import` in its own environment."""

    def __init__(self, store_url: str) -> None:
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "IMPORTS_REDIS_URL": store_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __call__(self, *arguments: str | Path, stdin: str = "", **settings: str) -> Done:
        """Run a command to its end, forked from a process that has imported its modules."""
        return self._run(arguments, {**self.environment, **settings}, stdin=stdin)

    def redirected(
        self, *arguments: str | Path, stdout: Path | None = None, stderr: Path | None = None
    ) -> Done:
        """Do the same, but with output to files. What is written to them is not returned."""
        return self._run(arguments, self.environment, stdout=stdout, stderr=stderr)

    def real(self, *arguments: str | Path) -> Done:
        """Run the real console script, for tests of its startup."""
        done = subprocess.run(
            [BIN / "amplify-import", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return _checked(Done(done.returncode, done.stdout, done.stderr))

    def each(self, *commands: tuple[str | Path, ...], **settings: str) -> list[Done]:
        """Run independent commands in parallel."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda arguments: self(*arguments, **settings), commands))

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run the real command during the test; it is killed at the end."""
        with subprocess.Popen(
            [BIN / "amplify-import", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _run(
        self,
        arguments: Sequence[str | Path],
        environment: Mapping[str, str],
        stdin: str = "",
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> Done:
        with tempfile.TemporaryDirectory() as name:
            files = [Path(name) / stream for stream in ("stdin", "stdout", "stderr")]
            for file in files:
                file.write_text(stdin if file.name == "stdin" else "", newline="")
            process = ForkedProcess(
                "amplify_import:main",
                ["amplify-import", *map(str, arguments)],
                environment,
                Streams(input=files[0], output=stdout or files[1], errors=stderr or files[2]),
            )
            try:
                code = process.wait(SECONDS)
            finally:
                process.kill()
            return _checked(Done(code, files[1].read_text(), files[2].read_text()))


def _checked(done: Done) -> Done:
    assert "Traceback" not in done.stderr, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done
