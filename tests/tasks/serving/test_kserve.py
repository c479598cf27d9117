"""KServe's files, held against the published schema of KServe and Kubernetes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tasks.errors import InputError
from tasks.serving.kserve import PRODUCTS, KServeDeployment, inference_service, kserve_yaml, serving_runtime
from tasks.specs import TARGETS
from tests.tasks.published_schema import find_faults

if TYPE_CHECKING:
    from pathlib import Path

REGISTRY = "s3://engines/prod"


def deployment(target: str = "a100", **changes: Any) -> KServeDeployment:
    return KServeDeployment("essay-scorer", target, "production", REGISTRY, "registry.local/triton:1", **changes)


FULL = {
    "registry_name": "prod",
    "service_account": "engines",
    "trust_map": "engine-keys",
    "node_labels": (("pool", "gpu"),),
}


@pytest.mark.parametrize("target", [*TARGETS, "a100-mig-1g.5gb"])
@pytest.mark.parametrize("changes", [{}, FULL])
def test_both_objects_meet_the_published_schema(target: str, changes: dict[str, Any]) -> None:
    runtime, service = yaml.safe_load_all(kserve_yaml(deployment(target, **changes)))
    assert find_faults(runtime, "V1alpha1ServingRuntime") == []
    assert find_faults(service, "V1beta1InferenceService") == []


@pytest.mark.parametrize("percent", [0.0, 5.0, 100.0])
def test_a_rollout_s_share_is_that_of_the_newest_revision_on_knative(percent: float) -> None:
    service = inference_service(deployment(canary_percent=percent, is_knative=True))
    assert find_faults(service, "V1beta1InferenceService") == []
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == percent
    assert service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Serverless"}


def test_the_schema_finds_what_is_wrong() -> None:
    runtime = serving_runtime(deployment())
    (container,) = runtime["spec"]["containers"]
    container["readinessProbe"]["httpget"] = container["readinessProbe"].pop("httpGet")
    container["ports"][0]["containerPort"] = "8080"
    container.pop("name")
    runtime["spec"]["initContainers"] = []
    assert sorted(find_faults(runtime, "V1alpha1ServingRuntime")) == [
        ".spec.containers[0].name: missing",
        ".spec.containers[0].ports[0].containerPort: '8080' is no int",
        ".spec.containers[0].readinessProbe.httpget: unknown",
        ".spec.initContainers: unknown",
    ]


def test_every_target_with_a_gpu_has_the_names_of_its_nodes() -> None:
    assert set(PRODUCTS) == set(TARGETS) - {"cpu"}


@pytest.mark.parametrize(
    ("target", "device"),
    [("cpu", {}), ("t4", {"nvidia.com/gpu": "1"}), ("a100-mig-1g.5gb", {"nvidia.com/mig-1g.5gb": "1"})],
)
def test_server_and_pull_ask_for_the_target_s_device(target: str, device: dict[str, str]) -> None:
    (server,) = serving_runtime(deployment(target))["spec"]["containers"]
    (pull,) = inference_service(deployment(target))["spec"]["predictor"]["initContainers"]
    for container in (server, pull):
        assert {key: value for key, value in container["resources"]["limits"].items() if key != "memory"} == device


def test_nodes_are_those_of_the_target() -> None:
    assert serving_runtime(deployment("l4"))["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert "NVIDIA-A100-SXM4-40GB" in str(serving_runtime(deployment("a100"))["spec"]["affinity"])
    assert "nodeSelector" not in serving_runtime(deployment("cpu"))["spec"]
    given = serving_runtime(deployment("a100", node_labels=(("pool", "gpu"),)))["spec"]
    assert given["nodeSelector"] == {"pool": "gpu"}
    assert "affinity" not in given


def test_the_engine_is_pulled_from_the_registry_and_verified_before_triton_starts() -> None:
    predictor = inference_service(deployment(trust_map="engine-keys"))["spec"]["predictor"]
    (pull,) = predictor["initContainers"]
    where = ["--target", "a100", "--channel", "production", "--to", "/models"]
    assert [*pull["command"], *pull["args"]] == ["enginegate", "pull", "essay-scorer", *where, "--layout", "triton"]
    environment = {each["name"]: each["value"] for each in pull["env"]}
    assert (environment["ENGINEGATE_REGISTRY"], environment["ENGINEGATE_TRUST"]) == (REGISTRY, "/trust")
    assert "storageUri" not in predictor["model"], "KServe would copy the registry there, unverified"


def test_both_objects_find_each_other_by_a_name_that_kubernetes_takes() -> None:
    one = deployment("a100-mig-1g.5gb")
    runtime, service = serving_runtime(one), inference_service(one)
    assert runtime["metadata"]["name"] == "essay-scorer-a100-mig-1g-5gb"
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    formats = {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
    assert service["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats


def test_the_server_s_script_loads_every_model_and_no_hidden_folder(tmp_path: Path) -> None:
    for name in ("essay-scorer", "essay-scorer--7-3f2a91bc", ".enginegate"):
        (tmp_path / "models" / name).mkdir(parents=True)
    fake = tmp_path / "bin" / "tritonserver"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    (server,) = serving_runtime(deployment())["spec"]["containers"]
    script = server["args"][0].replace("/models", str(tmp_path / "models"))
    told = subprocess.run(
        [*server["command"], script], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
    ).stdout.splitlines()  # fmt: skip
    assert "--model-control-mode=explicit" in told
    assert sorted(line for line in told if line.startswith("--load-model")) == [
        "--load-model=essay-scorer",
        "--load-model=essay-scorer--7-3f2a91bc",
    ]


def test_a_registry_in_a_folder_is_refused() -> None:
    with pytest.raises(InputError, match="which a pod cannot reach; set ENGINEGATE_REGISTRY to s3://bucket/prefix"):
        KServeDeployment("m", "t4", "production", "/srv/registry", "image")


def test_a_name_that_kubernetes_would_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="has 55 characters, and KServe takes 53"):
        KServeDeployment("m" * 52, "t4", "production", REGISTRY, "image")
