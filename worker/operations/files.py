"""Reads the files of the AWS configuration once for all sessions, and again when they change.

botocore parses the configuration several times for each session, and each client loads all root
certificates. With a thousand profiles, this would take 0.2 s of CPU and 2 MB for each account.
"""

import os
import ssl
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from botocore.configloader import load_config, raw_config_parse
from botocore.httpsession import create_urllib3_context

T = TypeVar("T")

SETTLED_SECONDS: Final = 1.0
"""A file that has changed more recently may change again without a visible sign: some file systems
store times in whole seconds."""


class Version(NamedTuple):
    """What changes with a file."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


_kept: dict[Hashable, tuple[list[Version | None], Any]] = {}


def read_once(what: str, paths: Sequence[str], read: Callable[[], T]) -> T:
    """Return what `read` makes of these files. Call it again only if one of them has changed.

    All callers share the result and must not change it. `what` distinguishes the results of the
    same files. Errors of `read` are not kept.
    """
    key = (what, *paths)
    # This comes first, so that the next call notices a change during `read`.
    versions = [version_of(path) for path in paths]
    if key in _kept and _kept[key][0] == versions:
        kept: T = _kept[key][1]
        return kept
    result = read()
    if all(version is None or _is_settled(version) for version in versions):
        _kept[key] = (versions, result)
    return result


def version_of(path: str) -> Version | None:
    """Return the version of a file, which may be named as in AWS's variables; None if missing."""
    try:
        found = os.stat(full_path(path))  # noqa: PTH116 - the path is a text, as botocore's
    except OSError:
        return None
    return Version(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def full_path(path: str) -> str:
    """Return the path that botocore opens for a configured one."""
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does it


def configuration_files() -> tuple[str, str]:
    """Return the paths of the AWS configuration: the configuration and the credentials file."""
    return (
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    )


def config_in(path: str) -> Any:
    """Return a configuration file's profiles and other sections. Raises what botocore raises."""
    return read_once("config", [path], partial(load_config, path))


def credentials_in(path: str) -> Any:
    """Return a credentials file's sections. Raises what botocore raises."""
    return read_once("credentials", [path], partial(raw_config_parse, path))


def context_trusting(path: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates in a file. Raises OSError."""
    return read_once("certificates", [path], partial(_make_context, path))


def _make_context(path: str) -> ssl.SSLContext:
    context: ssl.SSLContext = create_urllib3_context()
    context.load_verify_locations(path)
    return context


def _is_settled(version: Version) -> bool:
    latest = max(version.modified_ns, version.changed_ns)
    return abs(time.time() - latest / 1e9) > SETTLED_SECONDS
