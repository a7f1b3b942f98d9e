"""What AWS does not document about its jobs: words, times, lists, jobs that are not imports.

Each of these facts is a key of a scenario. Words, times and orders that a scenario does not give
are drawn by its seed.
"""

from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from worker.sandbox.draws import draw

OPERATIONS = ("ImportBackendAuth", "IMPORT_BACKEND_AUTH", "importAuth", "ImportAuth")
UNDER_WAY = ("IN_PROGRESS", "CREATING", "Running", "PENDING", "Working")

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


class FilterMatch(StrEnum):
    """The jobs that the `operation` filter of ListBackendJobs matches."""

    NAME = "name"  # the name that lists show
    NOTHING = "nothing"
    EVERYTHING = "everything"


class TimeStyle(StrEnum):
    """The format of a job's times. All formats are text, except EPOCH_NUMBER."""

    EPOCH = "epoch"
    EPOCH_NUMBER = "epoch-number"
    MILLISECONDS = "milliseconds"
    ISO = "iso"
    ISO_NO_ZONE = "iso-no-zone"
    HTTP_DATE = "http-date"
    DATE = "date"
    ABSENT = "absent"


DRAWN_TIMES = (TimeStyle.EPOCH, TimeStyle.EPOCH_NUMBER, TimeStyle.MILLISECONDS, TimeStyle.ISO)


class ListOrder(StrEnum):
    """The order of the jobs in a list."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SHUFFLED = "shuffled"


class Undocumented(BaseModel):
    """The facts. None means that a fact is drawn; for a number of seconds, it means forever.

    `operation` is a job's operation name in the answers of ImportBackendAuth and GetBackendJob,
    `list_operation` that in lists. Lists forget a job `list_memory_seconds` after its end,
    GetBackendJob forgets it after `job_memory_seconds`.

    With probability `other_jobs`, a target has an ended job that is not an import. With probability
    `others_running`, it has one that runs for `other_seconds` from the target's first call on. Such
    a running job prevents imports if `others_block` is true.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str | None = None
    list_operation: str | None = None
    under_way: str | None = None
    completed: str | None = None
    failed: str | None = None
    times: TimeStyle | None = None
    list_order: ListOrder | None = None
    operation_filter: FilterMatch = FilterMatch.NAME
    pending_message: str = "There is already a pending job for {target}: {job}"
    lists_finished: bool = True
    list_memory_seconds: Seconds | None = None
    job_memory_seconds: Seconds | None = None
    other_operation: str = "UpdateBackendAuth"
    other_jobs: Probability = 0
    others_running: Probability = 0
    other_seconds: Seconds = 1
    others_block: bool = True

    def drawn(self, seed: int) -> Self:
        """Return the facts with all missing words, times and orders drawn by the seed."""
        choices = {
            "operation": OPERATIONS,
            "list_operation": OPERATIONS,
            "under_way": UNDER_WAY,
            "completed": ("COMPLETED", "Completed", "completed"),
            "failed": ("FAILED", "Failed", "failed"),
            "times": DRAWN_TIMES,
            "list_order": tuple(ListOrder),
        }
        made = {
            name: options[int(draw(seed, "undocumented", name) * len(options))]
            for name, options in choices.items()
            if getattr(self, name) is None
        }
        return self.model_copy(update=made)

    def time(self, wall: float) -> str | float | None:
        """Return a time (in Unix seconds) in the format of jobs; None if jobs have no times."""
        moment = datetime.fromtimestamp(wall, UTC)
        match self.times:
            case TimeStyle.ABSENT:
                return None
            case TimeStyle.EPOCH_NUMBER:
                return round(wall, 3)
            case TimeStyle.MILLISECONDS:
                return str(round(wall * 1000))
            case TimeStyle.ISO:
                return moment.isoformat(timespec="milliseconds")
            case TimeStyle.ISO_NO_ZONE:
                return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
            case TimeStyle.HTTP_DATE:
                return format_datetime(moment, usegmt=True)
            case TimeStyle.DATE:
                return moment.date().isoformat()
        return f"{wall:.3f}"
