"""Flower's configuration: one row an import, with its target, its state and its outcome.

Flower executes this file; `worker.celery` tells it where it is. An operator's own file, named in
FLOWER_CONF or with `--conf`, takes its place.
"""

import re
from typing import Any

from celery import states

tasks_columns = "uuid,args,state,result,received,runtime,worker"
natural_time = False

# Celery takes states of others for later than REVOKED: what was revoked would stay RUNNING here.
states.PRECEDENCE_LOOKUP[states.REVOKED] = states.precedence(states.FAILURE)

_MEMBER = re.compile(r"'(appId|app_id|backendEnvironmentName|backend_environment_name)': '([^']*)'")
_BATCH = re.compile(r"'batchId': '([^']*)'")
_TARGET = re.compile(r"'target': '([^']*)'")
_OUTCOME = re.compile(r"'jobId': (?:'([^']*)'|None).*'outcome': '([a-z_]+)'")


def format_task(task: Any) -> Any:
    """Put the target where Flower shows the arguments, and a short outcome as the result."""
    task.args = target_of(task.kwargs or "") or task.args
    task.result = task.exception or outcome_of(task.result or "")
    return task


def target_of(kwargs: str) -> str:
    """Return `appId/environment`, or the batchId of a batch message, from a task's arguments."""
    if target := _TARGET.search(kwargs):
        return target[1]
    if (batch := _BATCH.search(kwargs)) and "'requests': [" in kwargs:
        return f"batch {batch[1]}"
    members = dict(_MEMBER.findall(kwargs))
    app = members.get("appId") or members.get("app_id")
    environment = members.get("backendEnvironmentName") or members.get("backend_environment_name")
    return f"{app}/{environment}" if app and environment else ""


def outcome_of(result: str) -> str:
    """Return `outcome, job …` of an import's result; other results are shown as they are."""
    found = _OUTCOME.search(result)
    return f"{found[2]}, job {found[1]}" if found else result
