"""The Kubernetes manifests are valid, refer to what exists, and define services that run."""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import PurePath
from typing import Any

import pytest
import yaml

from tests.documentation.pages import PAGES
from tests.monitoring.promql import problems_of
from tests.support import BIN, PROJECT, Sandbox, environment_for, free_port, wait_until
from tests.support.scraping import Scraper
from tests.support.services import running

DIRECTORY = PROJECT / "config" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((DIRECTORY / name).read_text())
]
OLDEST_KUBERNETES = "1.30"
SCALED_OBJECT = DIRECTORY / "scaled-object.yaml"
GENERATED = {each["name"]: each for each in KUSTOMIZATION["configMapGenerator"]}


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(each, id=named(each)) for each in MANIFESTS if each["kind"] == kind]


DEPLOYMENTS = of_kind("Deployment")
LABELS: list[dict[str, str]] = [
    deployment.values[0]["spec"]["template"]["metadata"]["labels"] for deployment in DEPLOYMENTS
]


def container_of(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container; '' for those that are from a secret."""
    literals = [
        literal.split("=", 1)
        for source in container.get("envFrom", [])
        for literal in GENERATED[source["configMapRef"]["name"]]["literals"]
    ]
    own = {each["name"]: each.get("value", "") for each in container["env"]}
    return {**dict(literals), **own}


def probes_of(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            yield container[name]["httpGet"]


def test_each_manifest_has_the_schema_of_its_kind() -> None:
    # It takes seconds to import, so only one process of the tests does.
    schemas: Any = import_module("kubernetes_validate")
    problems = {}
    for manifest in MANIFESTS:
        for version in (OLDEST_KUBERNETES, schemas.latest_version()):
            try:
                schemas.validate(manifest, version, strict=True)
            except schemas.ValidationError as error:
                problems[named(manifest), version] = error.message
    assert problems == {}


def test_each_file_is_used() -> None:
    named_files = {*KUSTOMIZATION["resources"], "kustomization.yaml", SCALED_OBJECT.name}
    named_files |= {name for each in GENERATED.values() for name in each.get("files", [])}
    assert {path.name for path in DIRECTORY.iterdir()} == named_files


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_deployment_selects_its_own_pods(deployment: dict[str, Any]) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    (name,) = labels.values()
    assert name == deployment["metadata"]["name"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_pods_may_do_no_more_than_they_need(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    container = container_of(deployment)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"--uid {pod['securityContext']['runAsUser']}" in (PROJECT / "Dockerfile").read_text()
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_container_refers_to_what_exists(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    container = container_of(deployment)
    assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}
    assert (BIN / container["command"][0]).exists()
    ports = {port["name"] for port in container["ports"]}
    assert {probe["port"] for probe in probes_of(container)} <= ports
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    maps = [volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume]
    assert set(maps) <= set(GENERATED)
    settings = {name for name in variables_of(container) if name.startswith("IMPORTS_")}
    assert settings <= {line.split("`")[1] for line in rows_of(PAGES["settings.md"]())}
    accounts = {each.values[0]["metadata"]["name"] for each in of_kind("ServiceAccount")}
    assert pod.get("serviceAccountName", "amplify-import-worker") in accounts


def rows_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| `IMPORTS_")]


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_file_that_a_variable_names_is_mounted(deployment: dict[str, Any]) -> None:
    container = container_of(deployment)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for value in variables_of(container).values():
        if value.startswith("/"):
            assert str(PurePath(value).parent) in mounts, value


@pytest.mark.parametrize("service", of_kind("Service"))
def test_a_service_and_a_port_lead_to_a_container(service: dict[str, Any]) -> None:
    (pod,) = (
        each.values[0]
        for each in DEPLOYMENTS
        if each.values[0]["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    )
    ports = {port["name"] for port in container_of(pod)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_each_pod_is_behind_one_policy_and_only_its_ports_are_open() -> None:
    selected: list[str] = []
    for policy in (each.values[0] for each in of_kind("NetworkPolicy")):
        selector = policy["spec"]["podSelector"]
        names = [*selector.get("matchLabels", {}).values()]
        names += [name for each in selector.get("matchExpressions", []) for name in each["values"]]
        selected += names
        open_ports = {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
        for deployment in (each.values[0] for each in DEPLOYMENTS):
            if deployment["metadata"]["name"] in names:
                assert {p["name"] for p in container_of(deployment)["ports"]} == open_ports
    assert sorted(selected) == sorted(label for labels in LABELS for label in labels.values())


def test_disruptions_leave_a_worker() -> None:
    (budget,) = (each.values[0] for each in of_kind("PodDisruptionBudget"))
    assert budget["spec"]["selector"]["matchLabels"] in LABELS
    assert budget["spec"]["maxUnavailable"] == 1
    (worker,) = (d.values[0] for d in DEPLOYMENTS if d.id == "Deployment/amplify-import-worker")
    assert worker["spec"]["replicas"] >= 2


def test_workers_are_scaled_by_metrics_that_exist() -> None:
    spec = yaml.safe_load(SCALED_OBJECT.read_text())["spec"]
    assert spec["scaleTargetRef"]["name"] in {d.values[0]["metadata"]["name"] for d in DEPLOYMENTS}
    (trigger,) = spec["triggers"]
    assert problems_of(trigger["metadata"]["query"]) == []


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_the_command_runs_and_the_probes_pass(
    deployment: dict[str, Any], sandbox: Sandbox, store_url: str, tmp_path: Any
) -> None:
    container = container_of(deployment)
    (inside,) = (str(port["containerPort"]) for port in container["ports"])
    port = free_port()
    variables = {
        **variables_of(container),
        **environment_for(sandbox, store_url),
        "FLOWER_BASIC_AUTH": "user:password",
        "IMPORTS_HTTP_TOKEN": "token",
        "IMPORTS_LANES_FILE": str(DIRECTORY / "lanes.toml"),
        "IMPORTS_SINKS_FILE": str(DIRECTORY / "sinks.toml"),
    }
    environment = {name: value.replace(inside, port) for name, value in variables.items()}
    command = [word.replace(inside, port) for word in container["command"]]
    with running(command, environment, tmp_path):
        for probe in probes_of(container):
            wait_until(partial(passes, port, probe["path"]), f"{probe['path']} passes", 60)


def passes(port: str, path: str) -> bool:
    return Scraper(port).probe(path) == 200
