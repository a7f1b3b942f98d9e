"""Everything fails at once: every fault of the sandbox, a changing quota, and a killed worker.

Records and events are checked against the sandbox's ledger.
"""

from collections import Counter

from tests.support import Producer, Sandbox, StartWorker, members, wait_until
from worker.sandbox.loader import load_scenario

IMPORTS = 80
SETTINGS = {
    "IMPORTS_START_RATE": "15",
    "IMPORTS_POLL_RATE": "40",
    "IMPORTS_POLL_MAX_SECONDS": "2",
    "IMPORTS_LEASE_SECONDS": "6",
    # Longer than the scenario's lists lag and its new jobs stay unknown.
    "IMPORTS_SETTLE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "10",
}
TERMINAL = ("import.succeeded", "import.failed", "import.rejected", "import.timed_out")


def test_no_import_is_lost_or_done_twice_and_no_outcome_is_false(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.reset(load_scenario("hostile"))
    first = start_worker(**SETTINGS)
    start_worker(**SETTINGS)
    for n in range(IMPORTS):
        producer.add({"importId": f"i{n}", **members(f"d{n}")})
    wait_until(lambda: len(producer.events(*TERMINAL)) > IMPORTS // 4, "a quarter is over", 60)
    first.kill()
    wait_until(lambda: len(producer.events(*TERMINAL)) >= IMPORTS, "all are over", 100)

    ended = Counter(event["data"]["importId"] for event in producer.events(*TERMINAL))
    assert ended == {f"i{n}": 1 for n in range(IMPORTS)}, "one terminal event each"
    jobs = sandbox.jobs()
    assert Counter(job["target"] for job in jobs).most_common(1)[0][1] == 1, "no target twice"
    outcomes = {job["target"]: job["status"] for job in jobs}
    for event in producer.events(*TERMINAL):
        claimed = "COMPLETED" if event["type"] == "import.succeeded" else "FAILED"
        assert outcomes[event["subject"]] == claimed, event
