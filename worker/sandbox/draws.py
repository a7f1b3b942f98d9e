"""Reproducible random draws. A draw depends on the seed and on names, never on earlier draws.

So a target gets the same faults and outcomes, however requests for other targets interleave.
"""

import hashlib

_RANGE = 2**64


def digest(seed: int, *names: object) -> bytes:
    """Return 16 bytes that depend only on the seed and the names."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def draw(seed: int, *names: object) -> float:
    """Return a number in [0, 1) that depends only on the seed and the names."""
    return int.from_bytes(digest(seed, *names)[:8]) / _RANGE
