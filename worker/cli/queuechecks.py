"""The checks of `doctor` about the queue of requests: reachable, and fit for what workers do."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from config.settings import Settings
from worker.cli.checks import Check, Verdict, judge
from worker.operations.requests_queue import QueueFailedError, RequestsQueue

NAME: Final = "queue of requests"
SHORTEST_SECONDS: Final = 30
"""A worker needs less to admit ten requests, unless the store is slow."""
LONGEST_SECONDS: Final = 900
"""How long messages may wait that a killed worker had received."""
LEAST_RECEIVES: Final = 5
"""A message is received again after a kill or an outage, which is no fault of its own."""

_WORKERS: Final = "(this shell was checked, no worker)"


async def check_queue(settings: Settings) -> list[Check]:
    """Check the queue in IMPORTS_SQS_REQUESTS_URL, if there is one. Nothing is received."""
    if not settings.sqs_requests_url:
        return []
    queue = RequestsQueue(settings.sqs_requests_url, lambda *_: None)
    try:
        attributes = await queue.attributes()
    except QueueFailedError as error:
        return [_unreachable(error)]
    finally:
        await queue.close()
    waiting = int(attributes.get("ApproximateNumberOfMessages", 0))
    found = Check(NAME, Verdict.OK, f"{queue.name}, about {waiting:,} messages")
    return [found, *_shortcomings(attributes)]


def _unreachable(error: QueueFailedError) -> Check:
    if "AccessDenied" in error.code:
        remedy = f"allow what config/aws/iam-policy-sqs.json lists, on this queue {_WORKERS}"
    elif "NonExistent" in error.code or "DoesNotExist" in error.code:
        remedy = "create the queue, or correct IMPORTS_SQS_REQUESTS_URL"
    else:
        remedy = f"make the queue reachable with the ambient credentials {_WORKERS}"
    return Check(NAME, Verdict.FAIL, str(error), remedy)


def _shortcomings(attributes: Mapping[str, str]) -> Iterator[Check]:
    seconds = int(attributes.get("VisibilityTimeout", SHORTEST_SECONDS))
    yield judge(
        "visibility timeout",
        f"{seconds} s",
        well=SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS,
        remedy=f"set it to {SHORTEST_SECONDS} to {LONGEST_SECONDS} s: if it is shorter, messages"
        " are received twice; if it is longer, those of a killed worker wait",
        otherwise=Verdict.WARN,
    )
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    if policy:
        receives = int(policy.get("maxReceiveCount", LEAST_RECEIVES))
        yield judge(
            "redrive policy",
            f"maxReceiveCount is {receives}",
            well=receives >= LEAST_RECEIVES,
            remedy=f"set it to {LEAST_RECEIVES} or more: invalid messages are rejected and deleted,"
            " so others would get into the dead-letter queue",
            otherwise=Verdict.WARN,
        )
