"""Everything goes wrong at once: every fault of the sandbox, a changing quota, a killed worker.

The sandbox's ledger is the truth that our records and events are held against.
"""

from collections import Counter

from tests.conftest import StartWorker
from tests.support import Producer, Sandbox, members, wait_until
from worker.sandbox.loader import load_scenario

IMPORTS = 80
SETTINGS = {
    "IMPORTS_START_RATE": "15",
    "IMPORTS_POLL_RATE": "40",
    "IMPORTS_POLL_MAX_SECONDS": "2",
    "IMPORTS_LEASE_SECONDS": "6",
    # Longer than the scenario's list lags, and its new jobs stay unknown.
    "IMPORTS_SETTLE_SECONDS": "4",
    "IMPORTS_MISSING_GRACE_SECONDS": "5",
    "IMPORTS_MAX_ATTEMPTS": "10",
}
TERMINAL = ("import.succeeded", "import.failed", "import.rejected", "import.timed_out")


def test_none_is_lost_none_is_done_twice_and_no_outcome_is_false(
    start_worker: StartWorker, producer: Producer, sandbox: Sandbox
) -> None:
    sandbox.reset(load_scenario("hostile"))
    doomed = start_worker(**SETTINGS)
    start_worker(**SETTINGS)
    for n in range(IMPORTS):
        producer.add({"importId": f"i{n}", **members(f"d{n}")})
    wait_until(lambda: len(producer.events(*TERMINAL)) > IMPORTS // 4, "a quarter is over", 60)
    doomed.kill()
    wait_until(lambda: len(producer.events(*TERMINAL)) >= IMPORTS, "all are over", 100)

    ended = Counter(event["data"]["importId"] for event in producer.events(*TERMINAL))
    assert ended == {f"i{n}": 1 for n in range(IMPORTS)}, "one terminal event each"
    jobs = sandbox.jobs()
    assert Counter(job["target"] for job in jobs).most_common(1)[0][1] == 1, "no target twice"
    outcomes = {job["target"]: job["status"] for job in jobs}
    for event in producer.events(*TERMINAL):
        claimed = "COMPLETED" if event["type"] == "import.succeeded" else "FAILED"
        assert outcomes[event["subject"]] == claimed, event
