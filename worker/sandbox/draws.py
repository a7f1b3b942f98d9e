"""Chance that can be replayed: a draw depends on the seed and a name, never on earlier draws.

So the faults and outcomes of a target are the same however the requests of others interleave.
"""

import hashlib

_RANGE = 2**64


def digest(seed: int, *names: object) -> bytes:
    """Sixteen bytes that are the same for the same seed and names."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def draw(seed: int, *names: object) -> float:
    """Draw a number in [0, 1) for these names."""
    return int.from_bytes(digest(seed, *names)[:8]) / _RANGE
