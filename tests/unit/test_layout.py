"""Limits on the length of files and functions. import-linter checks the layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

WORKER = Path(__file__).parents[2] / "worker"
LONGEST_FILE = 350
LONGEST_FUNCTION = 40


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file with its name and its lines, including decorators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield f"{path.relative_to(WORKER)}:{node.name}", node.end_lineno - first + 1


def test_no_file_is_too_long() -> None:
    files = [path for kind in ("*.py", "*.lua") for path in WORKER.rglob(kind)]
    lengths = {str(path.relative_to(WORKER)): len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length >= LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    lengths = [found for path in WORKER.rglob("*.py") for found in functions(path)]
    assert len(lengths) > 500
    assert [found for found in lengths if found[1] >= LONGEST_FUNCTION] == []
