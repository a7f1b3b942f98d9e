"""What the settings mean to the store and the engine.

Commands use this too. It imports neither Celery nor a client of AWS, which take long.
"""

from config.servers import is_replicated
from config.settings import LaneSettings, Settings
from worker.domain.outcomes import LaneLimits
from worker.domain.policy import Policy
from worker.operations.registry import OPERATIONS
from worker.store.config import StoreConfig


def store_config(settings: Settings) -> StoreConfig:
    """Return the settings that the store needs."""
    return StoreConfig(
        retention_seconds=settings.retention_seconds,
        events_max_length=settings.events_max_length,
        lease_seconds=settings.lease_seconds,
        settle_seconds=settings.settle_seconds,
        operations=tuple(OPERATIONS.tasks),
        event_source=settings.event_source,
        replicated=is_replicated(settings.redis_url),
    )


def limits_of(settings: LaneSettings) -> LaneLimits:
    """Return a lane's limits in the form that the store takes."""
    return LaneLimits(**settings.model_dump())


def policy_of(settings: Settings) -> Policy:
    """Return the operator's policy."""
    return Policy(
        max_attempts=settings.max_attempts,
        poll_min_seconds=settings.poll_min_seconds,
        poll_max_seconds=settings.poll_max_seconds,
        stuck_seconds=settings.stuck_seconds,
        deadline_seconds=settings.deadline_seconds,
        success_statuses=settings.success_statuses,
        failure_statuses=settings.failure_statuses,
        settle_seconds=settings.settle_seconds,
        missing_grace_seconds=settings.missing_grace_seconds,
        list_memory_seconds=settings.list_memory_seconds,
        assume_finished_listed=settings.assume_finished_listed,
        operations=tuple(OPERATIONS.tasks),
        verify=settings.verify,
    )
