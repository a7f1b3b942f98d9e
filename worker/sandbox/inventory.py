"""The calls that list apps and their environments: two of Amplify, and GetBackend.

Their signatures and credentials are checked. They have no quota and no faults, and are not in the
ledger.
"""

import json
from collections.abc import Callable, Sequence

from aiohttp import web

from worker.sandbox import wire
from worker.sandbox.answers import Body
from worker.sandbox.api import ApiError, Operation, Target, bad_request, not_found
from worker.sandbox.bodies import read_object
from worker.sandbox.signature import SERVICE, check_time, parse_authorization
from worker.sandbox.simulation import Simulation

AMPLIFY = "amplify"
_RESOURCES = {
    Operation.IMPORT_BACKEND_AUTH: (
        "auth",
        "Cognito",
        {
            "UserPoolId": "userPoolId",
            "AppClientIDWeb": "webClientId",
            "AppClientID": "nativeClientId",
            "IdentityPoolId": "identityPoolId",
        },
    ),
    Operation.IMPORT_BACKEND_STORAGE: ("storage", "S3", {"BucketName": "bucketName"}),
}
"""The category, the service and the outputs of what each operation imports."""
MOST_PER_PAGE = 100


class Inventory:
    """Lists the scenario's `apps`, which all its accounts and regions have."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._apps = simulation.scenario.apps or {}

    def list_apps(self, request: web.Request) -> web.Response:
        """Answer ListApps."""

        def execute(_: Target) -> Body:
            apps, more = _page(list(self._apps), request)
            shown = [{"appId": app, "name": f"app-{app}", "platform": "WEB"} for app in apps]
            return {"apps": shown, **more}

        return self._answer(request, AMPLIFY, "ListApps", execute)

    def list_environments(self, request: web.Request) -> web.Response:
        """Answer ListBackendEnvironments."""

        def execute(target: Target) -> Body:
            names, more = _page(self._environments_of(target.app_id), request)
            return {"backendEnvironments": [{"environmentName": name} for name in names], **more}

        return self._answer(request, AMPLIFY, "ListBackendEnvironments", execute)

    def get_backend(self, request: web.Request, raw_body: bytes) -> web.Response:
        """Answer GetBackend. Of the environment's configuration, it shows what was imported."""

        def execute(target: Target) -> Body:
            environment = str(read_object(raw_body).get("backendEnvironmentName", ""))
            asked = Target(target.account, target.region, target.app_id, environment)
            known = self._environments_of(target.app_id, asked)
            if environment not in known:
                raise not_found("Environment", environment)
            return {
                "appId": target.app_id,
                "appName": f"app-{target.app_id}",
                "backendEnvironmentName": environment,
                "backendEnvironmentList": known,
                "amplifyMetaConfig": json.dumps(self._configuration(asked)),
            }

        return self._answer(request, SERVICE, "GetBackend", execute)

    def _environments_of(self, app_id: str, asked: Target | None = None) -> Sequence[str]:
        if app_id in self._apps:
            return self._apps[app_id]
        if asked and self._simulation.has_jobs(asked):
            return [asked.environment]
        raise not_found("App", app_id)

    def _configuration(self, target: Target) -> Body:
        script = self._simulation.targets.script_of(target)
        shown = script.settings.shown if script else None
        configuration: Body = {}
        for operation, (category, service, members) in _RESOURCES.items():
            job = self._simulation.imported(target, operation)
            if job is None or shown == {}:
                continue
            output = {name: job.request[key] for name, key in members.items() if key in job.request}
            resource: Body = {"service": service, "serviceType": "imported"}
            resource["output"] = {**output, **(shown or {})}
            configuration[category] = {f"app{target.app_id}": resource}
        return configuration

    def _answer(
        self, request: web.Request, service: str, operation: str, execute: Callable[[Target], Body]
    ) -> web.Response:
        accounts, clock = self._simulation.accounts, self._simulation.clock
        try:
            scope = parse_authorization(request.headers.get("Authorization"), service)
            check_time(request.headers.get("X-Amz-Date"), clock.now().wall)
            account = accounts.name_of(scope.access_key_id)
            accounts.check_credentials(account, f"{service}:{operation}")
            target = Target(account, scope.region, request.match_info.get("app", ""), "")
            reply = wire.success(execute(target))
        except ApiError as error:
            reply = wire.failure(error, self._simulation.scenario)
        return reply.to_response("inventory")


def _page(names: Sequence[str], request: web.Request) -> tuple[Sequence[str], Body]:
    """Return a page of a list, and the member that names the next page, if there is one."""
    try:
        start = int(request.query.get("nextToken", "0"))
        size = min(int(request.query.get("maxResults", MOST_PER_PAGE)), MOST_PER_PAGE)
    except ValueError:
        raise bad_request("nextToken or maxResults is not valid.") from None
    end = start + size
    return names[start:end], {"nextToken": str(end)} if end < len(names) else {}
