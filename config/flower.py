"""Flower's configuration: one row for each import, with its target, its state and its outcome.

Flower executes this file; `worker.celery` passes the path to it. An operator can replace it with
another file, in FLOWER_CONF or with `--conf`.
"""

import re
from typing import Any

from celery import states

tasks_columns = "uuid,args,state,result,received,runtime,worker"
natural_time = False

# Celery ranks unknown states above REVOKED. Without this, Flower would show a revoked task as
# RUNNING.
states.PRECEDENCE_LOOKUP[states.REVOKED] = states.precedence(states.FAILURE)

_MEMBER = re.compile(r"'(appId|app_id|backendEnvironmentName|backend_environment_name)': '([^']*)'")
_BATCH = re.compile(r"'batchId': '([^']*)'")
_TARGET = re.compile(r"'target': '([^']*)'")
_OUTCOME = re.compile(r"'jobId': (?:'([^']*)'|None).*'outcome': '([a-z_]+)'")


def format_task(task: Any) -> Any:
    """Return the task with its target in place of its arguments, and a short outcome as result."""
    task.args = target_of(task.kwargs or "") or task.args
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


def outcome_of(result: str) -> str:
    """Return `outcome, job …` for an import's result. Other results are returned unchanged."""
    found = _OUTCOME.search(result)
    return f"{found[2]}, job {found[1]}" if found else result
