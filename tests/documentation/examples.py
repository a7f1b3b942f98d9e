"""Pages show the examples' own files: a comment names the file, and the code block after it is it.

Pages are read as they are in the repository too, where nothing includes files.
"""

import re
from pathlib import Path
from typing import Final

from tests.support import PROJECT

_SHOWN: Final = re.compile(
    r"(?P<mark><!-- (?P<path>examples/[\w./-]+) -->\n\n```\w+\n).*?(?P<end>^```$)",
    re.DOTALL | re.MULTILINE,
)


def with_examples(page: str) -> str:
    """Return a page with the present content of each file that it shows."""
    return _SHOWN.sub(lambda m: m["mark"] + (PROJECT / m["path"]).read_text() + m["end"], page)


def shown_in(page: str) -> list[str]:
    """Return the files that a page shows."""
    return [found["path"] for found in _SHOWN.finditer(page)]


def write_examples() -> None:
    """Bring all pages up to date."""
    for path in _guides():
        path.write_text(with_examples(path.read_text()))


def _guides() -> list[Path]:
    return sorted((PROJECT / "docs" / "guides").glob("*.md"))
