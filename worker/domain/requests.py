"""The import request: the members that every operation has, and how errors in them are reported.

Each operation adds the members that say what it imports (`worker.operations`). All entry points,
the command line and the batch files validate with the same models.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Self
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
"""The longest request, as JSON. The longest valid one is about half of it."""

SHOWN_CHARACTERS: Final = 64
"""How many characters of a bad value an error repeats."""

DEFAULT_ACCOUNT: Final = "default"

DEFAULT_OPERATION: Final = "ImportBackendAuth"
"""The operation of a request or record that names none, as in the first release."""

LONGEST_IDENTIFIER: Final = 128

IDENTIFIER_PATTERN: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$")
"""What import ids and batchIds look like. They become parts of keys and of event ids."""

ACCOUNT_PATTERN: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@+=, -]*$")
"""What the AWS profiles look like that requests can name."""

REGION_PATTERN: Final = re.compile(r"^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$")


class Priority(StrEnum):
    """Which imports of a lane start first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


def text_like(pattern: str, longest: int) -> StringConstraints:
    """Constrain a member to text of at most `longest` characters that matches a pattern."""
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=pattern)


# AppId as in the Amplify API reference. Environment names must fit into a URL path segment.
AppId = Annotated[str, text_like(r"^d[a-z0-9]+$", 20)]
EnvironmentName = Annotated[str, text_like(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", 255)]
Account = Annotated[str, text_like(ACCOUNT_PATTERN.pattern, 64)]
Region = Annotated[str, text_like(REGION_PATTERN.pattern, 32)]
Identifier = Annotated[str, text_like(IDENTIFIER_PATTERN.pattern, 128)]
Key = Annotated[str, text_like(r"^[^\x00-\x1f\x7f]+$", 256)]
MetadataKey = Annotated[str, text_like(r"^[^\x00-\x1f\x7f]+$", 128)]
MetadataValue = Annotated[  # values may contain line breaks and tabs
    str,
    StringConstraints(strict=True, max_length=512, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"),
]
Seconds = Annotated[float, Field(strict=True, gt=0, le=30 * 86400, allow_inf_nan=False)]


LOOKS_LIKE: Final = {
    "appId": "d2e1f0g9h8i7j6",
    "backendEnvironmentName": "staging",
    "account": "an AWS profile name",
    "region": "eu-central-1",
    "importId": "an id of letters, digits and ._:@+=-",
    "batchId": "an id of letters, digits and ._:@+=-",
    "idempotencyKey": "text without control characters",
    "metadata": "text without control characters",
}
"""Examples of the members that have a pattern, for error messages."""


class InvalidRequestError(ValueError):
    """A request that can't be imported.

    `problems` contains one `(member, reason)` for each error; the message joins them.
    """

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{member}: {reason}" for member, reason in problems))


class ImportRequest(BaseModel):
    """One import, as a producer asks for it. Members have the names of the remote API.

    A subclass for an operation sets the default of `operation` to its name, and adds the members
    that it imports, with an example for each that has a pattern.
    """

    looks_like: ClassVar[Mapping[str, str]] = LOOKS_LIKE

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    operation: str
    """`ImportBackendAuth` (default) or `ImportBackendStorage`. A Celery task's name implies it."""
    app_id: AppId
    """The id of the Amplify app: `d`, then lower-case letters and digits; up to 20 characters."""
    backend_environment_name: EnvironmentName
    """The name of the app's backend environment: letters, digits and `._-`, up to 255
    characters."""
    account: Account = DEFAULT_ACCOUNT
    """The name of an AWS profile that the workers have and `IMPORTS_ACCOUNTS` allows. Default:
    `default`, the workers' own credentials."""
    region: Region | None = None
    """The AWS region. Default: the first that is set of the workers' `AWS_REGION`, their
    `AWS_DEFAULT_REGION`, and the profile's region."""
    idempotency_key: Key | None = None
    """Up to 256 characters. Requests with the same key and otherwise the same members, apart from
    `batchId`, are one import. A request with the same key and other members is rejected. A key is
    forgotten `IMPORTS_RETENTION_SECONDS` after its import's end."""
    batch_id: Identifier | None = None
    """The batch that counts this import, for its progress and for `batch.completed`: up to 128
    letters, digits and `._:@+=-`, beginning with a letter or digit."""
    # Errors name any other value than text by its type; the enum's own error would repeat it in
    # full.
    priority: Annotated[
        Priority, BeforeValidator(lambda value: value if isinstance(value, str) else type(value))
    ] = Priority.NORMAL
    """`high`, `normal` (default) or `low`. While all three wait in a lane (an account and region),
    they share its starts 100 to 10 to 1."""
    deadline_seconds: Seconds | None = None
    """The longest time from the first start until the import ends as `timed_out`, up to 30 days.
    Default: `IMPORTS_DEADLINE_SECONDS`."""
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """Up to 16 texts by name (names up to 128 characters, texts up to 512). Every event of the
    import carries them."""

    @classmethod
    def parse(cls, members: object) -> Self:
        """Validate a JSON object with member names in camelCase or snake_case.

        Raises:
            InvalidRequestError: with every member that is wrong.

        """
        if not isinstance(members, Mapping):
            raise InvalidRequestError((("request", f"must be an object, got {shown(members)}"),))
        renamed, problems = _in_camel_case(members)
        try:
            request = cls.model_validate(renamed)
        except ValidationError as error:
            wrong = problems_of(error, "an import request", cls.looks_like)
            raise InvalidRequestError((*problems, *wrong)) from error
        if problems:
            raise InvalidRequestError(problems)
        if len(request.to_json().encode()) > MAX_REQUEST_BYTES:
            raise InvalidRequestError((("request", f"is longer than {MAX_REQUEST_BYTES} bytes"),))
        return request

    def to_json(self) -> str:
        """Return the request as JSON with the API's member names, without absent members."""
        return self.model_dump_json(by_alias=True, exclude_none=True, exclude=self._omitted)

    @property
    def _omitted(self) -> set[str]:
        """The members that the JSON leaves out because they have their default."""
        return {"operation"} if self.operation == DEFAULT_OPERATION else set()

    @property
    def fingerprint(self) -> str:
        """A digest of the request. Equal requests have the same one, also in different batches."""
        members = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"batch_id", *self._omitted}
        )
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:32]


def derive_import_id(batch_id: str, position: int | str) -> str:
    """Return the import id of the request at `position` (from 0) of the whole batch."""
    return str(uuid5(NAMESPACE_URL, f"amplify-import:{batch_id}:{position}"))


def problem_of_import_id(value: object) -> str:
    """Return what is wrong with a given importId, and its value; '' for a valid one."""
    if isinstance(value, str) and IDENTIFIER_PATTERN.fullmatch(value):
        return ""
    if isinstance(value, str) and len(value) > LONGEST_IDENTIFIER:
        return f"is longer than {LONGEST_IDENTIFIER} characters, got {shown(value)}"
    return f"must look like {LOOKS_LIKE['importId']}, got {shown(value)}"


Problems = tuple[tuple[str, str], ...]


def _in_camel_case(members: Mapping[Any, Any]) -> tuple[dict[str, Any], Problems]:
    """Return the members in the API's spelling, and those that were given in two spellings."""
    renamed: dict[str, Any] = {}
    problems = []
    for name, value in members.items():
        member = _camel_case(str(name))
        if member in renamed:
            problems.append((_name(member), "is given twice, in two spellings"))
        renamed[member] = value
    return renamed, tuple(problems)


@lru_cache(maxsize=256)
def _camel_case(name: str) -> str:
    # A lone surrogate is valid in JSON, but can't be printed or stored.
    text = name.encode(errors="backslashreplace").decode()
    return to_camel(text) if text.isidentifier() and to_snake(text) == text else text


def problems_of(
    error: ValidationError, what: str, looks_like: Mapping[str, str] = LOOKS_LIKE
) -> Problems:
    """Return the wrong members of `what`, such as "a batch", each with the reason."""
    details = error.errors(include_url=False)[:20]
    return tuple((_member(detail["loc"]), _reason(detail, what, looks_like)) for detail in details)


def _member(location: tuple[int | str, ...]) -> str:
    return _name(".".join(str(part) for part in location if part != "[key]"))


def _name(member: str) -> str:
    """Return a member's name in a form that an error may repeat."""
    plain = member.isascii() and member.replace(".", "").isalnum()
    return member if plain and len(member) <= SHOWN_CHARACTERS else shown(member)


def _reason(detail: Any, what: str, looks_like: Mapping[str, str]) -> str:
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"is not a member of {what}"
        case "string_pattern_mismatch":
            example = looks_like.get(str(detail["loc"][0]), "")
            return f"must look like {example}, got {shown(detail['input'])}"
        case "string_too_short":
            return "is empty"
        case "string_too_long":
            return f"is longer than {detail['ctx']['max_length']} characters"
        case "too_short":
            return f"has fewer than {detail['ctx']['min_length']} entries"
        case "too_long":
            return f"has more than {detail['ctx']['max_length']} entries"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            message = detail["msg"].removeprefix("Input should be ")
            return f"must be {message}, got {shown(detail['input'])}"


def shown(value: object) -> str:
    """Return a value in a form that an error may repeat."""
    try:
        text = ascii(value)
    except RecursionError:
        return "a value nested without end"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
