"""What the Amplify command line would refuse or warn of when it imports these pools and clients.

Source: `packages/amplify-category-auth/src/provider-utils/awscloudformation/import/index.ts` and
`packages/amplify-provider-awscloudformation/src/aws-utils/IdentityPoolService.ts` of
aws-amplify/amplify-cli. What `amplify import auth` refuses is an error. What it warns of, or what
`amplify pull` or `amplify env add` would refuse afterwards, is a warning.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from worker.domain.preflight import Finding, Place, Severity
from worker.operations.cognito import AppClient, Cognito, IdentityPool

USER_POOL: Final = "userPoolId"
WEB: Final = "webClientId"
NATIVE: Final = "nativeClientId"
IDENTITY_POOL: Final = "identityPoolId"

ROLES: Final = ("authenticated", "unauthenticated")
_PROVIDERS: Final = "SupportedIdentityProviders"


async def findings_about(
    cognito: Cognito, members: Mapping[str, str], place: Place
) -> AsyncIterator[Finding]:
    """Check the pools and clients that a request names, in the account and region of its import.

    Raises:
        UnavailableError: if Cognito does not say.

    """
    pool_id = members[USER_POOL]
    if not await cognito.has_user_pool(place, pool_id):
        yield _error(USER_POOL, _missing_pool(pool_id, place))
        return
    web = await cognito.app_client(place, pool_id, members[WEB])
    native = await cognito.app_client(place, pool_id, members[NATIVE])
    for finding in _about_clients(members, web, native):
        yield finding
    if identity_pool_id := members.get(IDENTITY_POOL):
        identity_pool = await cognito.identity_pool(place, identity_pool_id)
        for finding in _about_identity_pool(members, identity_pool, place):
            yield finding


def _missing_pool(pool_id: str, place: Place) -> str:
    named = pool_id.rpartition("_")[0]
    where = f"there is no user pool {pool_id} in {place}"
    if named == place.region:
        return f"{where}; check the id and the account"
    return f"{where}; its id names the region {named}, in which its app must be, too"


def _about_clients(
    members: Mapping[str, str], web: AppClient | None, native: AppClient | None
) -> Iterator[Finding]:
    for member, client in ((WEB, web), (NATIVE, native)):
        if client is None:
            reason = f"user pool {members[USER_POOL]} has no app client {members[member]}"
            yield _error(member, reason)
    if web and web.has_secret:
        reason = f"app client {members[WEB]} has a secret, which no web app can keep"
        yield _error(WEB, f"{reason}; name a client without one")
    if members[WEB] == members[NATIVE]:
        reason = f"app client {members[NATIVE]} is also the webClientId"
        yield _warning(NATIVE, f"{reason}; a client for each is better")
    elif web and native:
        yield from _about_oauth(members, web, native)


def _about_oauth(
    members: Mapping[str, str], web: AppClient, native: AppClient
) -> Iterator[Finding]:
    """Compare OAuth settings, which Amplify stores once for both clients.

    The command line compares them when it imports only if a client has identity providers.
    """
    names = [name for name, value in web.oauth.items() if value != native.oauth[name]]
    if not names:
        return
    reason = (
        f"app clients {members[WEB]} and {members[NATIVE]} differ in {', '.join(names)}; give both"
        " the same OAuth settings"
    )
    is_compared = web.oauth[_PROVIDERS] or native.oauth[_PROVIDERS]
    yield _error(NATIVE, reason) if is_compared else _warning(NATIVE, reason)


def _about_identity_pool(
    members: Mapping[str, str], pool: IdentityPool | None, place: Place
) -> Iterator[Finding]:
    pool_id, user_pool = members[IDENTITY_POOL], members[USER_POOL]
    if pool is None:
        yield _error(IDENTITY_POOL, f"there is no identity pool {pool_id} in {place}")
        return
    listed = {client for provider, client in pool.clients if provider.endswith(f"/{user_pool}")}
    needed = dict.fromkeys((members[WEB], members[NATIVE]))
    if lacking := [client for client in needed if client not in listed]:
        reason = (
            f"identity pool {pool_id} does not list {' and '.join(lacking)} of user pool"
            f" {user_pool} as identity providers; add what is missing"
        )
        yield _error(IDENTITY_POOL, reason)
    if missing := [role for role in ROLES if role not in pool.roles]:
        reason = f"identity pool {pool_id} has no {' and no '.join(missing)} role; set both roles"
        yield _error(IDENTITY_POOL, reason)


def _error(member: str, reason: str) -> Finding:
    return Finding(Severity.ERROR, member, reason)


def _warning(member: str, reason: str) -> Finding:
    return Finding(Severity.WARNING, member, reason)
