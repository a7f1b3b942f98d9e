"""Flower's configuration: one row for each import, with its target, state, outcome, lane and batch.

Flower executes this file; `worker.celery` passes the path to it. An operator can replace it with
another file, in FLOWER_CONF or with `--conf`. Without a way to log in, Flower listens on the
loopback interface only.
"""

import re
from ipaddress import ip_address
from logging import getLogger
from typing import Any

from celery import states
from tornado.options import options

LOOPBACK = "127.0.0.1"

_OPEN = (
    "Flower has no login: set FLOWER_BASIC_AUTH=user:password, or FLOWER_AUTH and"
    " FLOWER_AUTH_PROVIDER for OAuth"
)


def safe_address(address: str, *, has_login: bool) -> str:
    """Return the address to listen on; '' for all interfaces.

    Raises:
        SystemExit: if other machines could reach a Flower without a login at that address.

    """
    if has_login:
        return address
    if address and not _is_loopback(address):
        raise SystemExit(f"{_OPEN}. Without one, it does not listen on {address}.")
    getLogger("flower").warning("%s. Until then, it listens on %s only.", _OPEN, LOOPBACK)
    return address or LOOPBACK


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


# Flower has read its environment and its command line before. Each global variable here with the
# name of an option sets it.
if not options.unix_socket:
    address = safe_address(options.address, has_login=bool(options.basic_auth or options.auth))

tasks_columns = "uuid,args,state,result,kwargs,received,started,runtime,worker"
natural_time = False

# Celery ranks unknown states above REVOKED. Without this, Flower would show a revoked task as
# RUNNING.
states.PRECEDENCE_LOOKUP[states.REVOKED] = states.precedence(states.FAILURE)

_MEMBER = re.compile(r"'(appId|app_id|backendEnvironmentName|backend_environment_name)': '([^']*)'")
_BATCH = re.compile(r"'batchId': '([^']*)'")
_LANE = re.compile(r"'lane': '([^']*)'")
_TARGET = re.compile(r"'target': '([^']*)'")
_OUTCOME = re.compile(r"'jobId': (?:'([^']*)'|None).*'outcome': '([a-z_]+)'")


def format_task(task: Any) -> Any:
    """Return the task with its target, lane and batch as arguments, and a short outcome."""
    arguments = task.kwargs or ""
    task.args = target_of(arguments) or task.args
    task.kwargs = lane_of(arguments) or task.kwargs
    task.result = task.exception or outcome_of(task.result or "")
    return task


def target_of(kwargs: str) -> str:
    """Return `appId/environment`, or `batch …` for a batch message, from a task's arguments.

    Returns '' if the arguments name neither.
    """
    if target := _TARGET.search(kwargs):
        return target[1]
    if (batch := _BATCH.search(kwargs)) and "'requests': [" in kwargs:
        return f"batch {batch[1]}"
    members = dict(_MEMBER.findall(kwargs))
    app = members.get("appId") or members.get("app_id")
    environment = members.get("backendEnvironmentName") or members.get("backend_environment_name")
    return f"{app}/{environment}" if app and environment else ""


def lane_of(kwargs: str) -> str:
    """Return `account/region, batch …` from the arguments of an import; '' if there is no lane."""
    if not (lane := _LANE.search(kwargs)):
        return ""
    batch = _BATCH.search(kwargs)
    return f"{lane[1]}, batch {batch[1]}" if batch else lane[1]


def outcome_of(result: str) -> str:
    """Return `outcome, job …` for an import's result. Other results are returned unchanged."""
    found = _OUTCOME.search(result)
    return f"{found[2]}, job {found[1]}" if found else result
