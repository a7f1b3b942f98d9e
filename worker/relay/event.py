"""An event on its way to a sink."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

_NEEDED: Final = ("specversion", "id", "source", "type", "subject", "time")


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent. `text` is its JSON as the worker wrote it."""

    text: str
    attributes: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the event in the text of an entry.

        Raises:
            ValueError: if it is no CloudEvent. The message says why.

        """
        attributes = json.loads(text)
        if not isinstance(attributes, dict):
            raise ValueError("not an object")  # noqa: TRY004 - as for every other invalid text
        missing = [name for name in _NEEDED if not isinstance(attributes.get(name), str)]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return cls(text, attributes)

    @property
    def id(self) -> str:
        """The deterministic id. An event that is sent twice has the same id both times."""
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        """The deployment, as IMPORTS_EVENT_SOURCE names it."""
        return str(self.attributes["source"])

    @property
    def type(self) -> str:
        """The type, such as `import.succeeded`."""
        return str(self.attributes["type"])

    @property
    def subject(self) -> str:
        """What the event is about. Events of one subject are sent in their order."""
        return str(self.attributes["subject"])

    @property
    def time(self) -> str:
        """When it happened, in ISO 8601."""
        return str(self.attributes["time"])

    @property
    def data(self) -> Mapping[str, Any]:
        """The members of the import, batch or lane; empty if there are none."""
        data = self.attributes.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def data_text(self) -> str:
        """The data alone, as JSON."""
        return json.dumps(self.attributes.get("data"), ensure_ascii=False)

    @property
    def batch_id(self) -> str:
        """The batch to which the event belongs; '' if to none."""
        return str(self.data.get("batchId") or "")
