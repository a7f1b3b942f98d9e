"""Which metrics and labels a PromQL query names. It knows no more of PromQL than that."""

import re
from collections.abc import Mapping
from typing import Final

from worker.metrics.catalogue import WORKER, Metric, Type
from worker.metrics.http_catalogue import HTTP
from worker.metrics.relay_catalogue import RELAY
from worker.metrics.store_catalogue import BATCHES, STORE

OF_PROMETHEUS: Final[Mapping[str, frozenset[str]]] = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity", "lane", "batch", "group", "sink"}),
}
"""Series that Prometheus adds itself, and their labels."""

OF_TARGETS: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds to each series that it scrapes."""

_FUNCTIONS: Final = frozenset(
    {
        *("absent", "avg_over_time", "changes", "delta", "deriv", "histogram_quantile", "increase"),
        *("max", "min_over_time", "rate", "sort_desc", "sum", "topk"),
    }
)
_WORDS: Final = frozenset({"and", "or", "unless", "Inf"})
_TOKEN: Final = re.compile(
    r"""(?P<skipped>\s+|\[[^\]]+\]|[0-9.]+|[-+*/<>=!]=?|[(),])
      | (?:by|on)\s*\((?P<labels>[^)]*)\)
      | (?P<function>[A-Za-z_]\w*)(?=\(|\s+by\b)
      | (?P<name>[A-Za-z_]\w*)(?:\{(?P<matchers>[^}]*)\})?""",
    re.VERBOSE,
)
_MATCHER: Final = re.compile(r'(\w+)(?:=~|!~|!=|=)"[^"]*"(?:,|$)')


def problems_of(query: str) -> list[str]:
    """Return what the query names that does not exist, and what can't be read."""
    problems: list[str] = []
    named: set[str] = set()
    known: set[str] = set(OF_TARGETS)
    position = 0
    while position < len(query):
        token = _TOKEN.match(query, position)
        if token is None:
            return [*problems, f"can't be read: {query[position:]}"]
        position = token.end()
        if token["labels"] is not None:
            named |= set(re.findall(r"\w+", token["labels"]))
        elif token["function"] and token["function"] not in _FUNCTIONS:
            problems.append(f"unknown function {token['function']}")
        elif token["name"] and token["name"] not in _WORDS:
            labels = SERIES.get(token["name"])
            problems += _problems_of_selector(token["name"], token["matchers"] or "", labels)
            known |= labels or set()
    return problems + [f"no metric has the label {label}" for label in sorted(named - known)]


def _problems_of_selector(name: str, matchers: str, labels: frozenset[str] | None) -> list[str]:
    if labels is None:
        return [f"unknown metric {name}"]
    if _MATCHER.sub("", matchers):
        return [f"can't be read: {{{matchers}}}"]
    matched = set(_MATCHER.findall(matchers))
    return [f"{name} has no label {label}" for label in sorted(matched - labels - OF_TARGETS)]


def _series() -> dict[str, frozenset[str]]:
    found = dict(OF_PROMETHEUS)
    for metric in (*WORKER, *RELAY, *HTTP, *STORE, *BATCHES):
        found |= dict.fromkeys(_names(metric), frozenset(metric.labels))
        if metric.type is Type.HISTOGRAM:
            found[f"{metric.name}_bucket"] = frozenset((*metric.labels, "le"))
    return found


def _names(metric: Metric) -> tuple[str, ...]:
    if metric.type is Type.HISTOGRAM:
        return (f"{metric.name}_sum", f"{metric.name}_count")
    return (metric.name,)


SERIES: Final[Mapping[str, frozenset[str]]] = _series()
"""Every series that a query may name → its own labels."""
