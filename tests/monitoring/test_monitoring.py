"""Alerts and dashboards name what exists and say what they show, and Prometheus accepts them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.promql import problems_of
from tests.support import PROJECT

PROMETHEUS = PROJECT / "config" / "prometheus"
GRAFANA = PROJECT / "config" / "grafana"
TESTS = Path(__file__).parent / "alerts_test.yml"
RUNBOOK = PROJECT / "docs" / "guides" / "alerts.md"

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")
}


def queries() -> Iterator[Any]:
    """Yield each query of an alert, panel or variable, under its name."""
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            values = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert values
            query = f"sum by ({values[2]}) ({values[1]})"
            yield pytest.param(query, id=f"{name}:{variable['name']}")
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield pytest.param(target["expr"], id=f"{name}:{panel['title']}:{target['refId']}")


@pytest.mark.parametrize("query", [*queries()])
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    assert problems_of(query) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(imports_weighting)", "unknown metric imports_weighting"),
        ("imports_duration_seconds", "unknown metric imports_duration_seconds"),
        ('imports_waiting{line="a"}', "imports_waiting has no label line"),
        ("sum by (call) (imports_waiting)", "no metric has the label call"),
        ("imports_waiting{lane=a}", "can't be read: {lane=a}"),
        ("summ(imports_waiting)", "unknown function summ"),
        ("imports_waiting # all", "can't be read: # all"),
    ],
)
def test_a_query_that_names_something_else_is_found(query: str, problem: str) -> None:
    assert problem in problems_of(query)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["for"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    notes = rule["annotations"]
    assert notes["description"].endswith(".")
    assert not notes["summary"].endswith(".")
    page, _, anchor = notes["runbook_url"].partition("#")
    assert page.endswith(f"/{RUNBOOK.relative_to(PROJECT)}")
    sections = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert anchor in {section.lower().replace(" ", "-") for section in sections}


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    seen = {
        (re.findall(r'alertname="(\w+)"', check["expr"])[0], bool(check["exp_samples"]))
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for check in test["promql_expr_test"]
    }
    assert seen == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(PROMETHEUS / "prometheus.yml")),
        ("test", "rules", str(TESTS)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_accepts(arguments: tuple[str, ...]) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("NO promtool here (Debian package: prometheus), the alerts are not tried")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_explains_each_panel(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"amplify-import-{name}"
    assert dashboard["description"].endswith(".")
    panels = dashboard["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_no_two_panels_overlap() -> None:
    for dashboard in DASHBOARDS.values():
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in dashboard["panels"])
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) < 24


def test_every_panel_reads_the_provisioned_prometheus() -> None:
    provisioned = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    (source,) = provisioned["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    for dashboard in DASHBOARDS.values():
        parts = [*dashboard["panels"], *dashboard["templating"]["list"]]
        assert all(part["datasource"] == expected for part in parts)
