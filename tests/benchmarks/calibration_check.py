"""What the check of a calibration set takes: against 100,000 samples, and of the sets that are shipped."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper
from rows import Row

from tasks.calibration.interface import DataSet, MeasureRequest
from tasks.calibration.measure import measure_in_child
from tasks.declared import Dim, InputSpec
from tasks.process.child import ignore_progress
from tasks.samples.npz import save_shard
from tasks.specs import OutputDeclaration
from tasks.stages.compare import peak_memory_bytes

if TYPE_CHECKING:
    from numpy.random import Generator

SET, PRODUCTION, SHARD = 1000, 100_000, 500
FRAMES, CHANNELS, HIDDEN = 100, 80, 32
NOISES = np.array(["classroom", "quiet", "street"])
SECONDS, BYTES, SHIPPED_SECONDS = 60, 1e9, 5
SHIPPED = ("digits", "essays", "oral")
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """What a check took: wall and processor seconds, and the process's largest resident memory."""

    wall_s: float
    processor_s: float
    peak_bytes: int


def calibration_check(scratch: Path) -> list[Row]:
    """The check of a large sample of production, and `enginegate calibration check` of each covering set."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(_measure, _request(scratch).model_dump(mode="json")).result()
    what, load = f"check of {SET:,} against {PRODUCTION:,} samples", os.getloadavg()[0]
    measured = f"{cost.wall_s:.0f} s, {cost.processor_s:.0f} s of processor; load {load:.1f}"
    return [
        Row(what, measured, f"≤ {SECONDS} s", cost.wall_s <= SECONDS),
        Row(f"{what}: peak memory", f"{cost.peak_bytes / 1e9:.2f} GB", "≤ 1 GB", cost.peak_bytes <= BYTES),
        *(_shipped(name, scratch / "home") for name in SHIPPED),
    ]


def _measure(raw: dict[str, Any]) -> Cost:
    started = time.perf_counter()
    found = measure_in_child(raw, ignore_progress)
    wall_s = time.perf_counter() - started
    if not (found.features and found.ranges and found.run):
        raise SystemExit("the check compared nothing, so its cost means nothing")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Cost(wall_s, used.ru_utime + used.ru_stime, peak_memory_bytes())


def _request(scratch: Path) -> MeasureRequest:
    rng = np.random.default_rng(0)
    return MeasureRequest(
        calibration=_lay_out(scratch / "set", SET, rng),
        production=_lay_out(scratch / "production", PRODUCTION, rng),
        validation=_lay_out(scratch / "validation", SET, rng).inputs,
        inputs={
            "mel": InputSpec(dtype="float32", shape=("batch", "frames", CHANNELS)),
            "mask": InputSpec(dtype="float32", shape=("batch", "frames")),
        },
        batch_dim="batch",
        batch=Dim(min=1, opt=8, max=32),
        outputs={"score": OutputDeclaration.model_validate({"kind": "score", "range": [0, 1]})},
        onnx=_scorer(scratch / "model" / "onnx", rng),
        strata=("noise",),
    )


def _lay_out(folder: Path, samples: int, rng: Generator) -> DataSet:
    """Shards of clips of 60 to 100 frames in three kinds of noise, as the ingest stage leaves them."""
    inputs, annotations = folder / "inputs", folder / "annotations"
    for part in (inputs, annotations):
        part.mkdir(parents=True)
    for number in range(samples // SHARD):
        lengths = rng.integers(60, FRAMES + 1, SHARD)
        lengths[0] = FRAMES
        mask = (np.arange(FRAMES) < lengths[:, None]).astype(np.float32)
        noise = rng.integers(0, len(NOISES), SHARD)
        mel = rng.standard_normal((SHARD, FRAMES, CHANNELS), dtype=np.float32) + noise[:, None, None].astype(np.float32)
        mel *= mask[..., None]
        save_shard(inputs, number, {"mel": mel, "mask": mask})
        save_shard(annotations, number, {"slice.noise": NOISES[noise]})
    return DataSet(inputs=inputs, annotations=annotations, samples=samples)


def _scorer(folder: Path, rng: Generator) -> Path:
    folder.mkdir(parents=True)
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> scorer'
        f" (float[batch, frames, {CHANNELS}] mel, float[batch, frames] mask) => (float[batch] score) {{"
        " a = MatMul(mel, first)  b = Relu(a)  c = MatMul(b, second)  d = Relu(c)  e = ReduceMean<axes = [2],"
        " keepdims = 0>(d)  f = Mul(e, mask)  g = ReduceMean<axes = [1], keepdims = 0>(f)  score = Sigmoid(g) }"
    )
    shapes = {"first": (CHANNELS, HIDDEN), "second": (HIDDEN, HIDDEN)}
    for name, shape in shapes.items():
        weights = (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def _shipped(name: str, home: Path) -> Row:
    """A check of a set whose model's export is kept, with all data compared anew; and the same once more."""
    _check(name, home)
    _forget_checks(home)
    (anew_s, processor_s), (again_s, _) = _check(name, home), _check(name, home)
    measured = f"{anew_s:.1f} s, {processor_s:.1f} s of processor; unchanged {again_s:.1f} s"
    return Row(f"check of the shipped set {name}", measured, f"≤ {SHIPPED_SECONDS} s", anew_s <= SHIPPED_SECONDS)


def _check(name: str, home: Path) -> tuple[float, float]:
    """Wall and processor seconds of `enginegate calibration check`, which must pass."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "enginegate"),
            "calibration",
            "check",
            str(REPOSITORY / "calibration_sets" / name),
        ],
        env=os.environ | {"ENGINEGATE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"the check of {name} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _forget_checks(home: Path) -> None:
    for path in (home / "store" / "records" / "check").iterdir():
        path.unlink()
