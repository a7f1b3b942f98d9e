"""Texts that scripts write for people; the scripts fill in names and numbers.

A script that ends an import, or notes a doubt, must write the reason in the same step, so the
caller can't provide the text. `%s` and `%d` are those of Lua's `string.format`.
"""

from typing import Final

SENTENCES: Final = {
    "key_reused": "idempotencyKey: import %s has used it for another request",
    "silent": "the worker stopped responding during the call",
    "store_lost": "the store was lost; a start may have been made before",
    "start_unknown": "the outcome of the start of import %s is unknown",
    "canaries_failed": "%d of its first %d imports did not succeed",
    "too_many_failed": "%d of %d imports did not succeed",
}
"""By the names that scripts use: `SAY.silent`."""
