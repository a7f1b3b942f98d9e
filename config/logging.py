"""Logging: one pipeline for structlog and the standard library, with output as JSON or for people.

Event names have a dot and are in the past tense (`import.started`). Values that look like secrets
are masked.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from logging.handlers import WatchedFileHandler
from typing import Any, Final

import structlog

from config.settings import Settings
from config.text import MASK, mask_text, shown

_SECRET_NAME: Final = re.compile(r"secret|token|passw|authoriz|credential|signature", re.IGNORECASE)


def configure_logging(settings: Settings, level: str = "", path: str = "") -> None:
    """Write every log line once, in the configured format, to standard error or to the file `path`.

    `level` overrides the level of the settings.
    """
    level = level or settings.log_level
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        mask_secrets,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
    # This handler reopens the file after a log rotation.
    handler = WatchedFileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings, is_terminal=not path and sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Below ERROR, these log the output of credential helpers, which may contain secrets.
    for leaky in ("botocore", "aiobotocore"):
        logging.getLogger(leaky).setLevel(logging.ERROR)
    for noisy in (
        "boto3",
        "aiohttp",
        "urllib3",
        "celery.utils.functional",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def mask_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask values with the names of secrets, and secrets within texts (`mask_text`)."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(name: str, value: Any) -> Any:
    if _names_a_secret(name):
        return MASK
    match value:
        case str():
            return mask_text(value)
        case Mapping():
            return {str(key): _masked(str(key), held) for key, held in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked("", held) for held in value]
        case None | bool() | int() | float():
            return value
        case _:
            return mask_text(str(value))


def _show_values(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {
        name: shown(value) if isinstance(value, str) else value for name, value in event.items()
    }


def _renderers(settings: Settings, *, is_terminal: bool) -> list[structlog.typing.Processor]:
    if settings.log_format == "console" or (settings.log_format == "auto" and is_terminal):
        return [_show_values, structlog.dev.ConsoleRenderer(colors=is_terminal)]
    return [structlog.processors.JSONRenderer()]
