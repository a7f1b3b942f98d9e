"""The release of this software, as its package says it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGE: Final = "amplify-import-worker"


def _installed() -> str:
    """Return the release; 'unknown' in a checkout of which only the requirements are installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


RELEASE: Final = _installed()
