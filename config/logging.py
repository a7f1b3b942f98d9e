"""Logs: structlog's and the standard library's through one pipeline, JSON or console.

Events are dotted and past tense (`import.started`); values that look like secrets are masked.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from logging.handlers import WatchedFileHandler
from typing import Any, Final

import structlog

from config.settings import Settings

_SECRET_NAME: Final = re.compile(r"secret|token|passw|authoriz|credential|signature", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]+(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?<=password=)[^&\s]+")
_ACCESS_KEY: Final = re.compile(r"\b(A[KS]IA)[A-Z0-9]{12,}\b")
# All but tab and line feed; also the marks of direction, which make text read as what it is not.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MASK: Final = "***"


def configure_logging(settings: Settings, level: str = "", path: str = "") -> None:
    """Send every log line to standard error, or to a file, once, in the configured format.

    `level` is that of the settings unless it is given.
    """
    level = level or settings.log_level
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
    # A file that is rotated away is opened anew.
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
    for outspoken in ("botocore", "aiobotocore"):  # of credentials, with what a helper printed
        logging.getLogger(outspoken).setLevel(logging.ERROR)
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
    """Mask values whose name says secret, passwords within URLs, and AWS access key ids."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


def _masked(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return MASK
    match value:
        case str():
            return mask_text(value)
        case Mapping():
            return {key: _masked(str(key), held) for key, held in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked("", held) for held in value]
        case None | bool() | int() | float():
            return value
        case _:
            return mask_text(str(value))


def mask_text(text: str) -> str:
    """Return `text` without passwords in URLs and without AWS access key ids."""
    without = _QUERY_PASSWORD.sub(MASK, _URL_PASSWORD.sub(rf"\1:{MASK}", text))
    return _ACCESS_KEY.sub(rf"\1{MASK}", without)


def shown(text: str) -> str:
    """Return `text` with its control characters in the form that source code has for them.

    Text comes from producers, files and servers, and a terminal would obey it.
    """
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


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
