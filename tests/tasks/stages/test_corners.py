from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.errors import StageError
from tasks.samples.npz import save_shard
from tasks.specs import Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.corners import run_at_corners
from tasks.stages.fresh_agreement import find_disagreements
from tests.tasks.stages.test_fresh_agreement import job_of
from tests.tasks.tiny import SCORER, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.samples.npz import Arrays
    from tests.tasks.in_process import InProcess

SPEC = {
    "inputs": {"wave": {"dtype": "float32", "shape": ["batch", "time"]}},
    "dims": {"batch": {"min": 1, "opt": 2, "max": 5}, "time": {"min": 3, "opt": 4, "max": 9}},
}


class Recorder:
    """An engine that gives what it is given."""

    def __init__(self, longest: int = 9) -> None:
        self.longest, self.shapes = longest, set[tuple[int, ...]]()

    def run(self, feeds: Arrays) -> Arrays:
        if feeds["wave"].shape[1] > self.longest:
            raise RuntimeError("Shape mismatch attempting to re-use buffer")
        self.shapes.add(feeds["wave"].shape)
        return {"y": feeds["wave"]}


def corners(folder: Path, engine: Recorder, lengths: tuple[int, ...] = (3, 4, 7, 9)) -> list[str]:
    spec = tiny_spec(**SPEC)
    for number, length in enumerate(lengths):
        rows = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        for name, kept in (("inputs", {"wave": rows}), ("candidate", {"y": rows})):
            (folder / name).mkdir(exist_ok=True)
            save_shard(folder / name, number, kept)
    runs = list(run_at_corners(engine, spec.inputs, spec.dims, folder / "inputs", folder / "candidate"))  # type: ignore[arg-type]
    assert all(np.array_equal(run.expected["y"], run.found["y"]) for run in runs)
    return [run.way for run in runs]


def test_an_engine_runs_at_every_corner_of_dims_and_between(tmp_path: Path) -> None:
    engine = Recorder()
    ways = corners(tmp_path, engine)
    assert {(1, 3), (2, 4), (5, 9), (1, 4), (5, 4), (2, 3), (2, 9), (3, 7)} == engine.shapes
    assert "repeated to batch=5,time=9" in ways


def test_an_engine_that_does_not_run_at_a_length_within_dims_is_told_with_the_shape(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"does not run at batch=5,time=9, within dims: Shape mismatch"):
        corners(tmp_path, Recorder(longest=8))


def test_lengths_that_the_module_does_not_take_are_left_out(tmp_path: Path) -> None:
    engine = Recorder()
    corners(tmp_path, engine, lengths=(4,))
    assert {shape[1] for shape in engine.shapes} == {4}


def test_an_engine_that_mixes_up_a_full_batch_fails(here: InProcess, tmp_path: Path) -> None:
    """Right in batches of 8, as the samples are run, and wrong in the batch of 16 that dims promise too."""
    mixed = SCORER.replace("score", "s") + (
        " size = Shape<end=1>(features) ten = Constant<value_ints=[10]>() large = Greater(size, ten)"
        " c = Constant<value_float=1.0>() wrong = Sub(c, s) score = Where(large, wrong, s)"
    )
    work = job_of(here, tmp_path / "onnx", mixed)
    compared = compare_engine(here, work, build_engine(here, work).result).result
    assert compared.fresh is not None
    (found,) = find_disagreements(compared.fresh, Precision.FP32)
    assert found.startswith(
        "output score: differs from itself in batches of 8 on inputs that are in no file: on 16 samples"
    )
    assert found in compared.comparison.defects
