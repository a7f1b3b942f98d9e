"""Whether events are what the published schema and CloudEvents 1.0 say."""

import json
from typing import Any, Final

from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator, FormatChecker

from tests.support.workers import PROJECT

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
