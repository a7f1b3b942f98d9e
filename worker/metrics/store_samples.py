"""The values of the store's metrics, from one reading of the store."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog

from worker.metrics import store_catalogue as of
from worker.metrics.catalogue import GROUPS_SHOWN, OTHER, Metric
from worker.metrics.labels import Cap
from worker.metrics.values import Sample
from worker.store.batchview import BatchCounts
from worker.store.overview import Group, LaneReading, Overview
from worker.store.sinkviews import SinkView

log = structlog.get_logger()

SCRAPE_SECONDS: Final = 5.0
"""How long one scrape may wait for the store."""

_GREATEST: Final = frozenset({of.OLDEST_WAITING, of.POLL_LAG})
"""Metrics of which `other` shows the greatest value of its lanes, not the sum."""

_OF_ONE_LANE: Final = frozenset({of.START_LIMIT, of.START_PACE, of.RUNNING_LIMIT})
"""Metrics that mean nothing for several lanes together."""


class StoreSamples:
    """Reads the store at each scrape with `read`, which may raise; one scrape at a time."""

    def __init__(self, read: Callable[[], Overview], lanes: Cap) -> None:
        self._read = read
        self._lanes = lanes
        self._groups = Cap(GROUPS_SHOWN)
        self._lock = threading.Lock()
        self._failed = False

    def __call__(self) -> list[Sample]:
        """Return all samples; if the store can't be read, only that it is down."""
        with self._lock:
            try:
                overview = self._read()
            except Exception as error:  # noqa: BLE001 - whatever failed, the scrape must not
                self._note_failure(str(error) or type(error).__name__)
                return [(of.STORE_UP, (), 0)]
            self._failed = False
            return list(samples_of(overview, self._lanes, self._groups))

    def _note_failure(self, error: str) -> None:
        """Log the first of several failures in a row."""
        if not self._failed:
            log.warning("metrics.store_unread", error=error)
        self._failed = True


def samples_of(overview: Overview, lanes: Cap, groups: Cap | None = None) -> Iterator[Sample]:
    """Yield the samples of a reading; the caps bound the values of the labels."""
    yield (of.STORE_UP, (), 1)
    yield (of.EVENTS, (), overview.events)
    yield (of.UNDELIVERED, (), overview.undelivered)
    yield (of.UNADMITTED, (), overview.unadmitted)
    yield (of.UNFINISHED, (), overview.unfinished)
    yield from (s for batch in overview.batches for s in _of_batch(batch))
    yield from (s for sink in overview.sinks for s in _of_sink(sink))
    yield from _united(_of_groups(overview.groups), groups or Cap(GROUPS_SHOWN))
    yield from _united((s for lane in overview.lanes for s in _of_lane(lane)), lanes)


def _united(samples: Iterable[Sample], cap: Cap) -> Iterator[Sample]:
    """Unite the samples whose first label becomes `other`."""
    united: dict[tuple[Metric, tuple[str, ...]], float] = {}
    for metric, (first, *more), value in samples:
        shown = cap.label(first)
        if shown == OTHER and metric in _OF_ONE_LANE:
            continue
        key = (metric, (shown, *more))
        earlier = united.get(key, 0)
        united[key] = max(earlier, value) if metric in _GREATEST else earlier + value
    yield from ((metric, labels, value) for (metric, labels), value in united.items())


def _of_groups(groups: Iterable[Group]) -> Iterator[Sample]:
    for group in groups:
        yield (of.GROUP_PENDING, (group.name,), group.pending)
        if group.lag is not None:
            yield (of.GROUP_LAG, (group.name,), group.lag)


def _of_sink(sink: SinkView) -> Iterator[Sample]:
    labels = (sink.name,)
    yield (of.SINK_WAITING, labels, sink.unread + sink.pending)
    yield (of.SINK_OLDEST, labels, sink.oldest_seconds or 0.0)
    yield (of.SINK_PARKED, labels, sink.parked)
    yield (of.SINK_LOST, labels, sink.lost + sink.dropped)
    yield (of.SINK_DISABLED, labels, bool(sink.disabled))
    yield (of.SINK_SERVED, labels, bool(sink.relay))


def _of_batch(batch: BatchCounts) -> Iterator[Sample]:
    name = batch.batch_id
    for state, number in batch.by_state.items():
        yield (of.BATCH_IMPORTS, (name, state), number)
    yield (of.BATCH_HELD, (name,), batch.held)
    yield (of.BATCH_LEFT, (name,), batch.left)
    yield (of.BATCH_PAUSED, (name,), batch.is_paused)
    yield (of.BATCH_SCHEDULED, (name,), batch.is_scheduled)


def _of_lane(lane: LaneReading) -> Iterator[Sample]:
    view = lane.view
    name, budget = view.name, view.start_budget
    paused_by = {"operator": view.paused_by_operator, "worker": not view.paused_by_operator}
    for priority, number in view.queued.items():
        yield (of.WAITING, (name, priority), number)
    yield (of.DELAYED, (name,), view.delayed)
    yield (of.OLDEST_WAITING, (name,), lane.oldest_waiting_seconds)
    yield (of.RUNNING, (name,), view.running)
    limits = (limit for limit in (view.max_running, view.ceiling) if limit is not None)
    yield (of.RUNNING_LIMIT, (name,), min(limits, default=math.inf))
    yield (of.POLL_LAG, (name,), lane.poll_lag_seconds)
    for by, applies in paused_by.items():
        yield (of.PAUSED, (name, by), bool(view.paused_reason) and applies)
    if budget.rate.value is not None:
        yield (of.START_LIMIT, (name,), budget.rate.value)
    yield (of.START_PACE, (name,), 0.0 if view.paused_reason else budget.pace)
