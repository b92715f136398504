"""What runs Millrace elsewhere: the image, compose, Kubernetes and systemd, each checked by the rules of who will read it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import service_env
from deploy.broker import binary
from deploy.credentials import SERVICES
from shared.config import Environment
from tests.support.peers import install
from tests.support.servers import test_credentials as made_credentials

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
KUBERNETES = DEPLOY / "kubernetes"
# The oldest that is maintained when this was written has all that is used; the newest that the validator knows.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
COMPOSE_PEER = ROOT / "tests" / "peers" / "compose"
URLS = {
    "nats_url": "nats://nats-0.nats:4222,nats-1.nats:4222,nats-2.nats:4222",
    "database_url": "postgresql://postgres:secret@primary:5432,standby:5432/millrace",
    "public_url": "https://hooks.example.com",
}


def documents(folder: str) -> list[dict[str, Any]]:
    """Return all objects of a folder's files."""
    files = sorted(path for path in (KUBERNETES / folder).glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


BASE = documents("base")


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in BASE if one["kind"] == kind}


def pod_of(name: str) -> dict[str, Any]:
    """Return the pod of a workload."""
    workload = (of_kind("Deployment") | of_kind("StatefulSet") | of_kind("Job"))[name]
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


# -- Kubernetes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", BASE, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_an_object_fits_the_schemas_of_kubernetes(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("folder", ["base", "tier-a"])
def test_kustomizations_name_every_file_and_build_to_what_fits(folder: str) -> None:
    told = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
    named = {*told["resources"], *(patch["path"] for patch in told.get("patches", ()) if "path" in patch)}
    assert named - {"../base"} == {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return  # the files of `base` are checked as they are
    built = subprocess.run([kubectl, "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(built))
    assert len(found) == len(BASE)
    for document in found:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_runs_twice_is_asked_how_it_is_and_may_be_moved(service: str) -> None:
    assert of_kind("Deployment")[service]["spec"]["replicas"] == 2
    assert of_kind("PodDisruptionBudget")[service]["spec"]["maxUnavailable"] == 1
    (container,) = pod_of(service)["containers"]
    assert container["args"] == [service]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    well = {"path": "/healthz", "port": "health"}
    # A gateway takes webhooks while others are not ready.
    ready = {"path": "/healthz", "port": "http"} if service == "gateway" else {"path": "/readyz", "port": "health"}
    assert asked == {"startup": well, "readiness": ready, "liveness": well}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    # A restart of the same version and a rolling one begin with one more.
    assert of_kind("Deployment")[service]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("workload", [*SERVICES, "prepare", "nats"])
def test_no_pod_has_rights_that_it_does_not_need(workload: str) -> None:
    pod = pod_of(workload)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
        assert rights["readOnlyRootFilesystem"] is True


def test_no_secret_stands_in_a_manifest_and_each_is_one_that_is_written() -> None:
    assert not of_kind("Secret")
    for service in [*SERVICES, "prepare"]:
        (container,) = pod_of(service)["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": f"millrace-{service}"}}]
        assert not [one["name"] for one in container.get("env", ()) if re.search("KEY|URL|PASSWORD", one["name"])]


def test_nothing_speaks_to_anything_unless_it_is_said_and_only_gateways_are_for_all() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for_all = [name for name, one in policies.items() if any("from" not in rule for rule in one["spec"].get("ingress", ()))]
    assert for_all == ["gateway-from-outside"]


def test_executors_are_scaled_by_a_metric_that_is_documented() -> None:
    (metric,) = of_kind("HorizontalPodAutoscaler")["executor"]["spec"]["metrics"]
    assert metric["type"] == "External"
    assert f"`{metric['external']['metric']['name']}`" in (ROOT / "docs" / "operations.md").read_text()


# -- what services are told -------------------------------------------------------------------------------------------------


def image_environment() -> dict[str, str]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    (last,) = [line.removeprefix("ENV ") for line in text.splitlines() if line.startswith("ENV ")]
    return dict(part.split("=", 1) for part in last.split())


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_in_the_image_has_all_settings_that_it_needs(service: str) -> None:
    told = service_env.environment_of(service, made_credentials(), **URLS)
    environment = Environment(image_environment() | told)
    importlib.import_module(f"services.{service}.config").read(environment)
    environment.check()


def test_files_of_secrets_are_the_owners_and_hold_the_addresses_that_were_given(tmp_path: Path) -> None:
    credentials = made_credentials()
    written = service_env.write(tmp_path / "env", credentials, **URLS)
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert {path.name for path in written} == {*(f"{one}.env" for one in (*SERVICES, "prepare", "postgres")), "nats.conf"}
    events = (tmp_path / "env" / "events.env").read_text()
    assert f"MILLRACE_NATS_URL=nats://events:{credentials.nats['events']}@nats-0.nats:4222,nats-1.nats:4222" in events
    assert "@primary:5432,standby:5432/millrace\n" in events
    assert credentials.nats_admin not in events
    assert "POSTGRES_PASSWORD=secret\nPOSTGRES_DB=millrace\n" in (tmp_path / "env" / "postgres.env").read_text()


@pytest.mark.parametrize("servers", [1, 3])
async def test_the_broker_takes_the_configuration_that_is_written(tmp_path: Path, servers: int) -> None:
    url = ",".join(URLS["nats_url"].split(",")[:servers])
    config = tmp_path / "nats.conf"
    text = service_env.nats_config_of(made_credentials(), url)
    await asyncio.to_thread(config.write_text, text.replace("/data/jetstream", str(tmp_path)))
    done = await asyncio.to_thread(
        subprocess.run,
        [str(binary()), "-t", "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        env={"NATS_SERVER_NAME": "nats-0"},
    )
    assert done.returncode == 0, done.stderr
    assert ("routes" in text) == (servers > 1)


# -- compose ------------------------------------------------------------------------------------------------------------------


def test_the_compose_file_fits_the_specification() -> None:
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        # It reads the files of variables, which only an installation has.
        command = [docker, "compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet", "--no-env-resolution"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    install(COMPOSE_PEER)
    schema = json.loads((COMPOSE_PEER / "node_modules" / "dclint" / "schemas" / "compose.schema.json").read_text())
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(told)] == []


def test_compose_runs_every_service_with_its_own_secrets_and_opens_one_port_here() -> None:
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(SERVICES) | {"nats", "postgres", "prepare"} == told.keys()
    for service in SERVICES:
        assert (told[service]["command"], told[service]["env_file"]) == ([service], [f"./env/{service}.env"])
        assert told[service]["cap_drop"] == ["ALL"]
        assert told[service]["read_only"] is True
    assert {name: one["ports"] for name, one in told.items() if "ports" in one} == {"gateway": ["127.0.0.1:8420:8420"]}
    assert told["nats"]["networks"] == told["postgres"]["networks"] == ["inside"]


# -- systemd ------------------------------------------------------------------------------------------------------------------


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    for unit in (DEPLOY / "systemd").glob("*.service"):
        # It wants the program to be there.
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/millrace/bin/python", sys.executable))
    units = [str(tmp_path / "millrace.service"), *(str(tmp_path / f"millrace@{service}.service") for service in SERVICES)]
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.replace("\n", "")) == (0, "")


@pytest.mark.parametrize("unit", ["millrace.service", "millrace@.service"])
def test_a_unit_is_hardened_as_far_as_the_sandbox_of_tier_a_allows(unit: str) -> None:
    lines = [line for line in (DEPLOY / "systemd" / unit).read_text().splitlines() if line and not line.startswith("#")]
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (told["User"], told["NoNewPrivileges"], told["ProtectSystem"], told["CapabilityBoundingSet"]) == (
        "millrace",
        "yes",
        "strict",
        "",
    )
    # Each of these hides a part of /proc or forbids a namespace: no run could be isolated by tier A.
    forbidding = {"RestrictNamespaces", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset"}
    assert not forbidding & told.keys()
    assert "@mount" not in told["SystemCallFilter"]


# -- the image ----------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def test_the_image_is_of_an_ordinary_user_and_copies_what_is_there() -> None:
    found = instructions()
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    assert found[-1] == ("ENTRYPOINT", '["python", "-m", "services"]')
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in found:
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in sent, source


def test_the_image_has_the_packages_that_millrace_needs_as_they_are_tested_and_no_tools() -> None:
    printed = subprocess.run([sys.executable, str(DEPLOY / "image_lock.py")], capture_output=True, text=True, check=True).stdout
    tested, image = locked((ROOT / "requirements.lock").read_text()), locked(printed)
    assert image.items() <= tested.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}
    assert wanted | {"hatchling"} <= image.keys()
    # What those need in turn, as their own metadata say: all that is installed here and is for this platform.
    missing = {
        (name, canonicalize_name(one.name))
        for name in image
        for one in needs_of(name)
        if one.marker is None or one.marker.evaluate({"extra": ""})
        if canonicalize_name(one.name) not in image
    }
    assert missing == set()
    assert not {"pytest", "ruff", "mypy", "kubernetes-validate", "hypothesis"} & image.keys()


def needs_of(name: str) -> list[Requirement]:
    """Return what an installed package wants."""
    try:
        return [Requirement(one) for one in importlib.metadata.requires(name) or ()]
    except importlib.metadata.PackageNotFoundError:
        return []  # of another platform


def locked(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return each package's version and hashes."""
    found = {}
    for block in re.split(r"\n(?=[a-z0-9])", text):
        if (head := re.match(r"([a-z0-9.-]+)(?:\[[^\]]*\])?==(\S+)", block)) is not None:
            found[head[1]] = (head[2], frozenset(re.findall(r"sha256:\w+", block)))
    return found
