"""Reads the text of a batch file, whatever it is encoded in: gzip, and what a byte order mark says.

Without a mark it is UTF-8.
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
"""The longest file, inflated: a million rows and more."""

MAX_LINE_BYTES: Final = 64 * 1024
"""The longest line of a file: several times what the longest request needs."""

STANDARD_INPUT: Final = "-"
GZIP_SUFFIX: Final = ".gz"

_GZIP_MAGIC: Final = b"\x1f\x8b"
_SPREADSHEET_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# In this order: the mark of UTF-16 begins that of UTF-32 as well.
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
    """A file that is no batch at all. The message names the line if one is to blame."""


@dataclass(frozen=True, slots=True)
class BatchText:
    """A file's text. `digest` is the SHA-256 of what it holds, inflated.

    `encoding` says how it was written, `is_plain` that it was UTF-8 and nothing else.
    """

    text: str
    digest: str
    encoding: str

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to say about the encoding."""
        return self.encoding == _UTF_8

    def lines(self) -> Iterator[str]:
        """Yield the lines with their ends, whichever of the three these are.

        Raises:
            BatchFileError: at a line out of all proportion.

        """
        for number, line in enumerate(io.StringIO(self.text, newline=""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise BatchFileError(f"line {number}: is longer than {MAX_LINE_BYTES} bytes")
            yield line


def read_text(path: str | Path) -> BatchText:
    """Read a file; `-` is standard input.

    Raises:
        BatchFileError: when it holds no text, or too much.
        OSError: when it can't be opened or read.

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
            "is no text: it holds NUL; save it as UTF-8, or as UTF-16 with a byte order mark"
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
        raise BatchFileError("is gzip that is damaged or cut off") from error


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise BatchFileError(f"holds more than {MAX_FILE_BYTES // 1024**2} MiB; split it")
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
