"""Foreign text in reasons: short, on one line, and without secrets."""

from typing import Final

from config.text import mask_text, shown_on_one_line

LONGEST: Final = 200


def shown_reason(said: BaseException | str) -> str:
    """Return what an error or a server said, as a reason for people."""
    text = said if isinstance(said, str) else str(said) or type(said).__name__
    return shown_on_one_line(mask_text(" ".join(text.split())))[:LONGEST]
