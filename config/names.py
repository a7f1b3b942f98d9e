"""The names that the contract fixes: tasks and queues."""

from typing import Final

IMPORT_TASK: Final = "imports.import_backend_auth"
BATCH_TASK: Final = "imports.import_batch"

IMPORTS_QUEUE: Final = "imports"
ADMIT_QUEUE: Final = "imports.admit"
"""What Celery consumes instead where the broker is Redis (worker.store.messages)."""

FINISH_QUEUE: Final = "imports.finish"
"""Where ended imports' tasks are published again: never behind a long queue of new requests."""

NOT_BEFORE_HEADER: Final = "imports_not_before"
EXPIRES_HEADER: Final = "imports_expires"
"""Where a message's `eta` and `expires` go: an import waits, and expires, in the store."""

FORMAT_HEADER: Final = "imports_format"
"""Message header of the same: the format of the import's record (worker.store.keys)."""

FINISH_HEADER: Final = "imports_finish"
"""Message header of such a task: the id of the import that is over."""
