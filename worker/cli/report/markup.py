"""Builds HTML and SVG. All text is escaped unless it is `Html` already."""

import html
from collections.abc import Iterable, Sequence
from typing import Final

from config.text import shown

LONGEST_TEXT: Final = 500


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Return text as markup, with control characters as escapes."""
    return text if isinstance(text, Html) else Html(html.escape(shown(text)))


def join(parts: Iterable[str]) -> Html:
    """Return the parts as one piece of markup."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, *children: str, **attributes: object) -> Html:
    """Return an element. `class_` stands for `class`, and `_` within a name for `-`."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{pairs}>{join(children)}</{name}>")


def clipped(text: str) -> str:
    """Return `text`, shortened if it is very long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()
) -> Html:
    """Return a table whose first column names its rows. `numbers` are columns to align right."""
    right = {position: {"class_": "number"} for position in numbers}
    head = join(
        tag("th", name, scope="col", **right.get(position, {}))
        for position, name in enumerate(columns)
    )
    body = join(tag("tr", tag("th", row[0], scope="row"), *_cells(row[1:], right)) for row in rows)
    parts = (tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag(
        "div", tag("table", *parts), class_="table", role="region", aria_label=caption, tabindex=0
    )


def _cells(texts: Sequence[str], right: dict[int, dict[str, str]]) -> Iterable[Html]:
    for position, text in enumerate(texts, 1):
        yield tag("td", text, **right.get(position, {}))
