"""The names that producers and workers agree on: queues, headers, and the task of a batch."""

from typing import Final

BATCH_TASK: Final = "imports.import_batch"

IMPORTS_QUEUE: Final = "imports"
ADMIT_QUEUE: Final = "imports.admit"
"""The queue that Celery consumes instead if the broker is Redis (see worker.store.messages)."""

FINISH_QUEUE: Final = "imports.finish"
"""The queue in which workers of the previous release publish the tasks of ended imports, to finish
them. Workers of this release finish them in place, and only consume the queue."""

NOT_BEFORE_HEADER: Final = "imports_not_before"
EXPIRES_HEADER: Final = "imports_expires"
"""Where a message's `eta` and `expires` go: an import waits, and expires, in the store."""

FORMAT_HEADER: Final = "imports_format"
"""Message header of the same: the format of the import's record (worker.store.keys)."""

FINISH_HEADER: Final = "imports_finish"
"""The message header of a task in the finish queue: the id of the ended import."""

TRACEPARENT_HEADER: Final = "traceparent"
TRACESTATE_HEADER: Final = "tracestate"
"""Where a producer's place in a trace is (W3C Trace Context): headers of a message, fields of a
stream entry."""
