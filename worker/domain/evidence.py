"""Finds out which of a target's jobs an import's own call started, from evidence alone; pure.

AWS names no caller, and documents neither the names nor the times of its jobs. The evidence is, in
this order: the ids of jobs that are known to be older, the list that was read before the first
start, and the jobs' times, if the lane has shown that they are right. A job that the evidence does
not place is *unclear*.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker.domain.answers import Job
from worker.domain.claims import Claim, Doubt
from worker.domain.facts import SLACK_SECONDS, Times
from worker.domain.policy import Policy


class Place(StrEnum):
    """Whether a job is older than the import's first start."""

    OLDER = "older"
    NEW = "new"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a complete list of the target's jobs shows.

    `ours` is the job that the import's own call started; None if no job is recognized. `unclear`
    are the jobs that may be it. `pending` says that some job on the target is under way.
    """

    ours: Job | None
    unclear: tuple[Job, ...]
    pending: bool


def examine(jobs: Sequence[Job], claim: Claim, policy: Policy) -> Findings:
    """Sort the jobs of a target into the import's own, others', and unclear ones.

    If several jobs may be the import's own, the oldest is taken, because AWS refuses a start beside
    an unfinished job. After a lost store it is the newest, because the import may have been started
    more than once.
    """
    places = [(job, _place_of(job, claim, policy)) for job in jobs]
    new = [job for job, place in places if place is Place.NEW]
    unclear = [job for job, place in places if place is Place.UNCLEAR]
    if len(new) > 1 and not all(_place_by_time(job, claim) is Place.NEW for job in new):
        new, unclear = [], [*new, *unclear]  # the order of a list shows nothing
    return Findings(
        ours=_first_of(new, claim),
        unclear=tuple(unclear),
        pending=any(is_pending(job, policy) for job in jobs),
    )


def is_pending(job: Job, policy: Policy) -> bool:
    """Return whether a job is under way, as far as its status is known."""
    return bool(job.status) and policy.outcome_of(job.status) is None


def _place_of(job: Job, claim: Claim, policy: Policy) -> Place:
    listed = claim.item.listed_jobs
    if not claim.may_have_started or job.job_id in claim.earlier_jobs:
        return Place.OLDER
    if listed is not None and job.job_id in listed:
        return Place.OLDER
    place = _place_by_time(job, claim)
    if place is Place.UNCLEAR and listed is not None:
        place = Place.NEW
    if place is Place.NEW and (not job.job_id or _is_of_another_kind(job, claim, policy)):
        return Place.UNCLEAR
    return place


def _place_by_time(job: Job, claim: Claim) -> Place:
    ago, within = job.created_seconds_ago, job.created_within_seconds
    if ago is None or not _times_count(claim):
        return Place.UNCLEAR
    if ago - within > claim.age_seconds + SLACK_SECONDS:
        return Place.OLDER
    is_new = ago + within <= claim.least_age_seconds + SLACK_SECONDS
    return Place.NEW if is_new else Place.UNCLEAR


def _times_count(claim: Claim) -> bool:
    """Return whether the lane has shown that its jobs' times are right.

    After a lost store, jobs can be recognized only by their times. There, times count unless the
    lane has shown that they are wrong.
    """
    times = claim.facts.times
    return times is Times.GOOD or (claim.item.doubt == Doubt.LOST and times is Times.UNKNOWN)


def _is_of_another_kind(job: Job, claim: Claim, policy: Policy) -> bool:
    """Return whether a job's name belongs to another operation, as far as the lane knows.

    Because lists lag, the list that is read before the first start can miss a job. Until a list has
    shown the name of one of our jobs, a job whose name does not resemble the operation's is left
    unclear. If it is ours, waiting does no harm.
    """
    name, operation = job.operation, claim.item.requested_operation
    if not name:
        return False
    if names := claim.facts.list_operations.get(operation):
        return name not in names
    if name in claim.facts.operations.get(operation, ()):
        return False
    return not _is_like(name.lower(), operation, policy)


def _is_like(name: str, operation: str, policy: Policy) -> bool:
    """Return whether a name resembles this operation, and no other one."""
    does, what = _words(operation)
    others = {_words(other)[1] for other in policy.operations} - {what}
    return does in name and (what in name or not any(other in name for other in others))


def _words(operation: str) -> tuple[str, str]:
    """Return the first and the last word of an operation's name, such as import and auth."""
    words = re.findall("[A-Z][a-z]+", operation)
    return words[0].lower(), words[-1].lower()


def _first_of(new: Sequence[Job], claim: Claim) -> Job | None:
    """Return the job that is ours; among several, the age decides."""
    choose = min if claim.item.doubt == Doubt.LOST else max
    return choose(new, key=lambda job: job.created_seconds_ago or 0.0, default=None)
