"""The files that deploy segtune: each is valid by the schema or the linter of its kind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from shipped import ROOT

# Third-party checkers, from the extra `dev`.
import kubernetes_validate  # isort: skip

DEPLOY = ROOT / "deploy"
CLUSTERS = [ROOT / "cluster.yaml", DEPLOY / "aws.yaml", DEPLOY / "gcp.yaml"]
KUBERAY = DEPLOY / "kuberay"
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), DEPLOY / "slurm" / "segtune.sbatch"]
RAY_SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
RAY_PIN = re.compile(r"(?:ray\[[\w,]+\]==|ARG RAY=|rayVersion: )([\d.]+)")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def tool(name: str) -> str:
    """Return the path of a program that the extra `dev` has installed."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert path, f"{name} is not installed: pip install -e '.[dev]'"
    return path


def lint(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_cluster_is_accepted_with_the_defaults_of_its_provider(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(path))
    validate_config(config)
    jsonschema.validate(config, RAY_SCHEMA)


def test_schema_refuses_an_unknown_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(read(DEPLOY / "aws.yaml") | {"max_worker": 1}, RAY_SCHEMA)


@pytest.mark.parametrize("path", CLUSTERS[1:], ids=lambda path: path.stem)
def test_cloud_workers_are_spot_start_at_none_and_the_head_takes_no_trials(path: Path) -> None:
    types = read(path)["available_node_types"]
    head, gpu = types["head"], types["gpu"]
    assert head["resources"] == {"CPU": 0}
    assert (gpu["min_workers"], gpu["resources"]["GPU"]) == (0, 1)
    assert gpu["max_workers"] == read(path)["max_workers"] > 0
    spot = gpu["node_config"].get("InstanceMarketOptions", gpu["node_config"].get("scheduling"))
    assert spot in (
        {"MarketType": "spot"},
        {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
        },
    )
    assert "--num-cpus=0" in " ".join(read(path)["head_start_ray_commands"])


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_cluster_asks_for_a_token_and_keeps_its_dashboard_to_itself(path: Path) -> None:
    config = read(path)
    starts = [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_commands_of_a_cluster_are_sound_shell(path: Path, tmp_path: Path) -> None:
    commands = [
        command
        for key, value in read(path).items()
        if key.endswith("_commands")
        for command in value
    ]
    script = tmp_path / "commands.sh"
    script.write_text("\n".join(["#!/bin/bash", *commands, ""]))
    # $RAY_HEAD_IP is set by Ray.
    assert lint(tool("shellcheck"), "--exclude=SC2086,SC2154", str(script)) == ""


def test_one_version_of_ray_is_installed_everywhere() -> None:
    files = [*CLUSTERS, ROOT / "Dockerfile", KUBERAY / "raycluster.yaml"]
    versions = {path.name: RAY_PIN.findall(path.read_text()) for path in files}
    assert set(map(tuple, versions.values())) == {("2.60.0",)}, versions


def test_dockerfile_passes_its_linter() -> None:
    assert lint(tool("hadolint"), "--no-color", str(ROOT / "Dockerfile")) == ""


def test_image_has_a_user_without_rights_and_takes_its_versions_as_arguments() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 1000"]
    assert lines.index("USER 1000") < lines.index('ENTRYPOINT ["segtune"]')
    assert {line.split("=")[0] for line in lines if line.startswith("ARG ")} == {
        "ARG CUDA",
        "ARG RAY",
    }


def test_image_gets_every_file_that_it_copies_and_no_other() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_passes_shellcheck(path: Path) -> None:
    assert lint(tool("shellcheck"), "--external-sources", f"--source-path={ROOT}", str(path)) == ""


def test_claim_is_valid_and_for_all_nodes() -> None:
    claim = read(KUBERAY / "storage.yaml")
    kubernetes_validate.validate(claim, "1.31", strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


# The fields that our manifests use of KubeRay's resources, as its API reference has them (v1.7).
# Pod templates are checked with Kubernetes' own schema.
START_PARAMS = {"type": "object", "additionalProperties": TEXT}
HEAD = strict(
    ["rayStartParams", "template"],
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    rayStartParams=START_PARAMS,
    template=strict(["spec"], spec={"type": "object"}),
)
WORKERS = strict(
    ["groupName", "template"],
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=START_PARAMS,
    template=strict(["spec"], spec={"type": "object"}),
)
CLUSTER = strict(
    ["headGroupSpec"],
    rayVersion=TEXT,
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=strict([], version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    authOptions=strict(["mode"], mode={"enum": ["token", "disabled"]}),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = strict(
    ["entrypoint"],
    clusterSelector=START_PARAMS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypoint=TEXT,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return strict(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=strict(["name"], name=TEXT),
        spec=spec,
    )


def test_ray_cluster_on_kubernetes_is_valid() -> None:
    cluster = read(KUBERAY / "raycluster.yaml")
    jsonschema.validate(cluster, resource("RayCluster", CLUSTER))
    spec = cluster["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}} | group["template"]
        kubernetes_validate.validate(pod, "1.31", strict=True)
        (container,) = pod["spec"]["containers"]
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]


def test_ray_cluster_on_kubernetes_scales_from_none_and_has_a_token() -> None:
    spec = read(KUBERAY / "raycluster.yaml")["spec"]
    (gpu,) = spec["workerGroupSpecs"]
    assert spec["enableInTreeAutoscaling"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 8)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    claim = read(KUBERAY / "storage.yaml")["metadata"]["name"]
    assert claim in (KUBERAY / "raycluster.yaml").read_text()


def test_ray_job_is_valid_and_names_the_cluster() -> None:
    job = read(KUBERAY / "rayjob.yaml")
    jsonschema.validate(job, resource("RayJob", JOB))
    name = read(KUBERAY / "raycluster.yaml")["metadata"]["name"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": name}


def test_search_of_the_ray_job_is_a_command_that_segtune_takes() -> None:
    from segtune.search import argument_parser

    words = read(KUBERAY / "rayjob.yaml")["spec"]["entrypoint"].split()
    options = words[words.index("segtune.search") + 1 : -1]
    arguments = argument_parser().parse_args(options)
    assert (arguments.address, arguments.wait_for_nodes) == ("auto", 1800)
    for path in (arguments.space, arguments.config):
        assert (ROOT / Path(path).relative_to(Path.home())).is_file()
