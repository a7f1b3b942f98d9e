"""The values of the metrics, in a registry of prometheus-client, and their text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from worker.metrics.catalogue import (
    KNOWN_VALUES,
    LANES_SHOWN,
    LIMIT_TYPES_SHOWN,
    WORKER,
    Metric,
    Type,
)
from worker.metrics.labels import Cap

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, with the time of its creation

Sample = tuple[Metric, tuple[str, ...], float]
"""A gauge, the values of its labels, and its own value."""


_Add = Callable[[float, Any], None]
"""Takes a value, and its exemplar or None."""


class Values:
    """Counters and histograms that are recorded, and gauges that are read at each scrape."""

    def __init__(self, metrics: Iterable[Metric] = WORKER) -> None:
        self._registry = CollectorRegistry()
        self.lanes = Cap(LANES_SHOWN)
        self._caps = {"lane": self.lanes, "limit_type": Cap(LIMIT_TYPES_SHOWN)}
        self._collectors: dict[str, Counter | Histogram] = {}
        # finding a series by its labels costs more than adding to it
        self._adders: dict[tuple[str, tuple[str, ...]], _Add] = {}
        for metric in metrics:
            if metric.type is not Type.GAUGE:
                self._collectors[metric.name] = self._collector_of(metric)

    def add(
        self,
        metric: Metric,
        value: float,
        *labels: str,
        exemplar: Mapping[str, str] | None = None,
    ) -> None:
        """Increase a counter by `value`, or observe it in a histogram."""
        add = self._adders.get((metric.name, labels))
        if add is None:
            add = self._adder_of(metric, labels)
        add(value, exemplar)

    def read_from(self, read: Callable[[], Iterable[Sample]]) -> None:
        """Read gauges with `read` at each scrape."""
        self._registry.register(_Gauges(read))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return all values as text, and its content type, as an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _adder_of(self, metric: Metric, labels: tuple[str, ...]) -> _Add:
        """Return what adds to a series, and keep it unless a label became `other`."""
        collector = self._collectors[metric.name]
        shown = tuple(self._shown(*each) for each in zip(metric.labels, labels, strict=True))
        series = collector.labels(*shown) if shown else collector
        add: _Add = series.inc if isinstance(series, Counter) else series.observe
        if shown == labels:
            self._adders[metric.name, labels] = add
        return add

    def _shown(self, name: str, value: str) -> str:
        cap = self._caps.get(name)
        return cap.label(value) if cap else value

    def _collector_of(self, metric: Metric) -> Counter | Histogram:
        made: Counter | Histogram
        if metric.type is Type.COUNTER:
            made = Counter(metric.name, metric.help, metric.labels, registry=self._registry)
        else:
            made = Histogram(
                metric.name,
                metric.help,
                metric.labels,
                buckets=metric.buckets,
                registry=self._registry,
            )
        if metric.labels and set(metric.labels) <= KNOWN_VALUES.keys():
            for values in product(*(KNOWN_VALUES[name] for name in metric.labels)):
                made.labels(*values)
        return made


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def describe(self) -> Sequence[GaugeMetricFamily]:
        return ()  # so that registering does not read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for metric, labels, value in self._read():
            if metric.name not in families:
                families[metric.name] = GaugeMetricFamily(
                    metric.name, metric.help, labels=metric.labels
                )
            families[metric.name].add_metric(labels, value)
        yield from families.values()
