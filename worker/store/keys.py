"""The catalogue of all keys in the store. Scripts get these prefixes and spell out no key.

One node contains all keys. A state change writes to an import, its lane, its target and its batch
at once, so the keys can't be spread over a cluster (docs/decisions/0003). In a cluster, their names
begin with a hash tag, which puts them into one slot (docs/decisions/0022).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from worker.store.cluster import CLUSTER_PREFIX, is_clustered


class Lifetime(StrEnum):
    """How long a key stays when it is no longer needed."""

    RETENTION = "expires after the retention time"
    EMPTIED = "a collection that goes away with its last element"
    KEPT = "one small key that stays"
    TRIMMED = "a stream that is trimmed"
    SWEPT = "a collection from which workers remove what has expired"


@dataclass(frozen=True, slots=True)
class Key:
    """One kind of key. `name` ends with a colon if a suffix follows."""

    name: str
    type: str
    lifetime: Lifetime
    holds: str

    def on(self, redis: Any) -> str:
        """Return the name in the store of this client or pipeline."""
        return name_on(redis, self.name)


PREFIX: Final = "imports:"


def name_on(redis: Any, name: str) -> str:
    """Return the name that the key `name` of the catalogue has in the store of this client."""
    return CLUSTER_PREFIX + name.removeprefix(PREFIX) if is_clustered(redis) else name


def catalogued(name: str) -> str:
    """Return the catalogue's name of a key that was found in a store."""
    if name.startswith(CLUSTER_PREFIX):
        return PREFIX + name.removeprefix(CLUSTER_PREFIX)
    return name


IMPORT: Final = Key(
    "imports:import:",
    "hash",
    Lifetime.RETENTION,
    "id → the record of an import, in a spelling that takes little memory",
)
TASKS: Final = Key(
    "imports:tasks:",
    "hash",
    Lifetime.RETENTION,
    "id → Celery task id → its signature, while that task is deferred, or '' for a task that a "
    "worker creates at the end",
)
HISTORY: Final = Key(
    "imports:history:",
    "list",
    Lifetime.RETENTION,
    "id → what happened to an import, as JSON, unless its record shows it all",
)
IDEMPOTENCY: Final = Key(
    "imports:idempotency:", "string", Lifetime.RETENTION, "digest of an idempotencyKey → import id"
)
BATCH: Final = Key(
    "imports:batch:", "hash", Lifetime.RETENTION, "batchId → imports accepted, expected, by state"
)
MEMBERS: Final = Key(
    "imports:members:", "zset", Lifetime.RETENTION, "batchId → its import ids in order of admission"
)
BATCHES: Final = Key(
    "imports:batches", "zset", Lifetime.SWEPT, "the index of batches: batchIds by creation time"
)
LANE: Final = Key(
    "imports:lane:", "hash", Lifetime.KEPT, "lane → its limits, turns, ceiling and pause"
)
NAMES: Final = Key("imports:names", "set", Lifetime.KEPT, "every lane ever used or configured")
DEFAULTS: Final = Key(
    "imports:defaults", "hash", Lifetime.KEPT, "limits of lanes that have none of their own"
)
ACCOUNTS: Final = Key(
    "imports:accounts",
    "zset",
    Lifetime.SWEPT,
    "the accounts that workers accept, names or patterns, by the time they last said so",
)
LIMITER: Final = Key(
    "imports:limiter:", "hash", Lifetime.KEPT, "lane:class of calls → what is known of its limit"
)
FACTS: Final = Key(
    "imports:facts:",
    "hash",
    Lifetime.KEPT,
    "lane → what its answers have shown of AWS, and how long its jobs take",
)
WAITING: Final = Key(
    "imports:waiting:", "zset", Lifetime.EMPTIED, "lane:priority → import ids in order of start"
)
FLOWS: Final = Key(
    "imports:flows:",
    "zset",
    Lifetime.EMPTIED,
    "lane:priority → batchIds by the turn of their last import",
)
HELD: Final = Key(
    "imports:held:",
    "zset",
    Lifetime.EMPTIED,
    "batchId → import ids that wait for its canaries, its schedule or its resume",
)
RELEASES: Final = Key(
    "imports:releases",
    "zset",
    Lifetime.EMPTIED,
    "batchIds whose held imports go back to their lanes",
)
OPENINGS: Final = Key(
    "imports:openings",
    "zset",
    Lifetime.EMPTIED,
    "batchIds by the time at which their schedule allows held imports to start",
)
SCHEDULES: Final = Key(
    "imports:schedules",
    "zset",
    Lifetime.EMPTIED,
    "batchIds with a window, by the time at which its openings are computed again",
)
DELAYED: Final = Key(
    "imports:delayed:", "zset", Lifetime.EMPTIED, "lane → waiting import ids by time of next start"
)
POLLS: Final = Key(
    "imports:polls:", "zset", Lifetime.EMPTIED, "lane → import ids by time of next poll or check"
)
LATE: Final = Key(
    "imports:late:",
    "zset",
    Lifetime.EMPTIED,
    "lane → ended import ids whose job continues, by time of next poll",
)
LEASES: Final = Key(
    "imports:leases:", "zset", Lifetime.EMPTIED, "lane → claimed import ids by end of lease"
)
TARGET: Final = Key(
    "imports:target:",
    "hash",
    Lifetime.RETENTION,
    "lane/target → the import that has it, and its last jobs, which are kept for a day",
)
PARKED: Final = Key(
    "imports:parked:", "zset", Lifetime.EMPTIED, "lane/target → import ids that wait for the target"
)
LANES: Final = Key(
    "imports:lanes", "zset", Lifetime.EMPTIED, "lanes with work by the time it falls due"
)
UNFINISHED: Final = Key(
    "imports:unfinished",
    "zset",
    Lifetime.EMPTIED,
    "terminal import ids whose tasks have not finished, by time of next publication",
)
EXPIRING: Final = Key(
    "imports:expiring",
    "zset",
    Lifetime.EMPTIED,
    "import ids that are cancelled unless they start, by that time",
)
SEQUENCE: Final = Key(
    "imports:sequence", "string", Lifetime.KEPT, "counter: numbers admissions and leases"
)
WAKE: Final = Key("imports:wake", "list", Lifetime.EMPTIED, "at most one hint that work is due")
REQUESTS: Final = Key(
    "imports:requests", "stream", Lifetime.TRIMMED, "requests from producers without Celery"
)
EVENTS: Final = Key("imports:events", "stream", Lifetime.TRIMMED, "the events")
RELAYS: Final = Key(
    "imports:relays", "hash", Lifetime.KEPT, "relay → the sinks that it knows, and its lease"
)
SINKS: Final = Key("imports:sinks", "set", Lifetime.KEPT, "every sink that a relay has served")
SINK: Final = Key(
    "imports:sink:",
    "hash",
    Lifetime.KEPT,
    "sink → its relay, how far it has read the events, its counts and its last error",
)
PARKED_EVENTS: Final = Key(
    "imports:parked_events:",
    "stream",
    Lifetime.TRIMMED,
    "sink → the events that it refused, and why",
)
RESEND: Final = Key(
    "imports:resend:", "zset", Lifetime.EMPTIED, "sink → parked events that are to be sent again"
)

CATALOGUE: Final = (
    IMPORT,
    TASKS,
    HISTORY,
    IDEMPOTENCY,
    BATCH,
    MEMBERS,
    BATCHES,
    LANE,
    NAMES,
    DEFAULTS,
    ACCOUNTS,
    LIMITER,
    FACTS,
    WAITING,
    FLOWS,
    HELD,
    RELEASES,
    OPENINGS,
    SCHEDULES,
    DELAYED,
    POLLS,
    LATE,
    LEASES,
    TARGET,
    PARKED,
    LANES,
    UNFINISHED,
    EXPIRING,
    SEQUENCE,
    WAKE,
    REQUESTS,
    EVENTS,
    RELAYS,
    SINKS,
    SINK,
    PARKED_EVENTS,
    RESEND,
)

FORMAT: Final = 5
"""The latest format of records. It rises with a change that workers of the previous release
can't handle; they leave records of a later format to newer workers. A new field alone does not
change it. A record has the earliest format that fits it (base.lua), so that older workers handle
all records they can."""

CONSUMER_GROUP: Final = "workers"
"""The consumer group with which workers read the requests stream."""

RELAY_GROUP: Final = "relay:"
"""Before a sink's name: the consumer group with which relays read the events for it."""
