"""Whether events are what the published schema and CloudEvents 1.0 say."""

import json
import sys
from typing import Any, Final

from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat

from tests.support.workers import PROJECT

# Without the optional package for IRIs, a format that our schemas do not use: as it is imported, it
# builds grammars for two seconds.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

from jsonschema import Draft202012Validator, FormatChecker  # noqa: E402 - see above

__all__ = ["SCHEMAS", "Draft202012Validator", "problems_of_event"]

SCHEMAS: Final = PROJECT / "docs" / "reference" / "schemas"
_EVENT: Final = Draft202012Validator(
    json.loads((SCHEMAS / "event.json").read_text()), format_checker=FormatChecker()
)


def problems_of_event(event: Any) -> list[str]:
    """Return what is wrong with an event."""
    found = [f"{event.get('id')}: {error.message}" for error in _EVENT.iter_errors(event)]
    try:
        JSONFormat().read(None, json.dumps(event))
    except CloudEventValidationError as error:
        found.append(f"{event.get('id')}: {error}")
    return found
