"""Reads the text of a batch file, with or without gzip.

A byte order mark says whether it is UTF-8, UTF-16 or UTF-32. Without one, it must be UTF-8.
"""

import codecs
import gzip
import hashlib
import io
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""The maximum size of a file after decompression. It is enough for more than a million rows."""

MAX_LINE_BYTES: Final = 64 * 1024
"""The maximum length of a line: several times the length of the longest request."""

STANDARD_INPUT: Final = "-"
GZIP_SUFFIX: Final = ".gz"

_GZIP_MAGIC: Final = b"\x1f\x8b"
_SPREADSHEET_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# The order matters: the byte order mark of UTF-32 begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_UTF_8: Final = "UTF-8"
_LINE_END: Final = re.compile(r"\r\n?|\n")


class BatchFileError(Exception):
    """The file is not a batch file. The message names the line if the problem is in one line."""


@dataclass(frozen=True, slots=True)
class BatchText:
    """The text of a file. `digest` is the SHA-256 of its decompressed bytes.

    `encoding` names the encoding, followed by ", gzip" for a compressed file.
    """

    text: str
    digest: str
    encoding: str

    @property
    def is_plain(self) -> bool:
        """Whether the file was UTF-8 without a byte order mark, and not compressed."""
        return self.encoding == _UTF_8

    def lines(self) -> Iterator[str]:
        r"""Yield the lines with their line ends: `\n`, `\r\n` or `\r`.

        Raises:
            BatchFileError: if a line is longer than `MAX_LINE_BYTES`.

        """
        for number, line in enumerate(io.StringIO(self.text, newline=""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise BatchFileError(f"line {number}: is longer than {MAX_LINE_BYTES} bytes")
            yield line


def read_text(path: str | Path) -> BatchText:
    """Read a file; `-` is standard input.

    Raises:
        BatchFileError: if it is empty, too large, or not text.
        OSError: if the file can't be opened or read.

    """
    content = _read(path)
    is_gzip = content.startswith(_GZIP_MAGIC)
    if is_gzip:
        content = _inflated(content)
    if content.startswith(_SPREADSHEET_MAGIC):
        raise BatchFileError("is a spreadsheet, or a ZIP file; save the table as CSV")
    text, encoding = _decoded(content)
    if "\0" in text:
        raise BatchFileError(
            "is not text: it contains NUL bytes; save it as UTF-8, or as UTF-16 with a byte order"
            " mark"
        )
    if not text.strip():
        raise BatchFileError("is empty")
    digest = hashlib.sha256(content).hexdigest()
    return BatchText(text, digest, f"{encoding}, gzip" if is_gzip else encoding)


def _read(path: str | Path) -> bytes:
    if str(path) != STANDARD_INPUT:
        with Path(path).open("rb") as stream:
            return _bounded(stream.read(MAX_FILE_BYTES + 1))
    if sys.stdin is None:
        raise BatchFileError("is closed")
    return _bounded(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))


def _inflated(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return _bounded(stream.read(MAX_FILE_BYTES + 1))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BatchFileError("is a damaged or truncated gzip file") from error


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise BatchFileError(f"is larger than {MAX_FILE_BYTES // 1024**2} MiB; split it")
    return content


def _decoded(content: bytes) -> tuple[str, str]:
    codec, name = next(
        ((codec, name) for mark, codec, name in _MARKS if content.startswith(mark)),
        ("utf-8", _UTF_8),
    )
    try:
        return content.decode(codec), name
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(codec, errors="ignore")
        line = 1 + len(_LINE_END.findall(before))
        raise BatchFileError(f"line {line}: is not {name}") from error
