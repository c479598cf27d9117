"""Writes what KServe needs to serve an engine on Kubernetes: a ServingRuntime and an InferenceService.

An init container pulls the engine into a Triton repository, so that it is verified before the server sees a byte.
KServe's own download (`storageUri`) would copy the whole registry and verify nothing: the registry's URI stands in that
container's environment instead. Triton then starts with explicit model control, and loads what lies there: an engine of
another version comes with the next pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Document = dict[str, Any]

REPOSITORY, TRUST = "/models", "/trust"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8080, 9000, 8002
MODEL_FORMAT = "enginegate-triton"
# A DNS label has 63, and KServe names the server `NAME-predictor`.
LONGEST_NAME = 53
MIG = "-mig-"
# As NVIDIA's GPU feature discovery labels nodes: the name that the driver gives, with dashes for spaces.
PRODUCT_LABEL = "nvidia.com/gpu.product"
PRODUCTS = {
    "t4": ("Tesla-T4",),
    "a10g": ("NVIDIA-A10G",),
    "l4": ("NVIDIA-L4",),
    "a100": (
        "NVIDIA-A100-SXM4-40GB",
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-A100-PCIE-40GB",
        "NVIDIA-A100-80GB-PCIe",
    ),
    "h100": ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL"),
    "h200": ("NVIDIA-H200", "NVIDIA-H200-NVL"),
}
# The tensors of models in Python lie there, and a pod has 64 MB of it unless more is asked for.
_SHARED_MEMORY = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
# Every folder but those whose name begins with a dot, which are not models.
_SERVE = f"""\
cd {REPOSITORY}
exec tritonserver --model-repository={REPOSITORY} --model-control-mode=explicit --http-port={HTTP_PORT} \
--grpc-port={GRPC_PORT} --metrics-port={METRICS_PORT} $(for model in */; do echo "--load-model=${{model%/}}"; done)
"""


@dataclass(frozen=True)
class KServeDeployment:
    """What is to be served, and on what.

    `registry` is `s3://bucket/prefix`. `image` has Triton, this project and its runtime of the target. `memory` and
    `cpu` are Kubernetes' quantities, for the server. `node_labels` take the place of the target's GPU names where
    nodes have labels of their own; `service_account` may read the registry; `trust_map` is a ConfigMap with the public
    keys that are trusted. `canary_percent` is what the newest revision gets of the traffic, the one before the rest,
    which KServe does in its mode on Knative alone (`is_knative`).

    Raises:
        InputError: the registry is a folder, which a pod cannot reach, or the name is too long for Kubernetes.
    """

    model: str
    target: str
    channel: str
    registry: str
    image: str
    registry_name: str | None = None
    memory: str = "8Gi"
    cpu: str = "2"
    node_labels: tuple[tuple[str, str], ...] = ()
    service_account: str | None = None
    trust_map: str | None = None
    canary_percent: float | None = None
    is_knative: bool = False

    def __post_init__(self) -> None:
        if "://" not in self.registry:
            raise InputError(
                f"the registry is the folder {self.registry}, which a pod cannot reach; set ENGINEGATE_REGISTRY to"
                " s3://bucket/prefix"
            )
        if len(self.name) > LONGEST_NAME:
            raise InputError(
                f"the name {self.name} has {len(self.name)} characters, and KServe takes {LONGEST_NAME}; give the model"
                " a shorter name"
            )

    @property
    def name(self) -> str:
        """Name of both objects: a DNS label, which a MIG slice's dot would not be."""
        return f"{self.model}-{self.target}".replace(".", "-")

    @property
    def gpu(self) -> dict[str, str]:
        """The device that a container asks for: nothing on the CPU, else a GPU or a MIG slice (strategy `mixed`)."""
        if self.target == "cpu":
            return {}
        _, _, profile = self.target.partition(MIG)
        return {f"nvidia.com/mig-{profile}" if profile else "nvidia.com/gpu": "1"}


def kserve_yaml(deployment: KServeDeployment) -> str:
    """Both objects as one YAML text, for `kubectl apply`."""
    documents = [serving_runtime(deployment), inference_service(deployment)]
    return str(yaml.safe_dump_all(documents, sort_keys=False, width=120))


def serving_runtime(deployment: KServeDeployment) -> Document:
    """The ServingRuntime (serving.kserve.io/v1alpha1): Triton, where it may run, and how one sees that it works."""
    spec: Document = {
        "annotations": {"prometheus.kserve.io/port": str(METRICS_PORT), "prometheus.kserve.io/path": "/metrics"},
        "supportedModelFormats": [{"name": MODEL_FORMAT, "version": "1", "autoSelect": False}],
        "protocolVersions": ["v2", "grpc-v2"],
        "multiModel": False,
        "containers": [_server(deployment)],
        "volumes": [{"name": "models", "emptyDir": {}}, _SHARED_MEMORY, *_trust_volume(deployment)],
        **_placement(deployment),
    }
    return _object("serving.kserve.io/v1alpha1", "ServingRuntime", deployment, spec)


def inference_service(deployment: KServeDeployment) -> Document:
    """The InferenceService (serving.kserve.io/v1beta1): the engine of the channel, pulled before the server starts."""
    share = deployment.canary_percent
    predictor: Document = {
        "minReplicas": 1,
        **({} if share is None else {"canaryTrafficPercent": int(share)}),
        **({"serviceAccountName": deployment.service_account} if deployment.service_account else {}),
        "initContainers": [_pull(deployment)],
        "model": {
            "modelFormat": {"name": MODEL_FORMAT, "version": "1"},
            "runtime": deployment.name,
            "protocolVersion": "v2",
        },
    }
    # Knative, KServe's other mode, takes init containers and empty folders only where its administrator lets it.
    found = _object("serving.kserve.io/v1beta1", "InferenceService", deployment, {"predictor": predictor})
    mode = "Serverless" if deployment.is_knative else "RawDeployment"
    found["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": mode}
    return found


def _object(version: str, kind: str, deployment: KServeDeployment, spec: Document) -> Document:
    labels = {
        "app.kubernetes.io/managed-by": "enginegate",
        "enginegate/model": deployment.model,
        "enginegate/target": deployment.target,
        "enginegate/channel": deployment.channel,
    }
    metadata = {"name": deployment.name, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _server(deployment: KServeDeployment) -> Document:
    return {
        "name": "kserve-container",  # KServe knows the server by it
        "image": deployment.image,
        "command": ["/bin/sh", "-ec"],
        "args": [_SERVE],
        "ports": [
            {"name": "h2c" if port == GRPC_PORT else name, "containerPort": port, "protocol": "TCP"}
            for name, port in (("http1", HTTP_PORT), ("h2c", GRPC_PORT), ("metrics", METRICS_PORT))
        ],
        "resources": _resources(deployment),
        # A load of TensorRT plans takes minutes at worst.
        "startupProbe": {**_probe("/v2/health/ready"), "periodSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {**_probe(f"/v2/models/{deployment.model}/ready"), "periodSeconds": 5},
        "livenessProbe": {**_probe("/v2/health/live"), "periodSeconds": 10, "failureThreshold": 3},
        "volumeMounts": [
            {"name": "models", "mountPath": REPOSITORY, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - the container's own
        ],
    }


def _pull(deployment: KServeDeployment) -> Document:
    """The init container; it sees the GPU, since it refuses an engine of another one."""
    environment = {
        "ENGINEGATE_REGISTRY": deployment.registry,
        **({"ENGINEGATE_REGISTRY_NAME": deployment.registry_name} if deployment.registry_name else {}),
        **({"ENGINEGATE_TRUST": TRUST} if deployment.trust_map else {}),
        "ENGINEGATE_HOME": "/tmp/enginegate",  # noqa: S108 - in a container of its own
    }
    where = ["--target", deployment.target, "--channel", deployment.channel, "--to", REPOSITORY]
    trust = [{"name": "trust", "mountPath": TRUST, "readOnly": True}] if deployment.trust_map else []
    return {
        "name": "enginegate-pull",
        "image": deployment.image,
        "command": ["enginegate"],
        "args": ["pull", deployment.model, *where, "--layout", "triton"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": _resources(deployment),
        "volumeMounts": [{"name": "models", "mountPath": REPOSITORY}, *trust],
    }


def _resources(deployment: KServeDeployment) -> Document:
    asked: Mapping[str, str] = {"cpu": deployment.cpu, "memory": deployment.memory, **deployment.gpu}
    return {"requests": dict(asked), "limits": {"memory": deployment.memory, **deployment.gpu}}


def _probe(path: str) -> Document:
    return {"httpGet": {"path": path, "port": HTTP_PORT}, "timeoutSeconds": 5}


def _trust_volume(deployment: KServeDeployment) -> list[Document]:
    return [{"name": "trust", "configMap": {"name": deployment.trust_map}}] if deployment.trust_map else []


def _placement(deployment: KServeDeployment) -> Document:
    """Which nodes may run it: by labels that were given, else those with a GPU of the target."""
    if deployment.node_labels:
        return {"nodeSelector": dict(deployment.node_labels)}
    gpu = deployment.target.partition(MIG)[0]
    if gpu == "cpu":
        return {}
    if len(PRODUCTS[gpu]) == 1:
        return {"nodeSelector": {PRODUCT_LABEL: PRODUCTS[gpu][0]}}
    # A GPU that is sold in several forms has several names, of which a node selector would take one.
    rule = {"key": PRODUCT_LABEL, "operator": "In", "values": list(PRODUCTS[gpu])}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
