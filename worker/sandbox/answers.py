"""The bodies of answers with status 200, with the member names of the published model."""

from typing import Any

from worker.sandbox.api import Operation
from worker.sandbox.clock import Instant
from worker.sandbox.jobs import Job, JobStatus
from worker.sandbox.undocumented import Undocumented

Body = dict[str, Any]


def import_answer(job: Job, now: Instant, facts: Undocumented) -> Body:
    """Return a job as ImportBackendAuth shows it (BackendAuthRespObj)."""
    body = {
        "appId": job.target.app_id,
        "backendEnvironmentName": job.target.environment,
        "jobId": job.job_id,
        "operation": _named(job, facts.operation),
        "status": status_word(job, now, facts),
    }
    error = job.error(now)
    return body | {"error": error} if error else body


def storage_import_answer(job: Job, now: Instant, facts: Undocumented) -> Body:
    """Return a job as ImportBackendStorage shows it: fewer members, and no operation name."""
    shown = import_answer(job, now, facts)
    return {name: shown[name] for name in ("appId", "backendEnvironmentName", "jobId", "status")}


def job_answer(job: Job, now: Instant, facts: Undocumented) -> Body:
    """Return a job as GetBackendJob shows it (BackendJobRespObj)."""
    finished = job.finished(now)
    times = {
        "createTime": facts.time(job.created.wall),
        "updateTime": facts.time(job.created.wall if finished is None else finished),
    }
    given = {name: value for name, value in times.items() if value is not None}
    return import_answer(job, now, facts) | given


def listed_answer(job: Job, now: Instant, facts: Undocumented) -> Body:
    """Return a job as ListBackendJobs shows it (BackendJobRespObj)."""
    return job_answer(job, now, facts) | {"operation": listed_operation(job, facts)}


def listed_operation(job: Job, facts: Undocumented) -> str | None:
    """Return the name that lists give to the job's operation."""
    return _named(job, facts.list_operation)


def _named(job: Job, name: str | None) -> str | None:
    """Return the operation name of a job, given that a job of ImportBackendAuth has `name`."""
    if job.other_operation or name is None:
        return job.other_operation or name
    if job.operation is Operation.IMPORT_BACKEND_STORAGE:
        return name.replace("Auth", "Storage").replace("AUTH", "STORAGE")
    return name


def status_word(job: Job, now: Instant, facts: Undocumented) -> str | None:
    """Return the job's status, in the word that this simulated API has for it."""
    match job.status(now):
        case JobStatus.COMPLETED:
            return facts.completed
        case JobStatus.FAILED:
            return facts.failed
    return facts.under_way


def auth_answer(imported: Job, latest: Job, resource_name: str, now: Instant) -> Body:
    """Return the answer of GetBackendAuth: the last successful import, and a later job's error."""
    body: Body = {
        "appId": imported.target.app_id,
        "backendEnvironmentName": imported.target.environment,
        "resourceName": resource_name,
        "resourceConfig": _resource_config(imported.request),
    }
    error = latest.error(now)
    return body | {"error": error} if error else body


def storage_answer(imported: Job, resource_name: str) -> Body:
    """Return the answer of GetBackendStorage: the last successful import."""
    return {
        "appId": imported.target.app_id,
        "backendEnvironmentName": imported.target.environment,
        "resourceName": resource_name,
        "resourceConfig": {
            "bucketName": imported.request.get("bucketName"),
            "imported": True,
            "permissions": {
                "authenticated": ["READ", "CREATE_AND_UPDATE", "DELETE"],
                "unAuthenticated": ["READ"],
            },
            "serviceName": imported.request["serviceName"],
        },
    }


def _resource_config(request: dict[str, str]) -> Body:
    config: Body = {
        "authResources": "USER_POOL_ONLY",
        "service": "COGNITO",
        "userPoolConfigs": _user_pool(request),
    }
    identity_pool_id = request.get("identityPoolId")
    if identity_pool_id is not None:
        config["authResources"] = "IDENTITY_POOL_AND_USER_POOL"
        config["identityPoolConfigs"] = {
            "identityPoolName": identity_pool_id,
            "unauthenticatedLogin": False,
        }
    return config


def _user_pool(request: dict[str, str]) -> Body:
    email = {"emailMessage": "Your code is {####}", "emailSubject": "Your verification code"}
    sms = {"smsMessage": "Your code is {####}"}
    delivery = {"deliveryMethod": "EMAIL", "emailSettings": email, "smsSettings": sms}
    return {
        "userPoolName": request["userPoolId"],
        "signInMethod": "EMAIL",
        "requiredSignUpAttributes": ["EMAIL"],
        "forgotPassword": delivery,
        "verificationMessage": delivery,
        "mfa": {
            "MFAMode": "OPTIONAL",
            "settings": {"mfaTypes": ["SMS", "TOTP"], "smsMessage": sms["smsMessage"]},
        },
        "passwordPolicy": {
            "minimumLength": 8.0,
            "additionalConstraints": ["REQUIRE_DIGIT", "REQUIRE_LOWERCASE"],
        },
        "oAuth": {
            "domainPrefix": "sandbox",
            "oAuthGrantType": "CODE",
            "oAuthScopes": ["EMAIL", "OPENID", "PROFILE"],
            "redirectSignInURIs": ["https://app.example.com/"],
            "redirectSignOutURIs": ["https://app.example.com/signed-out/"],
            "socialProviderSettings": _social_providers(request["webClientId"]),
        },
    }


def _social_providers(web_client_id: str) -> Body:
    provider = {"client_id": web_client_id, "client_secret": "not-a-secret"}
    apple = {
        "client_id": web_client_id,
        "key_id": "SANDBOXKEY",
        "private_key": "not-a-private-key",
        "team_id": "SANDBOXTEAM",
    }
    return {
        "Facebook": provider,
        "Google": provider,
        "LoginWithAmazon": provider,
        "SignInWithApple": apple,
    }
