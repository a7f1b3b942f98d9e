"""Files of the AWS configuration that all sessions share."""

import os
from pathlib import Path

import pytest

from worker.operations import files
from worker.operations.files import read_once


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def read(path: Path) -> list[str]:
    """Return a new list with the text; the same list means that the file was not read again."""
    return read_once("text", [str(path)], lambda: [path.read_text() if path.exists() else ""])


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for one that has not changed for long."""
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_until_it_changes(file: Path) -> None:
    first = read(file)
    assert read(file) is first
    file.write_text("another")
    assert read(file) == ["another"]
    (file.parent / "new").write_text("replaced")
    (file.parent / "new").replace(file)
    assert read(file) == ["replaced"]
    file.unlink()
    assert read(file) == [""]
    assert read(file) is read(file)


def test_a_file_that_has_just_changed_is_read_again(file: Path) -> None:
    first, before = read(file), file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(file) == ["two"] != first


@pytest.mark.usefixtures("settled")
def test_an_error_is_not_kept(file: Path) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read_once("number", [str(file)], lambda: int(file.read_text()))
    assert read_once("number", [str(file)], lambda: 1) == 1


@pytest.mark.usefixtures("settled")
def test_results_of_a_file_are_kept_apart(file: Path) -> None:
    assert read_once("length", [str(file)], lambda: 3) == 3
    assert read(file) == ["one"]
