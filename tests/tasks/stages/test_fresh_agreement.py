from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.declared import Dim
from tasks.fresh_records import FreshAgreement, FreshArtifact, FreshFigure
from tasks.process.child import ignore_progress
from tasks.records import ReferenceArtifact
from tasks.release.smoke import SmokeSource, take_smoke
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.specs import OutputDeclaration, Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.fresh_agreement import (
    COSINE,
    DISAGREEMENT,
    LIMITS,
    MEAN_ERROR,
    RELATIVE_L2,
    VARIATION,
    TryRequest,
    find_disagreements,
    measure_of,
    run_in_child,
)
from tests.tasks.tiny import SCORER, job, make_features, put_data, put_model, put_shards, score
from validation.outputs import OutputKind
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineJob
    from tasks.samples.npz import Arrays
    from tests.tasks.in_process import InProcess

DRAWS = ("drawn at random from the ranges seen", "mixed from two validation samples each")
# Right on what it was validated on, whose first feature is at most 4, and upside down elsewhere.
ROTE = (
    "p = Mul(features, w)  t = ReduceSum<keepdims=0>(p, one)  right = Sigmoid(t)  wrong = Sub(c, right)"
    "  known = ReduceMax<keepdims=0>(features, one)  within = LessOrEqual(known, four)"
    "  score = Where(within, right, wrong)"
)


def fresh_of(here: InProcess, inputs: list[np.ndarray[Any, Any]]) -> FreshArtifact:
    return FreshArtifact(
        inputs=put_shards(here.store, [{"features": each} for each in inputs]),
        outputs=put_shards(here.store, [{"score": score(each)} for each in inputs]),
        draws=DRAWS[: len(inputs)],
        samples=sum(map(len, inputs)),
        refused=(),
        difference=0.0,
    )


def job_of(here: InProcess, folder: Path, body: str) -> EngineJob:
    features = np.clip(make_features(400), -3.5, 3.5)
    fresh = fresh_of(here, [make_features(32, seed=5) + 3, make_features(32, seed=6)])
    reference = ReferenceArtifact(outputs=put_shards(here.store, [{"score": score(features)}]), fresh=fresh)
    typed = put_model(here.store, folder, body=body)
    return job(here.store, typed, data=put_data(here.store, [{"features": features}]), reference=reference)


def test_an_engine_that_is_right_on_the_validation_samples_alone_fails_with_a_sentence_that_says_so(
    here: InProcess, tmp_path: Path
) -> None:
    constants = f"four = Constant<value = float {{4.0}}>()  c = Constant<value = float {{1.0}}>()  {ROTE}"
    work = job_of(here, tmp_path / "onnx", constants)
    compared = compare_engine(here, work, build_engine(here, work).result).result
    assert compared.fresh is not None
    verdict = decide(work.policy, compared.comparison)
    assert verdict.outcome is Outcome.FAIL
    assert all(rule.outcome is not Outcome.FAIL for rule in verdict.rules), "the validation samples show nothing"
    (defect,) = verdict.defects
    assert defect.startswith("output score: differs from PyTorch on inputs that are in no file: on 32 samples drawn")
    assert "and 0.005 is the most at fp32" in defect


def test_a_right_engine_passes_and_its_outputs_on_fresh_inputs_become_smoke_samples(
    here: InProcess, tmp_path: Path
) -> None:
    work = job_of(here, tmp_path / "onnx", SCORER)
    engine = build_engine(here, work).result
    compared = compare_engine(here, work, engine).result
    assert compared.comparison.defects == ()
    assert compared.fresh is not None
    assert work.reference.fresh is not None
    assert compare_engine(here, work, engine).cached
    smoke = take_smoke(
        here.store,
        SmokeSource(work.data.inputs, work.reference.outputs, compared.outputs),
        SmokeSource(work.reference.fresh.inputs, work.reference.fresh.outputs, compared.fresh.outputs),
    )
    assert smoke.samples == 12
    kept = [load_arrays(path)["features"] for path in shard_paths(here.store.fetch(smoke.inputs, tmp_path / "smoke"))]
    np.testing.assert_array_equal(kept[1], (make_features(32, seed=5) + 3)[:4])


def test_a_job_of_before_has_no_fresh_inputs_and_is_compared_as_it_was(here: InProcess, tmp_path: Path) -> None:
    work = job_of(here, tmp_path / "onnx", SCORER)
    old = work.model_copy(update={"reference": ReferenceArtifact(outputs=work.reference.outputs)})
    compared = compare_engine(here, old, build_engine(here, old).result).result
    assert (compared.fresh, compared.comparison.defects) == (None, ())


# Figures


def numbers_of(values: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def figures(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    reference: Any,
    found: Any,
    *,
    precision: str = "fp16",
    mask: Any = None,
    **output: Any,
) -> tuple[FreshFigure, ...]:
    """What is measured of an engine that gives `found` where the reference gave `reference`."""

    class Scripted:
        def load(self, _plan: Path) -> Scripted:
            return self

        def run(self, _feeds: Arrays) -> Arrays:
            return {} if found is None else {"y": numbers_of(found)}

    for name in ("inputs", "reference", "candidate"):
        (folder / name).mkdir()
    rows = len(reference)
    inputs = {"x": np.zeros((rows, 2), np.float32)} | ({} if mask is None else {"mask": np.asarray(mask)})
    save_shard(folder / "inputs", 0, inputs)
    save_shard(folder / "reference", 0, {"y": numbers_of(reference)})
    monkeypatch.setattr("tasks.stages.fresh_agreement.backend_of", lambda _runtime: Scripted())
    declared = OutputDeclaration.model_validate(output | ({} if mask is None else {"mask": "mask"}))
    request = TryRequest(
        runtime="onnxruntime", precision=Precision(precision), plan=folder, inputs=folder / "inputs",
        reference=folder / "reference", candidate=folder / "candidate", draws=DRAWS[:1],
        batch=Dim(min=1, opt=rows, max=rows), outputs={"y": declared},
    )  # fmt: skip
    return run_in_child(request.model_dump(mode="json"), ignore_progress).figures


@pytest.mark.parametrize(
    ("output", "reference", "found", "measure", "value"),
    [
        ({"kind": "score", "range": [0, 10]}, [1.0, 2.0], [1.4, 2.4], MEAN_ERROR, 0.04),
        ({"kind": "score"}, [3.0, 4.0], [3.0, 4.5], RELATIVE_L2, 0.1),
        ({"kind": "tensor"}, [[0.0], [0.0]], [[0.0], [0.0]], RELATIVE_L2, 0.0),
        ({"kind": "probabilities"}, [[0.5, 0.5], [1, 0]], [[0.42, 0.58], [1, 0]], VARIATION, 0.04),
        ({"kind": "probabilities"}, [0.5, 0.5], [0.42, 0.5], VARIATION, 0.04),
        ({"kind": "logits"}, [[1000.0, 0.0]], [[0.0, 1000.0]], VARIATION, 1.0),
        ({"kind": "logits"}, [0.0], [1000.0], VARIATION, 0.5),
        ({"kind": "embedding"}, [[1.0, 0.0]], [[0.0, 2.0]], COSINE, 1.0),
        ({"kind": "embedding"}, [[0.0, 0.0], [1, 1]], [[0.0, 0.0], [2, 2]], COSINE, 0.0),
        ({"kind": "logits", "axis": 1}, [[[1000.0], [0.0]]], [[[0.0], [1000.0]]], VARIATION, 1.0),
        ({"kind": "language"}, [[[1000.0, 0.0]]], [[[0.0, 1000.0]]], VARIATION, 1.0),
        ({"kind": "labels"}, [[2**60, 1]], [[2**60 + 1, 1]], DISAGREEMENT, 0.5),
        ({"kind": "labels"}, [True, True], [True, True], DISAGREEMENT, 0.0),
        ({"kind": "labels"}, [3, 4], [3.0, 4.0], DISAGREEMENT, 0.0),
        ({"kind": "multilabel"}, [[0.4, 0.6]], [[0.6, 0.6]], DISAGREEMENT, 0.5),
        ({"kind": "multilabel", "threshold": 0.2}, [[0.4, 0.6]], [[0.6, 0.6]], DISAGREEMENT, 0.0),
        ({"kind": "segmentation", "axis": 1}, [[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 2], [0, 1]]], DISAGREEMENT, 0.5),
        ({"kind": "segmentation"}, [[1, 2]], [[1, 3]], DISAGREEMENT, 0.5),
        ({"kind": "boxes"}, [[[0.0, 0, 1, 1, 0.9]]], [[[0.0, 0, 1, 1, 0.1]]], DISAGREEMENT, 1.0),
        ({"kind": "ctc", "axis": 2}, [[[0.0, 1.0], [1, 0]]], [[[0.0, 3.0], [0, 1]]], DISAGREEMENT, 0.5),
    ],
)
def test_each_kind_has_its_figure(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    output: Any,
    reference: Any,
    found: Any,
    measure: str,
    value: float,
) -> None:
    (figure,) = figures(monkeypatch, tmp_path, reference, found, **output)
    assert (figure.measure, figure.limit) == (measure, LIMITS[measure][1])
    assert figure.value == pytest.approx(value, abs=1e-6)
    assert figure.ok == (value <= figure.limit)


def test_every_kind_has_limits_that_rise_from_fp32_to_int8() -> None:
    for limits in LIMITS.values():
        assert list(limits) == sorted(limits)
    assert {measure_of(OutputDeclaration.model_validate({"kind": kind})) for kind in OutputKind} < set(LIMITS)


@pytest.mark.parametrize("found", [None, [[1.0, 2.0]] * 2, [1.0, float("nan")], [1.0, float("inf")]])
def test_what_cannot_be_compared_is_no_agreement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Any) -> None:
    (figure,) = figures(monkeypatch, tmp_path, [1.0, 2.0], found, kind="tensor")
    assert (figure.value, figure.ok) == (None, False)


def test_an_error_beside_a_reference_of_zeros_is_no_agreement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (figure,) = figures(monkeypatch, tmp_path, [0.0, 0.0], [0.0, 1e-3], kind="tensor")
    assert not figure.ok
    assert figure.value is not None
    assert math.isfinite(figure.value)


def test_what_a_mask_hides_is_not_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reference, found = [[[1.0], [1.0]]] * 2, [[[1.0], [float("nan")]], [[1.0], [9.0]]]
    (figure,) = figures(monkeypatch, tmp_path, reference, found, kind="tensor", mask=[[1, 0]] * 2)
    assert (figure.value, figure.ok) == (0.0, True)


def test_the_worst_way_of_each_output_is_told(here: InProcess) -> None:
    def figure(output: str, draw: str, value: float | None) -> FreshFigure:
        return FreshFigure(output=output, draw=draw, samples=8, measure=MEAN_ERROR, value=value, limit=0.1)

    found = (
        figure("a", "drawn", 0.2),
        figure("a", "mixed", 0.4),
        figure("b", "drawn", 0.1),
        figure("c", "mixed", None),
    )
    agreement = FreshAgreement(outputs=put_shards(here.store, []), figures=found)
    first, second = find_disagreements(agreement, Precision.INT8)
    assert "output a: " in first
    assert "on 8 samples mixed, mean |error| as a share of the range is 0.4, and 0.1 is the most at int8" in first
    assert "output c: " in second
    assert "it gives NaN, Inf, nothing or another shape" in second
