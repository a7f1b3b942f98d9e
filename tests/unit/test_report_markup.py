"""The report's markup: what is not markup is escaped, wherever it stands."""

import pytest

from worker.cli.report.markup import Html, clipped, escaped, join, table, tag
from worker.cli.report.results import safe_cell

HOSTILE = "<script>alert('&\"')</script>"
HARMLESS = "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;"


def test_text_is_escaped_and_markup_is_not() -> None:
    assert escaped(HOSTILE) == HARMLESS
    assert tag("p", HOSTILE) == f"<p>{HARMLESS}</p>"
    assert tag("p", tag("b", "x"), " & y") == "<p><b>x</b> &amp; y</p>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_attributes_are_escaped_and_have_their_own_names() -> None:
    assert tag("a", class_=HOSTILE, aria_label="x") == f'<a class="{HARMLESS}" aria-label="x"></a>'


def test_control_characters_are_shown() -> None:
    assert escaped("a\x00\x1b[31m\u202eb") == r"a\x00\x1b[31m\u202eb"


def test_cells_captions_and_headers_of_a_table_are_escaped() -> None:
    drawn = table(HOSTILE, [HOSTILE, "n"], [[HOSTILE, "1"]], numbers=[1])
    assert "<script" not in drawn
    assert f"<caption>{HARMLESS}</caption>" in drawn
    assert f'<th scope="col">{HARMLESS}</th>' in drawn
    assert f'<th scope="row">{HARMLESS}</th><td class="number">1</td>' in drawn


def test_a_very_long_text_is_shortened() -> None:
    assert clipped("x" * 500) == "x" * 500
    assert clipped("x" * 501) == "x" * 500 + "…"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert str(safe_cell(text))[0] not in "=+-@\t\r\n"


@pytest.mark.parametrize("value", ["plain", "a=b", "", "'=x", 7, None])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert safe_cell(value) == value


def test_a_cell_shows_its_control_characters() -> None:
    assert safe_cell("a\x1b[31m\r\n") == "a\\x1b[31m\\r\n"
