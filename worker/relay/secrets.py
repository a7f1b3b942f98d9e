"""Secrets that the sinks file only refers to: `env:NAME`, or `file:/path`."""

import os
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

_REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")


class SecretError(ValueError):
    """A secret can't be read. The message names where it should be, and not what is there."""


def _checked(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise ValueError('must be "env:NAME" or "file:/path"; this file holds no secrets')
    return text


Reference = Annotated[str, AfterValidator(_checked)]


def read_secret(reference: Reference) -> str:
    """Return a secret without the blanks around it.

    Raises:
        SecretError: if it can't be read, or is empty.

    """
    kind, _, place = reference.partition(":")
    try:
        secret = os.environ.get(place, "") if kind == "env" else Path(place).read_text()
    except (OSError, ValueError) as error:
        raise SecretError(f"{reference}: {getattr(error, 'strerror', None) or 'no text'}") from None
    if not secret.strip():
        raise SecretError(f"{reference}: {'not set' if kind == 'env' else 'empty'}")
    return secret.strip()
