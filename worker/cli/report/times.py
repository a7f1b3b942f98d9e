"""Times as the report shows them."""

from datetime import UTC, datetime


def moment(milliseconds: int) -> str:
    """Return a time in UTC, to the second."""
    at = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return f"{at.day} {at:%B %Y, %H:%M:%S} UTC"
