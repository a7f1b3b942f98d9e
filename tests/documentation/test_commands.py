"""The commands of the tutorial and of the README do what the pages say."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import BIN, PROJECT, free_port

CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CSV = re.compile(r"^```csv\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_HERE = ("make ", "source ")
"""What begins like this was done before the tests began."""


def commands(page: str) -> list[str]:
    """Return the commands of a page, each with the lines of its here-document."""
    found: list[str] = []
    for block in CONSOLE.findall(page):
        in_document = False
        for line in block.splitlines():
            if line.startswith("$ ") and not in_document:
                found.append(line[2:])
                in_document = "<<" in line
            elif in_document:
                found[-1] += f"\n{line}"
                in_document = line != "END"
    return [command for command in found if not command.startswith(NOT_HERE)]


def play(script: str, directory: Path, **environment: str) -> str:
    """Run a shell script as a user with the program's environment would; return its output."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    state = {"PATH": path, "XDG_STATE_HOME": str(directory / "state"), "HOME": str(directory)}
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=directory,
        env={**settings, **state, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "tutorial.md").read_text()
    port = free_port()
    script = "\n".join(["trap 'kill %1' EXIT", *commands(page)]).replace("4567", port)
    script = script.replace("--scenario api.toml &", f"--scenario api.toml --port {port} & sleep 3")
    output = play(script, tmp_path)
    for shown in SHOWN.findall(page):
        for line in shown.splitlines():
            assert line in output, output
    assert output.splitlines()[-1] == "20", output


@pytest.mark.parametrize("page", ["README.md", "docs/guides/run-a-file.md"])
def test_a_file_is_imported_as_the_page_says(page: str, tmp_path: Path) -> None:
    text = (PROJECT / page).read_text()
    (tmp_path / "apps.csv").write_text("\n".join(CSV.findall(text)))
    (command,) = {command for command in commands(text) if "--sandbox" in command}
    output = play(command.replace(".venv/bin/", ""), tmp_path, AWS_REGION="eu-central-1")
    assert "1 of 1 succeeded" in output
