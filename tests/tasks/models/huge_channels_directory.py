"""Makes the model with one layer that INT8 destroys: as weights, as ONNX by hand, and as a whole model directory.

Three of 64 channels that the third block's `down` reads are 1000 times the others, and its weights for them are zero.
One scale for the whole activation then rounds all that counts to nothing. No other layer reads that activation.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from tasks.samples.npz import Arrays

Floats = NDArray[np.float32]

WIDTH, INNER, BLOCKS, FEATURES = 48, 64, 5, 24
LAYERS = 1 + 2 * BLOCKS
"""Layers that INT8 quantizes; the head has one channel and stays."""
BROKEN = "blocks.2.down"
HUGE = (7, 23, 50)
SPEC: dict[str, Any] = {
    "name": "huge-channels",
    "source": "huge_channels.py:build",
    "weights": "weights.safetensors",
    "inputs": {"features": {"dtype": "float32", "shape": ["batch", FEATURES]}},
    "dims": {"batch": {"min": 1, "opt": 8, "max": 32}},
    "outputs": {"score": {"kind": "score", "range": [0, 1]}},
    "targets": ["cpu"],
    "precisions": ["int8"],
    "calibration": {"set": "../calibration", "method": "minmax"},
    "precision_search": True,
    "validation": {"data": "validation.npz"},
    "export": {"opset": 17, "exporter": "torchscript"},
}


def make_samples(samples: int, seed: int) -> Arrays:
    """Inputs of the model."""
    return {"features": np.random.default_rng(seed).standard_normal((samples, FEATURES)).astype(np.float32)}


def make_weights() -> dict[str, Floats]:
    """The state dict: random, but for the huge channels, and a head that spreads the scores."""
    generator = np.random.default_rng(5)

    def linear(name: str, taken: int, given: int, gain: float) -> dict[str, Floats]:
        weight = generator.standard_normal((given, taken)) * gain / np.sqrt(taken)
        bias = generator.standard_normal(given) / 10
        return {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": bias.astype(np.float32)}

    weights = linear("first", FEATURES, WIDTH, 1.0)
    for block in range(BLOCKS):
        weights |= linear(f"blocks.{block}.up", WIDTH, INNER, 1.0)
        weights |= linear(f"blocks.{block}.down", INNER, WIDTH, 0.8)
    source = BROKEN.replace("down", "up")
    for end in ("weight", "bias"):
        weights[f"{source}.{end}"][list(HUGE)] *= 1000
    weights[f"{BROKEN}.weight"][:, list(HUGE)] = 0
    weights |= linear("head", WIDTH, 1, 1.0)
    raw = hidden_of(weights, make_samples(1000, seed=1)["features"]) @ weights["head.weight"].T
    weights["head.weight"] *= np.float32(1.5 / raw.std())
    weights["head.bias"] = np.asarray(-raw.mean(axis=0) * 1.5 / raw.std(), np.float32)
    return weights


def hidden_of(weights: dict[str, Floats], features: Floats) -> Floats:
    """What the head reads `[n, 48]`, by numpy."""
    hidden = features @ weights["first.weight"].T + weights["first.bias"]
    for block in range(BLOCKS):
        up, down = f"blocks.{block}.up", f"blocks.{block}.down"
        inner = np.maximum(hidden @ weights[f"{up}.weight"].T + weights[f"{up}.bias"], 0)
        hidden = hidden + inner @ weights[f"{down}.weight"].T + weights[f"{down}.bias"]
    return np.asarray(hidden)


def write_onnx(folder: Path) -> Path:
    """Write `model.onnx`, whose nodes have the names of the layers, without torch."""
    weights = make_weights()
    nodes = [_gemm("first", "features", "h0")]
    for block in range(BLOCKS):
        inner = f"blocks.{block}"
        nodes += [
            _gemm(f"{inner}.up", f"h{block}", f"u{block}"),
            helper.make_node("Relu", [f"u{block}"], [f"r{block}"], name=f"{inner}.relu"),
            _gemm(f"{inner}.down", f"r{block}", f"d{block}"),
            helper.make_node("Add", [f"h{block}", f"d{block}"], [f"h{block + 1}"], name=f"{inner}.add"),
        ]
    nodes += [
        _gemm("head", f"h{BLOCKS}", "logit"),
        helper.make_node("Sigmoid", ["logit"], ["column"], name="sigmoid"),
        helper.make_node("Squeeze", ["column", "one"], ["score"], name="squeeze"),
    ]
    graph = helper.make_graph(
        nodes,
        "huge_channels",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    return folder / "model.onnx"


def _gemm(layer: str, taken: str, given: str) -> onnx.NodeProto:
    # With the weights as PyTorch keeps them, transposed by the node.
    return helper.make_node("Gemm", [taken, f"{layer}.weight", f"{layer}.bias"], [given], name=layer, transB=1)


def write_directory(root: Path, *, validation: int = 2000, calibration: int = 128, **changes: Any) -> Path:
    """Write the model directory `root`/model, with its calibration set beside it; `changes` replace keys of its yaml.

    Returns the model directory, which `enginegate convert` takes.
    """
    folder, calibration_set = root / "model", root / "calibration"
    folder.mkdir(parents=True)
    calibration_set.mkdir()
    shutil.copy(Path(__file__).with_name("huge_channels.py"), folder)
    (folder / "model.yaml").write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
    save_file(make_weights(), folder / "weights.safetensors")
    np.savez(folder / "validation.npz", **make_samples(validation, seed=2))  # type: ignore[arg-type]
    np.savez(calibration_set / "set.npz", **make_samples(calibration, seed=3))  # type: ignore[arg-type]
    manifest = {
        "name": "huge-channels",
        "inputs": SPEC["inputs"],
        "source": "made by this test, as the validation data are, with another seed",
        "collected": {"from": date(2026, 11, 20), "to": date(2026, 11, 20)},
        "samples": calibration,
        "files": [
            {
                "path": "set.npz",
                "samples": calibration,
                "sha256": hashlib.sha256((calibration_set / "set.npz").read_bytes()).hexdigest(),
            }
        ],
    }
    (calibration_set / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder
