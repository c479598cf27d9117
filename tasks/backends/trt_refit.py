"""Puts the weights of another ONNX file into plans that were built with BuilderFlag.REFIT. Runs in a child process.

TensorRT's own parser reads both files, and each weight goes to its layer by name and role, as NVIDIA's trtexec does it.
So what a parser makes of weights (8.6 folds those of a BatchNormalization into two that no initializer is called after)
comes from the parser that made it for the build, and nothing here has to know how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends import attention_plugin
from tasks.backends.trt_build import parse_onnx
from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_log import TrtLog, load_plugins
from tasks.backends.trt_plan import ATTENTION_LIBRARY, PlanIndex
from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.backends.interface import BuildJob, RefitBase

# The layers that hold weights: their class, and what it calls the weights of each role.
LAYERS = {
    "CONSTANT": ("IConstantLayer", {"CONSTANT": "weights"}),
    "CONVOLUTION": ("IConvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "DECONVOLUTION": ("IDeconvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "FULLY_CONNECTED": ("IFullyConnectedLayer", {"KERNEL": "kernel", "BIAS": "bias"}),  # 8.6 alone has these
    "SCALE": ("IScaleLayer", {"SCALE": "scale", "SHIFT": "shift"}),
}
UNTAKEN = {"bool", "uint8"}
"""Types of constants that no release takes new values of."""
NAMED = 3

Place = tuple[str, str]
"""A layer's name, and the role of one of its weights."""


def refit_plans(trt: Any, job: BuildJob, base: RefitBase) -> None:
    """Write the engine of `job` into its folder: the plans of `base` with the weights of the job's ONNX file.

    `trt` is the TensorRT module.

    Raises:
        StageError: a plan cannot be loaded or refitted, or it holds a weight that differs where none can be set.
    """
    log, index = TrtLog(trt), PlanIndex.read(base.plan)
    plugins = [base.plan / name for name in index.plugins]
    load_plugins(trt, log, plugins)
    graphs = [base.onnx, job.onnx]
    if ATTENTION_LIBRARY in {plugin.name for plugin in plugins}:
        places = [job.plan.parent / f"attention-{number}" for number in range(len(graphs))]
        graphs = [attention_plugin.fused_graph(graph, job, place) for graph, place in zip(graphs, places, strict=True)]
    networks = [network_of(trt, log, graph) for graph in graphs]
    before, after = (weights_of(trt, network) for network in networks)
    changed = changed_weights(before, after)
    for profile in index.profiles:
        plan = _refit(trt, log, (base.plan / profile.file).read_bytes(), after, changed)
        (job.plan / profile.file).write_bytes(plan)
    index.write(job.plan, plugins)
    del networks  # their weights had to stay


def network_of(trt: Any, log: TrtLog, onnx: Path) -> Any:
    """The network of an ONNX file, read as a build does.

    Raises:
        InputError: TensorRT does not take it.
    """
    network = trt.Builder(log.logger).create_network(dialect_of(trt).network_flags)
    parse_onnx(trt, log, network, onnx)
    return network


def weights_of(trt: Any, network: Any) -> dict[Place, Any]:
    """The weights of a network that are not empty: arrays, or TensorRT's Weights of a type that NumPy lacks.

    They lie in the network's memory.

    Raises:
        StageError: two layers have one name, and other weights.
    """
    found: dict[Place, Any] = {}
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type.name not in LAYERS:
            continue
        name, roles = LAYERS[layer.type.name]
        layer.__class__ = getattr(trt, name)  # the bindings give a layer of the base class
        for role, attribute in roles.items():
            value = getattr(layer, attribute)
            if value is None or not value.size:
                continue
            if isinstance(value, np.ndarray):  # of stride 0 where bindings of 8.6 meet NumPy 2
                value = np.lib.stride_tricks.as_strided(value, value.shape, (value.itemsize,))
            if (layer.name, role) in found and not _same(found[layer.name, role], value):
                raise StageError(f"two layers of the network are called {layer.name}; build the engine")
            found[layer.name, role] = value
    return found


def changed_weights(before: dict[Place, Any], after: dict[Place, Any]) -> set[Place]:
    """Where the weights of two networks differ; one that cannot be read is taken to.

    Raises:
        StageError: the networks have other places, or no weight differs: what does lies elsewhere.
    """
    if before.keys() != after.keys():
        raise StageError("TensorRT makes other layers of this graph than of the one that was built; build the engine")
    changed = {place for place, value in after.items() if not _same(before[place], value)}
    if not changed:  # though the files differ, or there would be nothing to refit
        raise StageError("TensorRT keeps what differs apart from its weights; build the engine")
    return changed


def _same(before: Any, after: Any) -> bool:
    return isinstance(after, np.ndarray) and np.array_equal(before, after, equal_nan=after.dtype.kind == "f")


def _refit(trt: Any, log: TrtLog, plan: bytes, weights: dict[Place, Any], changed: set[Place]) -> bytes:
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    if engine is None or not engine.refittable:
        raise StageError(f"TensorRT {trt.__version__} cannot refit the plan that was built before: {log.errors()}")
    refitter = trt.Refitter(engine, log.logger)
    layers, roles = refitter.get_all()
    places = {(layer, role.name): role for layer, role in zip(layers, roles, strict=True)}
    _refuse(changed - places.keys(), "the plan holds values that differ where none can be set")
    kept = []  # TensorRT reads them when all are set
    for place, role in places.items():
        if place not in weights or str(getattr(weights[place], "dtype", "")) in UNTAKEN:
            continue
        value = weights[place]
        kept.append(trt.Weights(value) if isinstance(value, np.ndarray) else value)
        if not refitter.set_weights(place[0], role, kept[-1]):
            raise StageError(f"TensorRT takes no other {place[1]} of layer {place[0]}: {log.errors()}")
    _refuse(((layer, role.name) for layer, role in zip(*refitter.get_missing(), strict=True)), "weights are missing")
    if not refitter.refit_cuda_engine():
        raise StageError(f"TensorRT {trt.__version__} cannot refit the plan: {log.errors()}")
    return bytes(engine.serialize())


def _refuse(places: Iterable[Place], why: str) -> None:
    """Give up on the plan where there are such places."""
    found = sorted(f"{layer} ({role})" for layer, role in places)
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise StageError(f"{why}: {', '.join(found[:NAMED])}{more}")
