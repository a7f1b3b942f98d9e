"""Lists the app environments of accounts as rows of a batch file, and fills in their pools."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import BotoCoreError

from worker.cli.plan.pools import APP_NAME, POOLS, PoolMap
from worker.cli.report.results import safe_cell
from worker.domain.requests import DEFAULT_OPERATION, InvalidRequestError
from worker.operations.inventory import Auth, Environment, Inventory, InventoryError
from worker.operations.registry import OPERATIONS

COLUMNS: Final = ("appId", "backendEnvironmentName", *POOLS, "account", "region", APP_NAME)
LEFT_OUT: Final = frozenset({Auth.IMPORTED, Auth.MANAGED})
REQUIRED: Final = OPERATIONS.required(DEFAULT_OPERATION)

Place = tuple[str, str]
"""An account and a region."""


@dataclass(slots=True)
class Listing:
    """The rows of the file, and what was found on the way.

    `by_auth` counts all environments. `problems` has a text for each call that failed.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    apps: int = 0
    by_auth: Counter[Auth] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def environments(self) -> int:
        """The number of all environments."""
        return self.by_auth.total()

    @property
    def left_out(self) -> int:
        """The number of environments that are no rows."""
        return self.environments - len(self.rows)

    @property
    def incomplete(self) -> int:
        """The number of rows that lack a member that a request must have."""
        return sum(not _is_complete(row) for row in self.rows)

    def fill_in(self, pools: PoolMap) -> None:
        """Fill in the pools."""
        for row in self.rows:
            row.update(pools.pools_of(row))

    def invalid(self) -> Iterator[str]:
        """Yield what is wrong with each complete row: a value of its pools."""
        for row in filter(_is_complete, self.rows):
            members = {name: row[name] for name in COLUMNS if row[name] and name != APP_NAME}
            try:
                OPERATIONS.parse(members)
            except InvalidRequestError as error:
                target = f"{row['appId']}/{row['backendEnvironmentName']}"
                yield from (f"{target}: {member}: {reason}" for member, reason in error.problems)

    def as_csv(self) -> str:
        """Return the file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([safe_cell(row[name]) for name in COLUMNS] for row in self.rows)
        return text.getvalue()


async def list_environments(
    places: Iterable[Place], advance: Callable[[Place], Any], *, everything: bool
) -> Listing:
    """List the environments of each place, without those that have authentication already.

    With `everything`, list these, too. Calls `advance` for each app.
    """
    listing = Listing()
    for place in places:
        try:
            async with Inventory(*place) as inventory:
                async for found in inventory.apps():
                    listing.apps += 1
                    _note(listing, place, found.problems)
                    _add(listing, place, found.environments, everything=everything)
                    advance(place)
        except (InventoryError, BotoCoreError) as error:
            _note(listing, place, [str(error)])
    return listing


def _note(listing: Listing, place: Place, problems: Iterable[str]) -> None:
    listing.problems += [f"{'/'.join(place)}: {problem}" for problem in problems]


def _add(
    listing: Listing, place: Place, environments: Sequence[Environment], *, everything: bool
) -> None:
    account, region = place
    for environment in environments:
        listing.by_auth[environment.auth] += 1
        if everything or environment.auth not in LEFT_OUT:
            given = {
                "appId": environment.app_id,
                "backendEnvironmentName": environment.name,
                "account": account,
                "region": region,
                APP_NAME: environment.app_name,
            }
            listing.rows.append({**dict.fromkeys(COLUMNS, ""), **given})


def _is_complete(row: Mapping[str, str]) -> bool:
    return all(row[member] for member in REQUIRED)
