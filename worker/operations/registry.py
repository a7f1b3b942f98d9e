"""The operations that this release knows. List a new operation here (docs/extending.md)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from worker.domain.answers import Answer
from worker.domain.imports import Import
from worker.domain.preflight import Checked, Place
from worker.domain.requests import DEFAULT_OPERATION, ImportRequest, InvalidRequestError, shown
from worker.operations.backend_operation import KEPT_SECONDS, BackendOperation
from worker.operations.import_backend_auth import ImportBackendAuth
from worker.operations.import_backend_storage import ImportBackendStorage

if TYPE_CHECKING:
    from worker.operations.aws import Aws


class Registry:
    """`operations` by their names, the default first, and the names of their Celery `tasks`."""

    def __init__(self, *operations: type[BackendOperation]) -> None:
        self.operations = {operation.name(): operation for operation in operations}
        self.tasks: Mapping[str, str] = {name: op.task() for name, op in self.operations.items()}

    @property
    def members(self) -> tuple[str, ...]:
        """All members that requests may have, each once, with the API's names."""
        fields = (op.request.model_fields.items() for op in self.operations.values())
        named = (field.alias or name for each in fields for name, field in each)
        return tuple(dict.fromkeys(named))

    def required(self, *operations: str) -> tuple[str, ...]:
        """Return the members that requests of each of these operations, or of all, must have."""
        sets = [self._required(name) for name in operations or self.operations]
        return tuple(member for member in sets[0] if all(member in each for each in sets))

    def name_in(self, members: object) -> str:
        """Return the operation that a request names; the default operation if it names none."""
        given = members.get("operation") if isinstance(members, Mapping) else None
        return given if isinstance(given, str) and given in self.operations else DEFAULT_OPERATION

    def parse(self, members: object, operation: str = "") -> ImportRequest:
        """Validate a request. `operation` is the operation that the entry point implies, if any.

        Raises:
            InvalidRequestError: with every member that is wrong.

        """
        given = members.get("operation") if isinstance(members, Mapping) else None
        if given is not None and self.name_in(members) != given:
            reason = f"must be {' or '.join(self.operations)}, got {shown(given)}"
            raise InvalidRequestError((("operation", reason),))
        if operation and given not in (None, operation):
            reason = f"differs from that of the task, {operation}"
            raise InvalidRequestError((("operation", reason),))
        name = given or operation or DEFAULT_OPERATION
        try:
            return self.operations[name].request.parse(members)
        except InvalidRequestError as error:
            raise InvalidRequestError(self._explained(error, name)) from error

    def bind(self, aws: "Aws", kept_seconds: float = KEPT_SECONDS) -> "Remote":
        """Return the remote side of every operation.

        What preflight checks have read is kept for `kept_seconds`.
        """
        bound = {name: operation(aws, kept_seconds) for name, operation in self.operations.items()}
        return Remote(bound)

    def _required(self, name: str) -> tuple[str, ...]:
        fields = self.operations[name].request.model_fields.items()
        return tuple(field.alias or name for name, field in fields if field.is_required())

    def _explained(self, error: InvalidRequestError, name: str) -> tuple[tuple[str, str], ...]:
        """Say to which operation a member belongs that this operation's requests don't have."""
        owners = {
            member: other
            for other, operation in self.operations.items()
            for member in operation.members().values()
            if member not in self.operations[name].members().values()
        }
        return tuple(
            (member, f"is a member of {owners[member]}, and the operation is {name}")
            if member in owners
            else (member, reason)
            for member, reason in error.problems
        )


class Remote:
    """The remote side; the calls for each import are those of its operation."""

    def __init__(self, operations: Mapping[str, BackendOperation]) -> None:
        self._operations = operations

    async def preflight(self, operation: str, members: Mapping[str, str], place: Place) -> Checked:
        """Check what a request names. It only reads, and what AWS answers raises nothing."""
        return await self._operations[operation].preflight(members, place)

    async def submit(self, item: Import, send_by: float) -> Answer:
        """Start the job with one call, never sent after `send_by` (`time.monotonic`, seconds)."""
        return await self._operations[item.requested_operation].submit(item, send_by)

    async def status(self, item: Import) -> Answer:
        """Poll the import's job with one call."""
        return await self._operations[item.requested_operation].status(item)

    async def verify(self, item: Import) -> Answer:
        """Ask with one call what the target of an import that has succeeded has."""
        return await self._operations[item.requested_operation].verify(item)

    async def find(self, item: Import, another: Callable[[], Awaitable[None]]) -> Answer:
        """List all jobs of the target; `another` obtains a permit for each call but the first."""
        return await self._operations[item.requested_operation].find(item, another)


OPERATIONS: Final = Registry(ImportBackendAuth, ImportBackendStorage)
