"""What an answer about an import's own job shows about AWS; the lane keeps it (`LaneFacts`)."""

from dataclasses import replace

from worker.domain.answers import Answer, Job, Kind
from worker.domain.claims import Call, Claim
from worker.domain.facts import LaneFacts
from worker.domain.policy import Policy


def is_surveyor(claim: Claim) -> bool:
    """Return whether this poll should read the list, to learn what the lane's lists show.

    The lane's first imports do so: those for which the list was read before their start. A list
    that shows the job replaces the poll, so it costs no extra call.
    """
    has_listed = claim.item.listed_jobs is not None and not claim.item.is_terminal
    return claim.call is Call.POLL and has_listed and claim.facts.lists_finished is None


def learn(claim: Claim, answer: Answer, policy: Policy) -> LaneFacts:
    """Return what the lane has shown, including this answer."""
    facts, job = _with_others(claim.facts, claim, answer, policy), _own_job(claim, answer)
    if job is None:
        return facts
    is_listed = claim.call is Call.RECONCILE or answer.listed is True
    facts = facts.with_words_of(job, claim.item.requested_operation, listed=is_listed)
    if claim.call is Call.START:
        return facts
    # otherwise the job was found after a lost store, and the time of its start is unknown
    if claim.item.attempts:
        facts = facts.with_times_of(job, at_least=claim.known_seconds, at_most=claim.age_seconds)
    before = claim.item.status.upper()
    if before and job.status and job.status.upper() != before:
        facts = facts.with_change(before, claim.unchanged_seconds)
    return _with_list(_with_length(facts, claim, job, policy), claim, answer, policy)


def _with_others(facts: LaneFacts, claim: Claim, answer: Answer, policy: Policy) -> LaneFacts:
    """Learn that a list shows jobs that are over, even if they are not ours."""
    is_list = claim.call is Call.RECONCILE and answer.kind is Kind.OK
    shows_finished = is_list and any(policy.outcome_of(job.status) for job in answer.jobs)
    if shows_finished and facts.lists_finished is None:
        return replace(facts, lists_finished=True)
    return facts


def _own_job(claim: Claim, answer: Answer) -> Job | None:
    if answer.kind is not Kind.OK or claim.item.is_terminal or claim.item.adopted:
        return None  # an adopted job is not certain to be ours
    if claim.call is Call.RECONCILE:
        own = (job for job in answer.jobs if job.job_id and job.job_id == claim.item.job_id)
        return next(own, None)
    return answer.job if answer.job.status else None


def _with_length(facts: LaneFacts, claim: Claim, job: Job, policy: Policy) -> LaneFacts:
    longest = max(facts.longest_job_seconds, claim.age_seconds)
    is_over = policy.outcome_of(job.status) is not None
    return replace(facts, longest_job_seconds=longest) if is_over else facts


def _with_list(facts: LaneFacts, claim: Claim, answer: Answer, policy: Policy) -> LaneFacts:
    is_over = policy.outcome_of(answer.job.status) is not None
    match answer.listed:
        case True:
            shown = facts.with_list_lag(0.0)
            return replace(shown, lists_finished=True) if is_over else shown
        case False if not is_over:
            return facts.with_list_lag(claim.known_seconds)
        case False if claim.known_seconds >= facts.settle_seconds(policy.settle_seconds):
            return replace(facts, lists_finished=False)
    return facts
