"""New weights of a model whose engine passed, by a stand-in of TensorRT that refits."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from flows.conversion import engine_making
from flows.conversion.believed_build import build_believed
from flows.conversion.engine_flow import make_engine
from flows.runners import gpu_lock
from flows.runners.handover import leave_job
from flows.session import use_session
from tasks.backends.interface import REFIT, refits
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.records import ReferenceArtifact
from tasks.release.publish import describe_engine, publish_engine
from tasks.stages.refit import REFITTABLE
from tasks.store.stage_cache import StageResult
from tests.flows.conversion.test_believed_build import AGAIN, RUN, T4, Bench, StandIn, Told, bench, blob, other_graph
from tests.tasks.tiny import (
    WEIGHTS,
    job,
    make_features,
    make_outcome,
    put,
    put_data,
    put_model,
    put_shards,
    tiny_spec,
    write_onnx,
)
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.backends.interface import BuildJob, RefitBase
    from tasks.records import EngineJob, EngineOutcome
    from tasks.specs import BuildSpec, Precision

__all__ = ["bench"]

OTHER = WEIGHTS[::-1].copy()
SCORER = "p = Mul(features, w) t = ReduceSum<keepdims=0>(p, one) score = Sigmoid(t)"


class Refitting(StandIn):
    """Refits by a build; `spoils` the engine, or `fails`, where it is told to."""

    refitted: ClassVar[list[RefitBase]] = []
    fails: ClassVar[str] = ""
    spoils: ClassVar[bool] = False

    def options(self, settings: BuildSpec, precision: Precision) -> dict[str, str]:
        return {**super().options(settings, precision), **({REFIT: "true"} if refits(settings, precision) else {})}

    def refit(self, job: BuildJob, base: RefitBase) -> None:
        type(self).refitted.append(base)
        if self.fails:
            (job.plan / "half-done").mkdir()
            raise StageError(self.fails)
        job = job.model_copy(update={"onnx": other_graph(job.onnx)}) if self.spoils else job
        OnnxRuntimeBackend.build(self, job, ignore_progress)


class Versions:
    """Makes versions of one model, that differ by their weights."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder, self.count = bench, folder, 0

    def job(self, weights: Any = WEIGHTS, *, body: str = SCORER, refit: bool = True) -> EngineJob:
        """The job of a version with these weights."""
        self.count += 1
        store = self.bench.session.store
        model = onnx.load(str(write_onnx(self.folder / str(self.count), body=body)))
        (tensor,) = (one for one in model.graph.initializer if one.name == "w")
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(weights, np.float32), "w"))
        typed = put_model(store, self.folder / "any")
        features = make_features(400)
        expected = 1 / (1 + np.exp(-(features * weights).sum(axis=1)))
        return job(
            store,
            typed.model_copy(update={"onnx": put(store, {"model.onnx": model.SerializeToString()})}),
            spec=tiny_spec(build={"refit": True} if refit else {}),
            target="t4",
            data=put_data(store, [{"features": features}]),
            reference=ReferenceArtifact(outputs=put_shards(store, [{"score": expected.astype(np.float32)}])),
        )

    def make(self, weights: Any = WEIGHTS, **options: Any) -> EngineOutcome:
        """Its engine."""
        return build_believed(self.bench.session, self.job(weights, **options))


@pytest.fixture
def versions(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    monkeypatch.setitem(sys.modules, "tasks.backends.stand_in", SimpleNamespace(StandIn=Refitting))
    for name, value in {"refitted": [], "fails": "", "spoils": False}.items():
        monkeypatch.setattr(Refitting, name, value)
    for name in ("asked", "chosen"):
        monkeypatch.setattr(Refitting, name, [])
    return Versions(bench, tmp_path / "versions")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()


def plan_of(made: EngineOutcome) -> str:
    assert made.engine
    return made.engine.plan.digest


def source_of(made: EngineOutcome) -> str | None:
    assert made.engine
    return made.engine.refitted_from


def test_new_weights_go_into_the_plan_that_passed_and_are_judged_as_any(versions: Versions) -> None:
    first, second = versions.make(), versions.make(OTHER)
    assert (first.outcome, second.outcome) == (Outcome.PASS, Outcome.PASS)
    assert (len(Refitting.asked), len(Refitting.refitted)) == (1, 1)
    assert (source_of(first), source_of(second)) == (None, plan_of(first))
    assert first.engine
    assert second.engine
    assert first.engine.structure == second.engine.structure
    assert first.engine.cache_key != second.engine.cache_key
    assert plan_of(second) != plan_of(first)


def test_a_refitted_engine_is_found_again(versions: Versions) -> None:
    versions.make()
    again = versions.job(OTHER)
    made = [build_believed(versions.bench.session, again) for _ in range(2)]
    assert plan_of(made[0]) == plan_of(made[1])
    assert len(Refitting.refitted) == 1


def test_without_the_setting_nothing_is_refitted_or_kept_for_it(versions: Versions) -> None:
    made = [versions.make(weights, refit=False) for weights in (WEIGHTS, OTHER)]
    assert (len(Refitting.asked), Refitting.refitted) == (2, [])
    for one in made:
        assert one.engine
        assert not {"structure", "refitted_from"} & one.engine.model_dump().keys()
    assert versions.bench.session.store.list_records(REFITTABLE) == ()


def test_another_graph_is_built(versions: Versions) -> None:
    versions.make()
    versions.make(OTHER, body="p = Mul(w, features) t = ReduceSum<keepdims=0>(p, one) score = Sigmoid(t)")
    assert (len(Refitting.asked), Refitting.refitted) == (2, [])


def test_other_options_of_the_build_are_built(versions: Versions) -> None:
    versions.make()
    changed = versions.job(OTHER)
    other = changed.spec.model_copy(
        update={"dims": {"batch": changed.spec.dims["batch"].model_copy(update={"opt": 4})}}
    )
    build_believed(versions.bench.session, changed.model_copy(update={"spec": other}))
    assert (len(Refitting.asked), Refitting.refitted) == (2, [])


def test_the_same_graph_is_not_refitted_to_itself(versions: Versions) -> None:
    versions.make()
    versions.bench.forget("build")
    assert source_of(versions.make()) is None
    assert Refitting.refitted == []


def test_where_a_refit_fails_the_engine_is_built_and_that_is_said(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = versions.make()
    monkeypatch.setattr(Refitting, "fails", "weights are missing: tmp_weight_3 (SCALE)")
    second = versions.make(OTHER)
    assert (second.outcome, source_of(second), len(Refitting.asked)) == (Outcome.PASS, None, 2)
    said = f"built, not refitted from {plan_of(first)}: weights are missing: tmp_weight_3 (SCALE)"
    assert second.engine
    assert second.engine.warnings == (said,)
    assert f"! {said}" in Told.lines
    assert [file.path for file in second.engine.plan.files] == ["engine.onnx"]


def test_nothing_is_refitted_from_an_engine_that_did_not_pass(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refitting, "kernels", ("bad0",))
    assert versions.make().outcome is Outcome.FAIL
    monkeypatch.setattr(Refitting, "kernels", ("good",))
    assert versions.make(OTHER).outcome is Outcome.PASS
    assert Refitting.refitted == []


def test_a_refitted_engine_that_is_wrong_where_its_graph_is_right_is_built(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = versions.make()
    monkeypatch.setattr(Refitting, "spoils", True)
    second = versions.make(OTHER)
    assert (second.outcome, source_of(second), len(second.miscompiled)) == (Outcome.PASS, None, 1)
    assert (len(Refitting.refitted), len(Refitting.asked)) == (1, 2)
    assert second.engine
    assert first.engine
    assert second.engine.structure == first.engine.structure


def test_what_was_refitted_is_not_refitted_again(versions: Versions) -> None:
    first = versions.make()
    versions.make(OTHER)
    assert source_of(versions.make(OTHER / 2)) == plan_of(first)


def test_what_is_made_again_is_built(versions: Versions) -> None:
    versions.make()
    made = build_believed(versions.bench.session, versions.job(OTHER).model_copy(update={"again": AGAIN}))
    assert (source_of(made), Refitting.refitted) == (None, [])


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_an_engine_whose_files_are_damaged_is_not_refitted(versions: Versions, damage: str) -> None:
    first, root = versions.make(), versions.bench.session.store.root
    assert first.engine
    file = root / "blobs" / blob(first.engine.plan.files[0].digest)
    content = file.read_bytes()
    file.unlink()
    if damage == "changed":
        file.write_bytes(content[:-1] + b"?")
    second = versions.make(OTHER)
    assert (second.outcome, source_of(second), Refitting.refitted) == (Outcome.PASS, None, [])


@pytest.fixture
def run(versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[EngineJob], EngineOutcome]:
    """A run of the flow on a host with a T4."""
    session = versions.bench.session
    timed = make_outcome(session.store).benchmark
    assert timed
    monkeypatch.setattr(engine_making, "benchmark_engine", lambda *_: StageResult(timed, cached=False, seconds=0.0))
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: T4)
    monkeypatch.setattr(gpu_lock, "LOCKS", tmp_path)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)

    def run(work: EngineJob) -> EngineOutcome:
        with use_session(session):
            return make_engine.fn(work.cell.engine_id, leave_job(session.store, work))

    return run


def test_a_registered_engine_is_refitted_where_the_store_has_none(
    versions: Versions, run: Callable[[EngineJob], EngineOutcome]
) -> None:
    session, work = versions.bench.session, versions.job()
    first = run(work)
    context, said = session.stage_context(), {"source_commit": None, "mlflow_run": None, "who": None}
    manifest = describe_engine(context, work.spec, first, work.data, work.reference, **said)
    publish_engine(context, session.registry, manifest)
    versions.bench.forget(REFITTABLE)
    second = versions.job(OTHER)
    cell = second.cell.model_copy(update={"version": "f" * 12})
    made = run(second.model_copy(update={"cell": cell}))
    assert (made.outcome, source_of(made)) == (Outcome.PASS, plan_of(first))
    assert f"  t4 fp32: {first.cell.engine_id} fetched, to be refitted if the graph is the same" in Told.lines


def test_a_registry_that_cannot_be_read_keeps_no_engine_from_being_built(
    versions: Versions, run: Callable[[EngineJob], EngineOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise StageError("no answer from the bucket")

    monkeypatch.setattr(engine_making, "take_registered", fail)
    assert run(versions.job()).outcome is Outcome.PASS
    assert "! t4 fp32: no registered engine to refit could be read: no answer from the bucket" in Told.lines


def test_without_the_setting_no_registry_is_asked(
    versions: Versions, run: Callable[[EngineJob], EngineOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_making, "take_registered", lambda *_: pytest.fail("asked"))
    assert run(versions.job(refit=False)).outcome is Outcome.PASS
