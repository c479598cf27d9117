from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest

from tasks.backends.ort import OnnxRuntimeBackend
from tasks.declared import Dim
from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.records import ReferenceArtifact, TypedModel
from tasks.samples.feeds import run_shard
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.specs import Precision
from tasks.stages.build import build_engine
from tasks.stages.compare import (
    MeasureRequest,
    RunRequest,
    compare_engine,
    measure_in_child,
    peak_memory_bytes,
    run_in_child,
)
from tasks.store.local import LocalStore
from tests.tasks.tiny import (
    SCORER,
    build_job,
    job,
    make_features,
    put,
    put_data,
    put_model,
    put_shards,
    score,
    tiny_policy,
    tiny_spec,
    write_onnx,
)
from validation.policy import PerformanceRule, Policy, Rule
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import BuiltEngine, EngineJob
    from tasks.samples.npz import Arrays
    from tests.tasks.in_process import InProcess
    from validation.comparison import ComparisonResult

SAMPLES = 350
BATCH = {"min": 1, "opt": 8, "max": 16}


def compare(
    folder: Path,
    *,
    cuts: Sequence[int] = (100,),
    batch: dict[str, int] = BATCH,
    kind: str = "score",
    slices: Sequence[str] | None = None,
    **graph: str,
) -> ComparisonResult:
    """Compare a graph with the scorer on 350 samples in shards that end at `cuts`, in this process."""
    folder.mkdir(exist_ok=True)
    spec = tiny_spec(outputs={"score": {"kind": kind}})
    folders = {name: folder / name for name in ("plan", "inputs", "annotations", "reference", "candidate")}
    for path in folders.values():
        path.mkdir()
    made = build_job(write_onnx(folder / "onnx", **graph), folders["plan"])
    OnnxRuntimeBackend().build(made, ignore_progress)
    features = make_features(SAMPLES)
    labels = np.array(slices if slices is not None else ["all"] * SAMPLES)
    for number, rows in enumerate(np.split(np.arange(SAMPLES), cuts)):
        save_shard(folders["inputs"], number, {"features": features[rows]})
        save_shard(folders["annotations"], number, {"label": rows, "slice.group": labels[rows]})
        save_shard(folders["reference"], number, {"score": score(features[rows])})
    run = RunRequest(
        runtime="onnxruntime", **{name: folders[name] for name in ("plan", "inputs", "candidate")}, batch=Dim(**batch)
    )
    steps: list[tuple[int, int]] = []
    run_in_child(run.model_dump(mode="json"), lambda done, total: steps.append((done, total)))
    measure = MeasureRequest(
        **{name: folders[name] for name in ("reference", "candidate", "annotations")},
        inputs=None,
        outputs=spec.outputs,
        slices={},
        confidence=0.95,
        resamples=200,
    )
    reply = measure_in_child(measure.model_dump(mode="json"), lambda done, total: steps.append((done, total)))
    shards = len(cuts) + 1
    assert steps == [(number + 1, shards) for number in range(shards)] * 2
    assert [path.name for path in shard_paths(folders["candidate"])] == [f"{n:05d}.npz" for n in range(shards)]
    return reply.comparison


def verdict(result: ComparisonResult) -> Outcome:
    return decide(replace(tiny_policy(), resamples=200), result).outcome


def values(result: ComparisonResult) -> dict[str, float | None]:
    return {measured.metric: measured.value for measured in result.measurements}


def test_the_same_function_passes(tmp_path: Path) -> None:
    result = compare(tmp_path / "c")
    assert result.samples == SAMPLES
    assert result.defects == ()
    found = values(result)
    assert found["mae"] is not None
    assert found["mae"] < 1e-6
    assert result.slices[0].slice == "group"
    assert result.slices[0].n == SAMPLES


def test_another_function_is_measured_as_numpy_does(tmp_path: Path) -> None:
    result = compare(tmp_path / "c", body=SCORER.replace("score =", "s =") + " score = Mul(s, s)")
    reference = score(make_features(SAMPLES)).astype(np.float64)
    found = values(result)
    assert found["mae"] == pytest.approx(np.abs(reference - reference**2).mean(), rel=1e-5)
    assert found["max_abs"] == pytest.approx(np.abs(reference - reference**2).max(), rel=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(reference, reference**2)[0, 1], rel=1e-6)
    assert verdict(result) is Outcome.FAIL


NOT_A_NUMBER = SCORER.replace("score =", "s =") + " score = Log(t)"
INFINITE = SCORER.replace("score =", "s =") + " z = Sub(s, s) score = Div(s, z)"


@pytest.mark.parametrize(("body", "words"), [(NOT_A_NUMBER, "NaN, Inf"), (INFINITE, "NaN, Inf")], ids=["NaN", "Inf"])
def test_a_candidate_that_is_not_finite_fails_and_the_samples_are_named(tmp_path: Path, body: str, words: str) -> None:
    result = compare(tmp_path / "c", body=body)
    (defect,) = result.defects
    assert defect.startswith("score: the candidate has ")
    assert words in defect
    assert verdict(result) is Outcome.FAIL


WRONG_SHAPES = {
    "a column too many": ("float[batch,1] score", "p = Mul(features, w) score = ReduceSum<keepdims=1>(p, one)"),
    "columns": ("float[batch,4] score", "score = Mul(features, w)"),
    "twice the rows": ("float[rows] score", SCORER.replace("score =", "s =") + " score = Concat<axis=0>(s, s)"),
    "a row too many": (
        "float[rows] score",
        SCORER.replace("score =", "s =") + " o = Constant<value_floats=[0.5]>() score = Concat<axis=0>(s, o)",
    ),
    "one row": ("float[one_row] score", SCORER.replace("score =", "s =") + " score = ReduceMax<keepdims=1>(s)"),
    "no row": (
        "float[rows] score",
        SCORER.replace("score =", "s =")
        + " z = Constant<value_ints=[0]>() i = Constant<value_ints=[0]>() score = Slice(s, z, i)",
    ),
}


@pytest.mark.parametrize(("outputs", "body"), WRONG_SHAPES.values(), ids=WRONG_SHAPES)
@pytest.mark.parametrize("opt", [2, 8])
def test_a_candidate_of_a_wrong_shape_fails_and_does_not_crash(
    tmp_path: Path, outputs: str, body: str, opt: int
) -> None:
    result = compare(tmp_path / "c", outputs=outputs, body=body, batch={"min": 1, "opt": opt, "max": 16})
    assert result.defects
    assert result.samples == SAMPLES
    assert verdict(result) is Outcome.FAIL


def test_a_candidate_without_an_output_fails(tmp_path: Path) -> None:
    result = compare(tmp_path / "c", outputs="float[batch] scores", body=SCORER.replace("score =", "scores ="))
    assert [defect.partition(" (")[0] for defect in result.defects] == [
        "score: the candidate lacks this output",
        "scores: the candidate has this output, which is not declared",
    ]
    assert verdict(result) is Outcome.FAIL


@pytest.mark.parametrize("kind", ["score", "tensor"])
@pytest.mark.parametrize("cuts", [(), (1,), (100, 101, 349), tuple(range(10, 350, 10))], ids=len)
def test_the_result_does_not_depend_on_the_shards(tmp_path: Path, kind: str, cuts: tuple[int, ...]) -> None:
    body = SCORER.replace("score =", "s =") + " score = Mul(s, s)"
    slices = ["odd" if number % 2 else "even" for number in range(SAMPLES)]
    whole = compare(tmp_path / "whole", cuts=(175,), kind=kind, slices=slices, body=body)
    parts = compare(tmp_path / "parts", cuts=cuts, kind=kind, slices=slices, body=body)
    assert parts.samples == whole.samples
    assert parts.measurements == whole.measurements, "to the last digit"
    assert [(s.value, s.n) for s in parts.slices] == [("even", 175), ("odd", 175)]
    assert [worst.index for worst in parts.worst] == [worst.index for worst in whole.worst]


@pytest.mark.parametrize(
    "batch",
    [{"min": 1, "opt": 7, "max": 7}, {"min": 6, "opt": 7, "max": 9}, {"min": 64, "opt": 64, "max": 64}],
    ids=str,
)
def test_a_last_partial_batch_is_filled_up_and_only_real_samples_count(tmp_path: Path, batch: dict[str, int]) -> None:
    result = compare(tmp_path / "c", cuts=(100, 101), batch=batch)
    assert (result.samples, result.defects) == (SAMPLES, ())
    assert {measured.n for measured in result.measurements} == {SAMPLES}
    found = values(result)["max_abs"]
    assert found is not None
    assert found < 1e-6


class Scripted:
    """An engine that gives what a function makes of the features."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def run(self, feeds: Arrays) -> Arrays:
        return {"score": self.function(feeds["features"])}


def test_rows_that_only_filled_the_batch_are_dropped() -> None:
    features = make_features(5)
    sizes: list[int] = []

    def first(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(batch))
        return np.asarray(batch[:, 0])

    found = run_shard(Scripted(first).run, {"features": features}, Dim(min=4, opt=4, max=4))
    assert sizes == [4, 4]
    np.testing.assert_array_equal(found["score"], features[:, 0])


@pytest.mark.parametrize("function", [lambda batch: batch.T, lambda batch: np.float32(batch.mean())])
def test_outputs_that_cannot_be_joined_are_a_failed_stage(function: Any) -> None:
    with pytest.raises(StageError, match="cannot be joined over batches"):
        run_shard(Scripted(function).run, {"features": make_features(5)}, Dim(min=1, opt=4, max=4))


def test_a_whole_comparison_in_a_child_is_stored_and_found_again(context: StageContext, tmp_path: Path) -> None:
    spec = tiny_spec()
    shards = [{"features": make_features(n, seed=n)} for n in (100, 150)]
    data = put_data(
        context.store, shards, [{"slice.part": np.full(len(s["features"]), i)} for i, s in enumerate(shards)]
    )
    outputs = [{"score": score(shard["features"])} for shard in shards]
    reference = ReferenceArtifact(outputs=put_shards(context.store, outputs))
    work = job(context.store, put_model(context.store, tmp_path / "onnx"), spec=spec, data=data, reference=reference)
    engine = build_engine(context, work).result
    steps: list[tuple[int, int]] = []
    watched = replace(context, on_progress=lambda done, total: steps.append((done, total)))
    first = compare_engine(watched, work, engine)
    again = compare_engine(context, work, engine)
    assert (first.cached, again.cached) == (False, True)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)], "the engine runs, then its outputs are measured"
    assert again.result == first.result
    assert [(s.value, s.n) for s in first.result.comparison.slices] == [("0", 100), ("1", 150)]
    assert first.result.peak_memory_bytes > 1 << 20
    folder = context.store.fetch(first.result.outputs, tmp_path / "candidate")
    for path, expected in zip(shard_paths(folder), outputs, strict=True):
        np.testing.assert_allclose(load_arrays(path)["score"], expected["score"], atol=1e-6)


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory_bytes()
    block = np.ones(40_000_000 // 8)
    assert peak_memory_bytes() >= before
    assert block.nbytes < peak_memory_bytes()


class Bucketed:
    """A backend whose engine has a plan for every bucket of the batch, and computes nothing."""

    def __init__(self, batch: Dim) -> None:
        self._files = {size: f"engine-batch{size}.plan" for size in batch.buckets}
        self._run: set[str] = set()

    def load(self, plan: Path) -> Bucketed:
        assert plan.is_dir()
        return self

    def run(self, feeds: Arrays) -> Arrays:
        samples = len(feeds["features"])
        self._run.add(next(file for size, file in self._files.items() if samples <= size))
        return {"score": score(feeds["features"])}

    def unused_plans(self) -> tuple[str, ...]:
        return tuple(file for file in self._files.values() if file not in self._run)


def test_a_plan_that_no_sample_runs_is_not_judged_and_fails_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Dim(min=1, opt=1, max=16, buckets=(1, 16))
    monkeypatch.setattr("tasks.stages.compare.backend_of", lambda _runtime: Bucketed(batch))

    def compared(samples: int) -> int:
        root = tmp_path / str(samples)
        shard = {"features": make_features(samples)}
        for folder in ("plan", "inputs", "candidate"):
            (root / folder).mkdir(parents=True)
        save_shard(root / "inputs", 0, shard)
        request = RunRequest(
            runtime="onnxruntime",
            **{name: root / name for name in ("plan", "inputs", "candidate")},
            batch=batch,
        )
        run_in_child(request.model_dump(mode="json"), ignore_progress)
        return len(load_arrays(root / "candidate" / "00000.npz")["score"])

    assert compared(40) == 40
    with pytest.raises(StageError, match=r"no sample runs engine-batch16\.plan"):
        compared(1)


# What a change redoes


@dataclass
class Compared:
    """A job of two shards with two slices and a label, its engine, and what its comparison did."""

    context: StageContext
    job: EngineJob
    engine: BuiltEngine

    def with_rules(self, *rules: Rule, **changes: Any) -> set[str]:
        """The steps that are done with this policy."""
        before = self._records()
        policy = Policy(rules=rules, **changes)
        found = compare_engine(self.context, self.job.model_copy(update={"policy": policy}), self.engine)
        done = {path.parent.name for path in self._records() - before}
        assert found.cached == (not done)
        assert decide(policy, found.result.comparison).outcome is Outcome.PASS
        return done

    def _records(self) -> set[Path]:
        assert isinstance(self.context.store, LocalStore)
        return set((self.context.store.root / "records").glob("*/*.json"))


@pytest.fixture
def compared(here: InProcess, tmp_path: Path) -> Compared:
    shards = [{"features": make_features(n, seed=n)} for n in (300, 400)]
    annotations = [
        {"slice.part": np.full(n, i), "slice.half": np.arange(n) % 2, "label": score(shard["features"])}
        for i, (n, shard) in enumerate(zip((300, 400), shards, strict=True))
    ]
    data = put_data(here.store, shards, annotations)
    reference = ReferenceArtifact(
        outputs=put_shards(here.store, [{"score": score(shard["features"])} for shard in shards])
    )
    work = job(here.store, put_model(here.store, tmp_path / "onnx"), data=data, reference=reference)
    return Compared(here, work, build_engine(here, work).result)


MAE = Rule(output="score", metric="mae", max=0.01)
BY_PART = Rule(output="score", metric="mae", max=0.01, by="part")
BY_HALF = Rule(output="score", metric="mae", max=0.01, by="half")


def test_another_limit_or_metric_needs_no_work(compared: Compared) -> None:
    assert compared.with_rules(MAE) == {"run", "measure"}
    assert compared.with_rules(MAE) == set()
    assert compared.with_rules(replace(MAE, max=0.02)) == set()
    assert compared.with_rules(MAE, Rule(output="score", metric="ks", max=0.05)) == set()
    assert compared.with_rules(MAE, min_samples=500) == set()
    assert compared.with_rules(MAE, performance=(PerformanceRule(metric="speedup_vs_fp16", min=1.0),)) == set()


def test_another_slice_confidence_or_number_of_resamples_is_measured_without_running_the_engine(
    compared: Compared,
) -> None:
    assert compared.with_rules(MAE) == {"run", "measure"}
    assert compared.with_rules(MAE, BY_PART) == {"measure"}
    assert compared.with_rules(MAE, replace(BY_PART, max=0.02)) == set()
    assert compared.with_rules(MAE, BY_PART, BY_HALF) == {"measure"}
    assert compared.with_rules(BY_HALF, MAE, BY_PART) == set(), "the order of rules makes no difference"
    assert compared.with_rules(MAE, confidence=0.99) == {"measure"}
    assert compared.with_rules(MAE, resamples=400) == {"measure"}


def test_a_newer_way_to_measure_does_not_run_the_engine(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared.with_rules(MAE) == {"run", "measure"}
    monkeypatch.setattr("tasks.stages.compare.statistics_digest", lambda: "another")
    assert compared.with_rules(MAE) == {"measure"}


def test_slices_of_the_policy_are_measured_on_their_own_and_labels_reach_their_metrics(compared: Compared) -> None:
    policy = Policy(rules=(MAE, BY_PART))
    found = compare_engine(compared.context, compared.job.model_copy(update={"policy": policy}), compared.engine)
    measured = found.result.comparison.measurements
    assert {(m.slice, m.group, m.n) for m in measured} == {(None, None, 700), ("part", "0", 300), ("part", "1", 400)}
    (drop,) = [m for m in measured if m.metric == "mae_drop" and m.slice is None]
    assert drop.value == pytest.approx(0.0, abs=1e-6)


def mask_job(context: StageContext, folder: Path, mask: str | None) -> EngineJob:
    """The job of an engine that is wrong wherever its second input is zero."""
    features, kept = make_features(350), np.ones((350, 4), np.float32)
    kept[:, 2:] = 0
    shards = [{"features": features[rows], "kept": kept[rows]} for rows in (slice(200), slice(200, None))]
    shape = {"dtype": "float32", "shape": ["batch", 4]}
    spec = tiny_spec(inputs={"features": shape, "kept": shape}, outputs={"states": {"kind": "tensor", "mask": mask}})
    folder.mkdir()
    text = (
        '<ir_version: 9, opset_import: ["" : 20]> tiny (float[batch,4] features, float[batch,4] kept)'
        " => (float[batch,4] states) { states = Mul(features, kept) }"
    )
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    typed = TypedModel(
        onnx=put(context.store, {"model.onnx": (folder / "model.onnx").read_bytes()}),
        precision=Precision.FP32,
        recipe={},
    )
    reference = ReferenceArtifact(
        outputs=put_shards(context.store, [{"states": shard["features"]} for shard in shards])
    )
    policy = Policy(rules=(Rule(output="states", metric="relative_l2", max=0.5),))
    data = put_data(context.store, shards)
    return job(context.store, typed, spec=spec, data=data, reference=reference, policy=policy)


def test_what_an_input_masks_out_is_not_compared(here: InProcess, tmp_path: Path) -> None:
    outcomes = {}
    for mask in ("kept", None):
        work = mask_job(here, tmp_path / str(mask), mask)
        found = compare_engine(here, work, build_engine(here, work).result).result.comparison
        assert found.defects == ()
        outcomes[mask] = decide(work.policy, found).outcome
    assert outcomes == {"kept": Outcome.PASS, None: Outcome.FAIL}
