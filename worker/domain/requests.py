"""The import request: its members, what each may hold, and how a bad one is named.

All three doors, the command line and the batch files validate with this one model.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self
from uuid import NAMESPACE_URL, uuid5

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic.alias_generators import to_camel, to_snake

MAX_REQUEST_BYTES: Final = 16 * 1024
"""The longest request, as JSON. The longest legitimate one is about half of it."""

MAX_BATCH_REQUESTS: Final = 1000
"""The most requests that one `imports.import_batch` message may carry."""

SHOWN_CHARACTERS: Final = 64
"""How much of a bad value an error repeats."""

DEFAULT_ACCOUNT: Final = "default"

LONGEST_IDENTIFIER: Final = 128

IDENTIFIER_PATTERN: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$")
"""What import ids and batchIds look like; they become parts of keys and of event ids."""

REGION_PATTERN: Final = re.compile(r"^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$")


class Priority(StrEnum):
    """Which imports of a lane start first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


def _text(pattern: str, longest: int) -> StringConstraints:
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=pattern)


# Patterns as AWS publishes them: AppId in the Amplify API reference, UserPoolId, ClientId and
# IdentityPoolId in the Cognito API references. Environment names stay within a URL path segment.
AppId = Annotated[str, _text(r"^d[a-z0-9]+$", 20)]
EnvironmentName = Annotated[str, _text(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", 255)]
UserPoolId = Annotated[str, _text(r"^[A-Za-z0-9_-]+_[0-9a-zA-Z]+$", 55)]
ClientId = Annotated[str, _text(r"^[A-Za-z0-9_+]+$", 128)]
IdentityPoolId = Annotated[str, _text(r"^[A-Za-z0-9_-]+:[0-9a-f-]+$", 55)]
Account = Annotated[str, _text(r"^[A-Za-z0-9][A-Za-z0-9._@+=, -]*$", 64)]
Region = Annotated[str, _text(REGION_PATTERN.pattern, 32)]
Identifier = Annotated[str, _text(IDENTIFIER_PATTERN.pattern, 128)]
Key = Annotated[str, _text(r"^[^\x00-\x1f\x7f]+$", 256)]
MetadataKey = Annotated[str, _text(r"^[^\x00-\x1f\x7f]+$", 128)]
MetadataValue = Annotated[  # a note may have lines and tabs
    str,
    StringConstraints(strict=True, max_length=512, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"),
]
Seconds = Annotated[float, Field(strict=True, gt=0, le=30 * 86400, allow_inf_nan=False)]


LOOKS_LIKE: Final = {
    "appId": "d2e1f0g9h8i7j6",
    "backendEnvironmentName": "staging",
    "userPoolId": "us-east-1_AbCdEf123",
    "webClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
    "nativeClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
    "identityPoolId": "us-east-1:0a1b2c3d-0123-4567-89ab-0123456789ab",
    "account": "an AWS profile name",
    "region": "eu-central-1",
    "importId": "an id of letters, digits and ._:@+=-",
    "batchId": "an id of letters, digits and ._:@+=-",
    "idempotencyKey": "text without control characters",
    "metadata": "text without control characters",
}


class InvalidRequestError(ValueError):
    """A request that can't be imported.

    `problems` holds one `(member, reason)` for each thing that is wrong; the message joins them.
    """

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{member}: {reason}" for member, reason in problems))


class ImportRequest(BaseModel):
    """One import, as a producer asks for it. Members have the names of the remote API."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, validate_by_alias=True
    )

    app_id: AppId
    backend_environment_name: EnvironmentName
    user_pool_id: UserPoolId
    web_client_id: ClientId
    native_client_id: ClientId
    identity_pool_id: IdentityPoolId | None = None
    account: Account = DEFAULT_ACCOUNT
    region: Region | None = None
    idempotency_key: Key | None = None
    batch_id: Identifier | None = None
    # Anything but text is named by its type: an enum would repeat it in full.
    priority: Annotated[
        Priority, BeforeValidator(lambda value: value if isinstance(value, str) else type(value))
    ] = Priority.NORMAL
    deadline_seconds: Seconds | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict
    )

    @classmethod
    def parse(cls, members: object) -> Self:
        """Validate a JSON object with camelCase or snake_case member names.

        Raises:
            InvalidRequestError: naming every member that is wrong.

        """
        if not isinstance(members, Mapping):
            raise InvalidRequestError((("request", f"must be an object, got {_shown(members)}"),))
        renamed, problems = _in_camel_case(members)
        try:
            request = cls.model_validate(renamed)
        except ValidationError as error:
            raise InvalidRequestError((*problems, *_problems(error))) from error
        if problems:
            raise InvalidRequestError(problems)
        if len(request.to_json().encode()) > MAX_REQUEST_BYTES:
            raise InvalidRequestError((("request", f"is longer than {MAX_REQUEST_BYTES} bytes"),))
        return request

    def to_json(self) -> str:
        """Return the request as one JSON object in the API's member names, without absent ones."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @property
    def fingerprint(self) -> str:
        """A digest of the request: the same body has the same one, whatever batch counts it."""
        members = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"batch_id"}
        )
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:32]


def derive_import_id(batch_id: str, position: int | str) -> str:
    """Return the import id of the request at `position` (from 0) of the whole batch."""
    return str(uuid5(NAMESPACE_URL, f"amplify-import:{batch_id}:{position}"))


def problem_of_import_id(value: object) -> str:
    """Return what is wrong with an importId that was given, and what was; '' for a good one."""
    if isinstance(value, str) and IDENTIFIER_PATTERN.fullmatch(value):
        return ""
    if isinstance(value, str) and len(value) > LONGEST_IDENTIFIER:
        return f"is longer than {LONGEST_IDENTIFIER} characters, got {_shown(value)}"
    return f"must look like {LOOKS_LIKE['importId']}, got {_shown(value)}"


Problems = tuple[tuple[str, str], ...]


def _in_camel_case(members: Mapping[Any, Any]) -> tuple[dict[str, Any], Problems]:
    """Return the members in the API's spelling, and those that were given in two."""
    renamed: dict[str, Any] = {}
    problems = []
    for name, value in members.items():
        # A lone surrogate is legal JSON and no text that can be shown or stored.
        text = str(name).encode(errors="backslashreplace").decode()
        member = to_camel(text) if text.isidentifier() and to_snake(text) == text else text
        if member in renamed:
            problems.append((_name(member), "is given twice, in two spellings"))
        renamed[member] = value
    return renamed, tuple(problems)


def _problems(error: ValidationError) -> Problems:
    return tuple(
        (_member(detail["loc"]), _reason(detail)) for detail in error.errors(include_url=False)[:20]
    )


def _member(location: tuple[int | str, ...]) -> str:
    return _name(".".join(str(part) for part in location if part != "[key]"))


def _name(member: str) -> str:
    """Return a member's name as an error may repeat it."""
    plain = member.isascii() and member.replace(".", "").isalnum()
    return member if plain and len(member) <= SHOWN_CHARACTERS else _shown(member)


def _reason(detail: Any) -> str:
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a member of an import request"
        case "string_pattern_mismatch":
            example = LOOKS_LIKE.get(str(detail["loc"][0]), "")
            return f"must look like {example}, got {_shown(detail['input'])}"
        case "string_too_short":
            return "is empty"
        case "string_too_long":
            return f"is longer than {detail['ctx']['max_length']} characters"
        case "too_long":
            return f"has more than {detail['ctx']['max_length']} entries"
        case _:
            message = detail["msg"].removeprefix("Input should be ")
            return f"must be {message}, got {_shown(detail['input'])}"


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return "a value nested without end"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
