"""Tables of styled text that fit a width exactly, also with wide characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prompt_toolkit.utils import get_cwidth

Fragments = list[tuple[str, str]]
"""Pieces of text with their styles, as prompt_toolkit takes them."""

ELLIPSIS: Final = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of `least` to `most` cells, on screens of at least `screen` cells."""

    title: str
    least: int
    most: int = 0
    is_number: bool = False
    screen: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of one row in one column."""

    text: str
    style: str = ""


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return the text in exactly `width` cells: filled up with blanks, or cut with an ellipsis."""
    if get_cwidth(text) > width:
        text = _cut(text, width - 1) + ELLIPSIS * (width > 0)
    blanks = " " * (width - get_cwidth(text))
    return blanks + text if right else text + blanks


def _cut(text: str, width: int) -> str:
    """Return the longest beginning of the text that needs at most `width` cells."""
    used = 0
    for index, character in enumerate(text):
        used += get_cwidth(character)
        if used > width:
            return text[:index]
    return text


def wrap(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` cells, broken at blanks if there are any."""
    lines = []
    while get_cwidth(text) > width:
        line = _cut(text, width)
        at = line.rfind(" ")
        if text[len(line)] != " " and at > len(line) - len(line.lstrip()):
            line = line[:at]
        lines.append(line.rstrip())
        text = text[len(line) :].lstrip()
    return [*lines, text]


def widths_of(columns: Sequence[Column], width: int) -> list[int]:
    """Return the width of each column: its least, and as much more as there is room, evenly."""
    widths = [column.least for column in columns]
    room = width - sum(widths) - (len(columns) - 1)
    growing = [index for index, column in enumerate(columns) if column.most > column.least]
    while room > 0 and growing:
        share = max(1, room // len(growing))
        for index in growing:
            more = min(share, room, columns[index].most - widths[index])
            widths[index] += more
            room -= more
        growing = [index for index in growing if widths[index] < columns[index].most]
    return widths


def shown_columns(columns: Sequence[Column], width: int) -> list[int]:
    """Return the numbers of the columns that a screen of this width shows."""
    return [index for index, column in enumerate(columns) if width >= column.screen]


def line_of(
    columns: Sequence[Column], cells: Sequence[Cell], width: int, style: str = ""
) -> Fragments:
    """Return one line of exactly `width` cells; `style` is added to that of each cell."""
    chosen = shown_columns(columns, width)
    widths = widths_of([columns[index] for index in chosen], width)
    line: Fragments = []
    for index, room in zip(chosen, widths, strict=True):
        if line:
            line.append((style, " "))
        cell = cells[index]
        text = fit(cell.text, room, right=columns[index].is_number)
        line.append((f"{cell.style} {style}".strip(), text))
    used = sum(widths) + len(widths) - 1
    return [*line, (style, " " * (width - used))]
