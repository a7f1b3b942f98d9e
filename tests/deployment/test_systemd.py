"""The systemd units are valid and hardened, and their commands run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES
from tests.support import BIN, PROJECT, Sandbox, environment_for, free_port, wait_until
from tests.support.scraping import Scraper
from tests.support.services import running

DIRECTORY = PROJECT / "config" / "systemd"
UNITS = sorted(DIRECTORY.glob("*.service"))
TARGET = DIRECTORY / "amplify-import.target"
INSTALLED = "/opt/amplify-import/.venv/bin"
MOST_EXPOSED = 2.0
PROBES = {
    "amplify-import-worker@.service": ("9464", "/readyz"),
    "amplify-import-flower.service": ("5555", "/healthcheck"),
    "amplify-import-exporter.service": ("9465", "/livez"),
    "amplify-import-http.service": ("8080", "/readyz"),
    "amplify-import-relay.service": ("9466", "/readyz"),
}
"""The port that each service uses here, and a path that answers when it works."""


def analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NO systemd-analyze here, the systemd units are not verified")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def values_of(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def hardening_of(unit: Path) -> str:
    _, first, rest = unit.read_text().partition("NoNewPrivileges=")
    options, _, _ = rest.partition("\n\n")
    return first + options


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    copies = [tmp_path / path.name for path in (*UNITS, TARGET)]
    for path, copy in zip((*UNITS, TARGET), copies, strict=True):
        copy.write_text(path.read_text().replace(INSTALLED, str(BIN)))
    assert analyze("verify", "--man=no", *map(str, copies)) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_may_do_no_more_than_it_needs(unit: Path) -> None:
    report = analyze("security", "--offline=true", "--no-pager", str(unit))
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert float(exposure) <= MOST_EXPOSED, report


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_restarts_and_belongs_to_the_target(unit: Path) -> None:
    assert values_of(unit, "Restart") == ["always"]
    assert values_of(unit, "StartLimitIntervalSec") == ["0"]
    assert values_of(unit, "PartOf") == values_of(unit, "WantedBy") == [TARGET.name]
    assert hardening_of(unit) == hardening_of(UNITS[0])


def test_the_example_names_settings_that_exist() -> None:
    text = (DIRECTORY / "environment.example").read_text()
    names = set(re.findall(r"^(IMPORTS_\w+)=", text, re.MULTILINE))
    assert names
    assert all(f"| `{name}` |" in PAGES["settings.md"]() for name in names)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_command_runs_and_stops(
    unit: Path, sandbox: Sandbox, store_url: str, tmp_path: Path
) -> None:
    inside, path = PROBES[unit.name]
    port = free_port()
    (command,) = values_of(unit, "ExecStart")
    command = command.replace(INSTALLED, str(BIN)).replace("%i", "1").replace("%%", "%")
    words = [word.replace(inside, port) for word in shlex.split(command)]
    environment = environment_for(
        sandbox, store_url, IMPORTS_METRICS_PORT=port, IMPORTS_HTTP_TOKEN="token"
    )
    if "worker" not in unit.name and "relay" not in unit.name:
        del environment["IMPORTS_METRICS_PORT"]
    if "relay" in unit.name:
        environment["IMPORTS_EVENTBRIDGE_BUS"] = "default"
    with running(words, environment, tmp_path):
        wait_until(lambda: Scraper(port).probe(path) == 200, f"{path} answers", 60)
