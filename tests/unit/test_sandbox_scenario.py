"""Scenario files: the shipped ones load, and an error names the file and the member."""

from pathlib import Path

import pytest

from worker.sandbox.api import Operation
from worker.sandbox.loader import ScenarioError, load_scenario, shipped_scenarios
from worker.sandbox.scenario import FaultKind, Scenario


def test_the_shipped_scenarios_load_and_describe_themselves() -> None:
    assert shipped_scenarios() == ["calm", "demo", "hostile"]
    for name in shipped_scenarios():
        assert load_scenario(name).description


def test_the_hostile_scenario_has_every_fault() -> None:
    hostile = load_scenario("hostile")
    assert hostile.faults.keys() == set(Operation)
    assert {kind for kinds in hostile.faults.values() for kind in kinds} == set(FaultKind)
    assert hostile.quota.changes


def test_the_demo_has_its_three_accounts() -> None:
    demo = load_scenario("demo")
    rates = {
        name: account.quota.starts.rate
        for name, account in demo.accounts.items()
        if account.quota and account.quota.starts
    }
    assert rates == {"acme": 8, "globex": 5, "initech": 6}
    assert {len(account.access_key_id) for account in demo.accounts.values()} == {20}


def test_a_scenario_may_be_any_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('seed = 3\n[[targets]]\napp_id = "d1"\nfaults = [{ kind = "lag" }]\n')
    scenario = load_scenario(str(path))
    assert scenario.seed == 3
    assert scenario.targets[0].faults[0].on is Operation.LIST_BACKEND_JOBS


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("sead = 1", "sead"),
        ("[quota.starts]\nrate = 0\nburst = 1", "quota.starts.rate"),
        ("[quota.starts]\nrate = inf\nburst = 1", "quota.starts.rate"),
        ("[quota.starts]\nrate = 1", "quota.starts.burst"),
        ("[accounts.acme]\ncredentials = 'ok'", "accounts.acme.access_key_id"),
        ("[faults.ImportBackendAuth]\nhang = 1.5", "faults.ImportBackendAuth.hang"),
        ("[faults.ImportBackendAuth]\nlag = 0.5", "lag is a fault of ListBackendJobs"),
        ("[faults.GetBackendJob]\nhang = 0.6\nslow = 0.6", "faults.GetBackendJob"),
        ("[[targets]]\napp_id = 'd1'\noutcome = 'explode'", "targets.0.outcome"),
        ("[[targets]]\napp_id = 'd1'\nfaults = [{ kind = 'slow', times = 0 }]", "faults.0.times"),
        ("[jobs]\nmin_seconds = 2\nmax_seconds = 1", "jobs: "),
        ("[jobs]\nfailure_messages = []", "jobs.failure_messages"),
        ("[quota]\nchanges = [{ at_seconds = 1, rate = 1, bucket = 'reads' }]", "quota: "),
        (
            "[quota]\nshared = { rate = 1, burst = 1 }\nstarts = { rate = 1, burst = 1 }",
            "quota: ",
        ),
        ("[accounts]\na = { access_key_id = 'K' }\nb = { access_key_id = 'K' }", "access_key_id"),
    ],
)
def test_an_error_names_the_file_and_the_member(tmp_path: Path, text: str, member: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert member in str(caught.value)


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"stormy: .*shipped: calm, demo, hostile"):
        load_scenario("stormy")
    path = tmp_path / "wrong.toml"
    path.write_text("seed =")
    with pytest.raises(ScenarioError, match=r"wrong\.toml: not TOML"):
        load_scenario(str(path))


def test_an_empty_scenario_is_a_well_behaved_api() -> None:
    assert Scenario().faults == {}
    assert Scenario().quota.starts is None
