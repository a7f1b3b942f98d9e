"""Compressed messages: kombu decompresses them before this project sees them, up to a bound."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from kombu import compression

from worker.domain.batches import MAX_BATCH_REQUESTS
from worker.domain.requests import MAX_REQUEST_BYTES

MAX_MESSAGE_BYTES: Final = (MAX_BATCH_REQUESTS + 64) * MAX_REQUEST_BYTES
"""The longest body of a message: a full batch, and what Celery adds to it."""

MAX_DICTIONARY_BYTES: Final = 64 * 1024 * 1024
"""The memory that a decoder may use for itself, if the sender chooses it."""

WAYS: Final = "gzip, bzip2 and lzma"

Decoder = Callable[[bytes], bytes]

_kombu: Final[Any] = compression  # its annotations leave out what is changed here


def bound_decompression() -> None:
    """Make kombu decompress no body beyond the bound. Methods without a bound are refused.

    This changes kombu's own table, because kombu has no option for it. The lock file pins its
    version.
    """
    decoders: dict[str, Decoder] = _kombu._decoders  # noqa: SLF001 - there is no other place
    for content_type in list(decoders):
        if content_type in _BOUNDED:
            decoders[content_type] = _BOUNDED[content_type]
        else:
            del decoders[content_type]


def _bounded(start: Callable[[], Any]) -> Decoder:
    def decompress(body: bytes) -> bytes:
        decompressor = start()
        text: bytes = decompressor.decompress(body, MAX_MESSAGE_BYTES)
        if not decompressor.eof:
            raise ValueError(f"inflates to more than {MAX_MESSAGE_BYTES} bytes, or is cut off")
        return text

    return decompress


_BOUNDED: Final[dict[str, Decoder]] = {
    "application/x-gzip": _bounded(zlib.decompressobj),
    "application/x-bz2": _bounded(bz2.BZ2Decompressor),
    "application/x-lzma": _bounded(lambda: lzma.LZMADecompressor(memlimit=MAX_DICTIONARY_BYTES)),
}
