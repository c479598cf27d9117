"""Compare's peak memory on a small engine and data of any number of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.process.context import StageContext
from tasks.records import Cell, EngineJob, ModuleArtifact, ReferenceArtifact, TypedModel
from tasks.samples.npz import save_shard, shard_paths
from tasks.specs import ModelSpec, Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.ingest import ingest
from tasks.store.local import LocalStore
from validation.policy import default_policy

if TYPE_CHECKING:
    from pathlib import Path

FEATURES, OUTPUTS = 64, 4
SPEC = ModelSpec.model_validate(
    {
        "name": "memory",
        "source": "model.py:build",
        "inputs": {"features": {"dtype": "float32", "shape": ["batch", FEATURES]}},
        "dims": {"batch": {"min": 1, "opt": 256, "max": 256}},
        "outputs": {"score": {"kind": "score", "range": [0, 1]}},
        "targets": ["cpu"],
        "precisions": ["fp32"],
        "validation": {"data": "data.npz"},
    }
)


def compare_peak_bytes(folder: Path, samples: int) -> int:
    """Largest resident memory, in bytes, of the child process that compares `samples` samples of four scores."""
    folder.mkdir(parents=True)
    context = StageContext(LocalStore(folder / "store"))
    random = np.random.default_rng(0)
    features = random.standard_normal((samples, FEATURES)).astype(np.float32)
    weights = (random.standard_normal((FEATURES, OUTPUTS)) / 8).astype(np.float32)
    levels = {"slice.level": np.arange(samples) % 6}
    np.savez(folder / "data.npz", features=features, **levels)
    data = ingest(context, SPEC, [folder / "data.npz"], "validation.data").result
    with context.store.scratch() as scratch:
        (scratch / "reference").mkdir()
        for number, path in enumerate(shard_paths(context.store.fetch(data.inputs, scratch / "inputs"))):
            with np.load(path) as shard:
                noise = random.normal(scale=0.001, size=(len(shard["features"]), OUTPUTS))
                score = 1 / (1 + np.exp(-shard["features"] @ weights)) + noise
            save_shard(scratch / "reference", number, {"score": score.astype(np.float32)})
        reference = ReferenceArtifact(outputs=context.store.put(scratch / "reference"))
        (scratch / "onnx").mkdir()
        onnx.save(_scorer(weights), scratch / "onnx" / "model.onnx")
        typed = TypedModel(onnx=context.store.put(scratch / "onnx"), precision=Precision.FP32, recipe={})
    job = EngineJob(
        cell=Cell(model="memory", target="cpu", precision=Precision.FP32, version="0" * 12),
        spec=SPEC,
        policy=default_policy(SPEC.output_specs(), Precision.FP32.value, data.slices),
        typed=typed,
        data=data,
        reference=reference,
        module=ModuleArtifact(files=typed.onnx, source=SPEC.source, weights=None),  # nobody times it
    )
    return compare_engine(context, job, build_engine(context, job).result).result.peak_memory_bytes


def _scorer(weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["score"]),
        ],
        "scorer",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", OUTPUTS])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
