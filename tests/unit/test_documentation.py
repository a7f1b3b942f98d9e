"""The documentation says what the code says, where both can be compared."""

import re

import pytest

from config.settings import Settings
from tests.support import PROJECT
from worker.domain.events import EventType
from worker.domain.requests import ImportRequest
from worker.domain.states import EDGES, Edge
from worker.store.keys import CATALOGUE, Key

README = (PROJECT / "README.md").read_text()
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
ARCHITECTURE = (PROJECT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    full, short = f"IMPORTS_{name.upper()}", f"_{name.upper()}"
    assert f"`{full}`" in OPERATIONS or f"`{short}`" in OPERATIONS


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"IMPORTS_([A-Z_]+)", README + OPERATIONS + ARCHITECTURE))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("key", CATALOGUE, ids=lambda key: key.name)
def test_every_key_is_documented(key: Key) -> None:
    assert f"`{key.name}" in OPERATIONS


@pytest.mark.parametrize("event", EventType)
def test_every_event_is_documented(event: EventType) -> None:
    assert f"`{event}`" in OPERATIONS or f"`.{event.removeprefix('import.')}`" in OPERATIONS


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.letter)
def test_every_edge_is_in_the_diagram(edge: Edge) -> None:
    source = re.escape(edge.source or "[*]")
    assert re.search(rf"{source} --> {edge.target}: {edge.letter}\b", ARCHITECTURE)


@pytest.mark.parametrize("name", [f.alias for f in ImportRequest.model_fields.values()])
def test_every_member_is_documented(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", ["run.txt", "develop.txt"])
def test_lock_files_carry_hashes_and_no_index(name: str) -> None:
    lock = (PROJECT / "requirements" / name).read_text()
    assert "--hash=sha256:" in lock
    assert not re.search(r"--(extra-)?index-url|--find-links|://", lock)
