"""A scraper and a prober of a worker's port."""

import http.client
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPEN_METRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a path answered; status 0 if nothing answered."""

    status: int
    text: str = ""
    content_type: str = ""


class Samples:
    """The samples of one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name that have these labels; 0 for none."""
        return sum(
            s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items()
        )

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of each sample with this name."""
        return [sample.labels for sample in self._samples if sample.name == name]


class Scraper:
    """Sends requests to a port of this machine."""

    def __init__(self, port: str) -> None:
        self.port = port

    def get(self, path: str, accept: str = "", method: str = "GET") -> Reply:
        """Request a path."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.port), timeout=15)
        with suppress(OSError):
            connection.request(method, path, headers={"Accept": accept})
            reply = connection.getresponse()
            content_type = reply.headers["Content-Type"]
            return Reply(reply.status, reply.read().decode(), content_type)
        return Reply(0)

    def probe(self, path: str) -> int:
        """Return the status of a path; 0 if nothing answers."""
        return self.get(path).status

    def samples(self, accept: str = "") -> Samples:
        """Scrape all metrics."""
        reply = self.get("/metrics", accept)
        assert reply.status == 200, reply
        parse = parse_open_metrics if accept == OPEN_METRICS else parse_text
        return Samples(parse(reply.text))
