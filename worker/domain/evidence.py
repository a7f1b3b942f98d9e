"""Which of a target's jobs an import's own call has started, by evidence alone; pure.

AWS names no caller, and documents neither the words nor the times of its jobs. What counts, in this
order: the ids of jobs known to be older, the list that was read before the first start, and the
times of jobs in a lane where they were seen to be true. A job that no evidence places is *unclear*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker.domain.answers import Job
from worker.domain.claims import Claim, Doubt
from worker.domain.facts import SLACK_SECONDS, Times
from worker.domain.policy import Policy


class Place(StrEnum):
    """Where a job stands to the import's first start."""

    OLDER = "older"
    NEW = "new"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a complete list of the target's jobs says.

    `ours` is the job that the import's own call has started, None where none is recognized;
    `unclear` are the jobs that may be, `pending` says that some job on the target is under way.
    """

    ours: Job | None
    unclear: tuple[Job, ...]
    pending: bool


def examine(jobs: Sequence[Job], claim: Claim, policy: Policy) -> Findings:
    """Tell the jobs of a target apart.

    Of several that may be ours the oldest is taken: AWS refuses a start beside an unfinished job.
    Of an import whose store was lost it is the newest, as it may have been tried more than once.
    """
    places = [(job, _place_of(job, claim)) for job in jobs]
    new = [job for job, place in places if place is Place.NEW]
    unclear = [job for job, place in places if place is Place.UNCLEAR]
    if len(new) > 1 and not all(_place_by_time(job, claim) is Place.NEW for job in new):
        new, unclear = [], [*new, *unclear]  # the order of a list says nothing
    return Findings(
        ours=_first_of(new, claim),
        unclear=tuple(unclear),
        pending=any(is_pending(job, policy) for job in jobs),
    )


def is_pending(job: Job, policy: Policy) -> bool:
    """Return whether a job is under way, as far as anybody knows its status."""
    return bool(job.status) and policy.outcome_of(job.status) is None


def _place_of(job: Job, claim: Claim) -> Place:
    listed = claim.item.listed_jobs
    if not claim.may_have_started or job.job_id in claim.earlier_jobs:
        return Place.OLDER
    if listed is not None and job.job_id in listed:
        return Place.OLDER
    place = _place_by_time(job, claim)
    if place is Place.UNCLEAR and listed is not None:
        place = Place.NEW
    if place is Place.NEW and (not job.job_id or _is_of_another_kind(job, claim)):
        return Place.UNCLEAR
    return place


def _place_by_time(job: Job, claim: Claim) -> Place:
    ago, within = job.created_seconds_ago, job.created_within_seconds
    if ago is None or not _times_count(claim):
        return Place.UNCLEAR
    oldest = claim.age_seconds + SLACK_SECONDS
    if ago - within > oldest:
        return Place.OLDER
    return Place.NEW if ago + within <= oldest else Place.UNCLEAR


def _times_count(claim: Claim) -> bool:
    """Return whether the lane's times were seen to be true.

    Who recovers a lost store asks for jobs by their time: there they count unless seen to be wrong.
    """
    times = claim.facts.times
    return times is Times.GOOD or (claim.item.doubt == Doubt.LOST and times is Times.UNKNOWN)


def _is_of_another_kind(job: Job, claim: Claim) -> bool:
    names = claim.facts.list_operations
    return bool(names and job.operation) and job.operation not in names


def _first_of(new: Sequence[Job], claim: Claim) -> Job | None:
    """Return the job that is ours: by their ages where there are several."""
    choose = min if claim.item.doubt == Doubt.LOST else max
    return choose(new, key=lambda job: job.created_seconds_ago or 0.0, default=None)
