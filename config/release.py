"""The release of this software, as its package says it."""

from importlib.metadata import version
from typing import Final

PACKAGE: Final = "amplify-import-worker"
RELEASE: Final = version(PACKAGE)
