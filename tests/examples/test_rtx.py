"""The examples as NVIDIA's builder of today takes them: FP16 and INT8, for every target that TensorRT-RTX builds for.

A Conformer takes it half a minute a build, so all of it runs in the long run alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.backends import trt_rtx
from tasks.backends.interface import BuildJob
from tasks.backends.trt_rtx import CAPABILITIES
from tasks.calibration.sets import read_set
from tasks.model.model_directory import read_model_directory
from tasks.process.context import StageContext
from tasks.specs import Precision
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.stages.ingest import ingest
from tasks.stages.witness import ask_rtx
from tasks.store.local import LocalStore
from tests.tasks.backends.rtx_entries import Builds, Built

if TYPE_CHECKING:
    from tasks.records import TypedModel

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = (Precision.FP16, Precision.INT8)
pytestmark = [
    pytest.mark.hardship(only=True),
    pytest.mark.skipif(trt_rtx.release_here() is None, reason="TensorRT-RTX is not installed; pip install '.[rtx]'"),
]


def job(context: StageContext, typed: TypedModel, folder: Path, example: str, target: str) -> BuildJob:
    spec = read_model_directory(ROOT / "examples" / example).spec
    (folder / "plan").mkdir(parents=True)
    return BuildJob(
        onnx=context.store.fetch((typed.half or typed).onnx, folder / "onnx") / "model.onnx",
        plan=folder / "plan",
        precision=typed.precision,
        inputs=spec.inputs,
        dims=spec.dims,
        settings=spec.build,
        capability=CAPABILITIES[target],
    )


@pytest.mark.parametrize("example", ["essay_scorer", "oral_scorer", "digit_reader"])
def test_an_example_is_taken_and_built_for_every_target(tmp_path: Path, example: str) -> None:
    context = StageContext(LocalStore(tmp_path / "store"), time_limit_s=1800)
    directory = read_model_directory(ROOT / "examples" / example)
    assert directory.calibration is not None
    data = ingest(context, directory.spec, directory.validation, "validation.data").result
    drawn = read_set(directory.calibration.path, tmp_path / "downloads").files
    calibration = ingest(context, directory.spec, drawn, "calibration.set").result
    exported = export_onnx(context, directory, data).result
    jobs = {}
    for precision in PRECISIONS:
        of_set = calibration if precision is Precision.INT8 else None
        typed = convert_precision(
            context, exported, precision, directory.spec, of_set, data=data, half=precision is Precision.INT8
        ).result
        assert (typed.half is not None) == (precision is Precision.INT8)
        assert ask_rtx(context, typed).result.takes_it
        for target in CAPABILITIES:
            name = f"{target}-{precision.value}"
            jobs[name] = job(context, typed, tmp_path / name, example, target)
    built = context.call_in_child("tests.tasks.backends.rtx_entries:build", Builds(jobs=jobs), Built, tmp_path)
    assert built.failed == {}
    assert built.sizes.keys() == jobs.keys()
