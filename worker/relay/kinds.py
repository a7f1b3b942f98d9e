"""Opens sinks. The code of a kind is imported only when a sink of that kind is served."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from config.settings import SettingsError
from worker.relay.delivery import Terms
from worker.relay.relay import Served
from worker.relay.sink import Sink
from worker.relay.sinksfile import AnySink

_CLASSES: Final = {
    "webhook": ("worker.relay.webhook", "Webhook"),
    "eventbridge": ("worker.relay.eventbridge", "EventBridge"),
    "sns": ("worker.relay.messages", "Sns"),
    "sqs": ("worker.relay.messages", "Sqs"),
    "nats": ("worker.relay.jetstream", "JetStream"),
}
"""The module and the class of each kind; the class takes the sink's settings."""


def served(name: str, settings: AnySink, most_parked: int) -> Served:
    """Return a sink to serve, as its settings have it.

    Raises:
        SettingsError: if a package that this kind needs is not installed.

    """
    terms = Terms(
        name=name,
        wanted=settings.wants,
        start="0" if settings.start == "oldest" else "$",
        concurrency=settings.concurrency,
        max_attempts=settings.max_attempts,
        most_parked=most_parked,
    )
    module, class_name = _CLASSES[settings.kind]
    if settings.kind == "nats" and find_spec("nats") is None:
        raise SettingsError(f"{name}: install the extra: pip install 'amplify-import-worker[nats]'")
    sink: Callable[[AnySink], Sink] = getattr(import_module(module), class_name)
    return Served(terms, partial(sink, settings))
