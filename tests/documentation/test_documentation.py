"""The documentation says what the code says, where both can be compared."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.documentation.examples import shown_in, with_examples
from tests.documentation.messages import messages
from tests.documentation.pages import DIRECTORY, PAGES
from tests.support import PROJECT
from worker.cli.examples import EXAMPLES
from worker.cli.main import COMMANDS, main
from worker.domain.events import EventType
from worker.domain.states import EDGES, Edge

README = (PROJECT / "README.md").read_text()
EVENTS = (DIRECTORY / "events.md").read_text()
ARCHITECTURE = (PROJECT / "docs" / "architecture.md").read_text()
TEXTS = {path: path.read_text() for path in sorted((PROJECT / "docs").rglob("*.md"))}
SETTING = re.compile(r"\bIMPORTS_[A-Z_]*[A-Z]\b")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_the_code_defines_is_up_to_date(name: str) -> None:
    assert (DIRECTORY / name).read_text() == PAGES[name](), "run `make docs`"


def test_every_example_is_shown_as_it_is() -> None:
    shown = {name for page in TEXTS.values() for name in shown_in(page)}
    for path, page in TEXTS.items():
        assert page == with_examples(page), f"{path}: run `make docs`"
    sources = (".go", ".mjs", ".py", ".sh")
    examples = (PROJECT / "examples").glob("*/*")
    assert shown == {str(path.relative_to(PROJECT)) for path in examples if path.suffix in sources}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_page_names_no_setting_that_does_not_exist(path: Path) -> None:
    assert set(SETTING.findall(TEXTS[path])) <= set(SETTING.findall(PAGES["settings.md"]()))


@pytest.mark.parametrize("event", EventType)
def test_every_event_is_documented(event: EventType) -> None:
    assert f"`{event}`" in EVENTS


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.letter)
def test_every_edge_is_in_the_diagram(edge: Edge) -> None:
    source = re.escape(edge.source or "[*]")
    assert re.search(rf"{source} --> {edge.target}: {edge.letter}\b", ARCHITECTURE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_in_a_help_text_is_a_command_and_its_page_exists(name: str) -> None:
    page, *examples = EXAMPLES[name]
    assert (PROJECT / "docs" / page).exists()
    for example in examples:
        command: click.Command | None = main
        rest = shlex.split(example.partition(" >")[0])
        context = click.Context(main)
        while isinstance(command, click.Group) and rest:
            command, rest = command.get_command(context, rest[0]), rest[1:]
            if rest and rest[0].startswith("-"):
                break
        assert command is not None, example
        _, left_over, _ = command.make_parser(click.Context(command)).parse_args(rest)
        assert left_over == [], example


def test_each_command_has_examples() -> None:
    assert set(COMMANDS) <= set(EXAMPLES)


def test_the_readme_is_short_enough_to_be_finished() -> None:
    assert len(README.splitlines()) < 150


def test_messages_name_no_class_and_use_plain_words() -> None:
    odd = re.compile(
        r"\bended badly\b|\bmend\b|\bgoes on\b|\bby hand\b|\w+Error\b|pydantic|botocore"
    )
    assert [message for message in messages() if odd.search(message.text)] == []


@pytest.mark.parametrize("name", ["run.txt", "otel.txt", "develop.txt"])
def test_lock_files_carry_hashes_and_no_index(name: str) -> None:
    lock = (PROJECT / "requirements" / name).read_text()
    assert "--hash=sha256:" in lock
    assert not re.search(r"--(extra-)?index-url|--find-links|://", lock)
