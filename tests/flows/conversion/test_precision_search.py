"""Retries of INT8 engines that fail the gate: what is tried, what is kept, and what it says on a real model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.conversion.checked_calibration import Calibration
from flows.conversion.precision_search import Retrying, retry_failed
from flows.session import Session
from flows.settings import Settings
from tasks.calibration.report import CalibrationReport, Resemblance
from tasks.errors import StageError
from tasks.quantization.sensitivity import LayerSensitivity, Sensitivity
from tasks.records import Cell, DataArtifact, EngineJob, EngineOutcome, ExportedModel, ModuleArtifact, TypedModel
from tasks.specs import CalibrationMethod, Precision
from tasks.store.stage_cache import StageResult
from tests.flows.projects import Project
from tests.tasks.models.huge_channels_directory import BROKEN, LAYERS, write_directory
from tests.tasks.tiny import VERSION, make_outcome, put, put_reference, tiny_policy, tiny_spec
from validation.rules import PerformanceRule
from validation.verdict import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.store.local import LocalStore
    from validation.policy import Policy

RANKED = tuple("abcdefgh")
BAD, GOOD = 0.3, 0.0001
INT8 = Cell(model="tiny", target="cpu", precision=Precision.INT8, version=VERSION)
FP16 = INT8.model_copy(update={"precision": Precision.FP16})


@dataclass
class Bench:
    """Engines without the work: `needed` of the ranked layers must be left out for an engine to pass."""

    store: LocalStore
    tmp_path: Path
    needed: int
    policy: Policy = field(default_factory=tiny_policy)
    broken: tuple[tuple[str, ...], ...] = ()
    asked: list[tuple[str, ...]] = field(default_factory=list)
    methods: list[CalibrationMethod | None] = field(default_factory=list)

    def outcome(self, noise: float, cell: Cell = INT8, p50_ms: float = 4.0) -> EngineOutcome:
        made = make_outcome(self.store, noise=noise, policy=self.policy, engine=cell)
        assert made.benchmark
        scale = p50_ms / 4.0
        timed = made.benchmark.model_copy(
            update={
                "pytorch": {},
                "speedup": {},
                "speedup_interval": {},
                "engine": made.benchmark.engine.model_copy(
                    update={
                        "latencies": tuple(
                            one.model_copy(
                                update={
                                    "p50_ms": one.p50_ms * scale,
                                    "p50_interval": tuple(end * scale for end in one.p50_interval),
                                }
                            )
                            for one in made.benchmark.engine.latencies
                        )
                    }
                ),
            }
        )
        return made.model_copy(update={"benchmark": timed})

    def job(self, cell: Cell = INT8) -> EngineJob:
        artifact = put(self.store, {"x": b"x"})
        return EngineJob(
            cell=cell,
            spec=tiny_spec(),
            policy=self.policy,
            typed=TypedModel(onnx=artifact, precision=cell.precision, recipe={"method": "entropy"}),
            data=self.data,
            reference=put_reference(self.store),
            module=ModuleArtifact(files=artifact, source="model.py:build", weights=None),
        )

    @property
    def data(self) -> DataArtifact:
        artifact = put(self.store, {"x": b"x"})
        return DataArtifact(inputs=artifact, annotations=artifact, samples=400, slices=())

    def rank(self, *_: Any, method: CalibrationMethod | None = None) -> StageResult[Sensitivity]:
        self.methods.append(method)
        layers = tuple(
            LayerSensitivity(node=node, op_type="Gemm", loss=1.0, mean_loss=1.0, worst=None) for node in RANKED
        )
        found = Sensitivity(layers=layers, samples=128, method=CalibrationMethod.ENTROPY)
        return StageResult(found, cached=False, seconds=0.0)

    def convert(self, *_: Any, exclude: tuple[str, ...], **_options: Any) -> StageResult[TypedModel]:
        self.asked.append(exclude)
        if exclude in self.broken:
            raise StageError("convert: the quantizer died")
        recipe = {"converter": "fake", "excluded": json.dumps(exclude)}
        typed = TypedModel(onnx=put(self.store, {"x": b"x"}), precision=Precision.INT8, recipe=recipe)
        return StageResult(typed, cached=False, seconds=0.0)

    def make(self, jobs: list[EngineJob]) -> list[EngineOutcome]:
        (job,) = jobs
        excluded = json.loads(job.typed.recipe["excluded"])
        made = self.outcome(GOOD if len(excluded) >= self.needed else BAD, p50_ms=4.0 + len(excluded))
        return [made.model_copy(update={"typed": job.typed})]

    @property
    def retrying(self) -> Retrying:
        artifact = put(self.store, {"x": b"x"})
        report = CalibrationReport(
            name="made",
            digest=artifact.digest,
            production="validation",
            production_digest=artifact.digest,
            age_days=0,
            max_age_days=None,
            strata=(),
            resemblance=Resemblance(set_samples=40, production_samples=40, counts={}, production_counts={}),
            findings=(),
        )
        return Retrying(
            session=Session(Settings(home=self.tmp_path / "home"), Reporter(to_stderr=True)),
            spec=tiny_spec(),
            exported=ExportedModel(onnx=artifact, opset=17, checks={}),
            calibration=Calibration(self.data, report, None),
            data=self.data,
            make=self.make,
        )


@pytest.fixture
def context(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(store, tmp_path, needed=3)
    monkeypatch.setattr("flows.conversion.precision_search.measure_sensitivity", bench.rank)
    monkeypatch.setattr("flows.conversion.precision_search.convert_precision", bench.convert)
    return bench


def retry(context: Bench, *others: EngineOutcome, noise: float = BAD) -> EngineOutcome:
    """What becomes of an INT8 engine with this noise, beside other engines."""
    first = context.outcome(noise)
    *kept, found = retry_failed(context.retrying, [context.job()], [*others, first])
    assert kept == list(others)
    return found


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 7])
def test_the_fewest_layers_that_pass_are_left_out_and_every_try_is_kept(context: Bench, needed: int) -> None:
    context.needed = needed
    found = retry(context)
    assert found.outcome is Outcome.PASS
    assert found.typed
    assert json.loads(found.typed.recipe["excluded"]) == list(RANKED[:needed])
    assert [attempt.excluded for attempt in found.tries] == [(), *context.asked]
    assert [attempt.outcome is Outcome.PASS for attempt in found.tries] == [
        len(attempt.excluded) >= needed for attempt in found.tries
    ]
    assert {attempt.layers for attempt in found.tries} == {len(RANKED)}
    assert len(set(context.asked)) == len(context.asked)


def test_where_nothing_passes_the_engine_that_failed_stays_with_its_tries(
    context: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    context.needed = len(RANKED)
    found = retry(context)
    assert found.outcome is Outcome.FAIL
    assert found.typed
    assert "excluded" not in found.typed.recipe
    assert [len(attempt.excluded) for attempt in found.tries] == [0, 1, 2, 4, 7]
    told = "! int8: no engine with layers left out of INT8 passes (4 tried); the one that failed stays"
    assert told in capsys.readouterr().err


def test_layers_are_ranked_by_the_method_that_the_failed_engine_was_made_with(context: Bench) -> None:
    retry(context)
    assert context.methods == [CalibrationMethod.ENTROPY]


@pytest.mark.parametrize("noise", [GOOD, 0.0])
def test_an_engine_that_passes_is_not_retried(context: Bench, noise: float) -> None:
    assert retry(context, noise=noise).tries == ()
    assert (context.methods, context.asked) == ([], [])


def test_engines_of_other_precisions_are_not_retried(context: Bench) -> None:
    failed = context.outcome(BAD, FP16)
    assert retry_failed(context.retrying, [context.job(FP16)], [failed]) == [failed]
    assert context.asked == []


def test_an_engine_that_only_misses_a_speed_is_not_retried(context: Bench) -> None:
    slow = PerformanceRule(metric="speedup_vs_reference", min=1000.0)
    context.policy = replace(tiny_policy(), performance=(slow,))
    assert retry(context, noise=GOOD).tries == ()


def test_an_engine_that_was_never_made_is_left_as_it_is(context: Bench) -> None:
    failed = EngineOutcome(cell=INT8, outcome=Outcome.FAIL, reason="convert: int8 failed")
    assert retry_failed(context.retrying, [], [failed]) == [failed]
    assert retry_failed(context.retrying, [context.job()], [failed]) == [failed]


def test_the_search_ends_where_nothing_is_gained_over_fp16(context: Bench) -> None:
    half = context.outcome(GOOD, FP16, p50_ms=5.5)  # faster than INT8 without two layers
    context.needed = 5
    found = retry(context, half)
    assert found.outcome is Outcome.FAIL
    assert [len(attempt.excluded) for attempt in found.tries] == [0, 1, 2]
    assert [round(attempt.speedup_vs_fp16 or 0, 2) for attempt in found.tries] == [1.38, 1.1, 0.92]
    assert [attempt.is_faster for attempt in found.tries] == [True, True, False]


def test_an_engine_that_passes_but_is_no_faster_than_fp16_is_not_kept(
    context: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    half = context.outcome(GOOD, FP16, p50_ms=4.5)  # faster than INT8 without one layer
    context.needed = 1
    found = retry(context, half)
    assert found.outcome is Outcome.FAIL
    assert [attempt.outcome for attempt in found.tries] == [Outcome.FAIL, Outcome.PASS]
    assert "without 1 of 8 layers it passes, but at 0.90x the speed of FP16" in capsys.readouterr().err


def test_a_try_that_cannot_be_converted_is_a_try_with_its_reason(context: Bench) -> None:
    context.needed, context.broken = 1, (RANKED[:1],)
    found = retry(context)
    assert found.outcome is Outcome.PASS
    assert found.typed
    assert json.loads(found.typed.recipe["excluded"]) == list(RANKED[:2])
    assert found.tries[1].sentence == "convert: the quantizer died"
    assert found.tries[1].onnx is None


def test_layers_that_cannot_be_ranked_keep_no_other_engine_out(
    context: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rank(*_: Any, **__: Any) -> StageResult[Sensitivity]:
        raise StageError("sensitivity: the model was quantized in training")

    monkeypatch.setattr("flows.conversion.precision_search.measure_sensitivity", rank)
    half, failed = context.outcome(GOOD, FP16), context.outcome(BAD)
    found = retry_failed(context.retrying, [context.job()], [half, failed])
    assert found == [half, failed]
    assert "quantized in training" in capsys.readouterr().err


@pytest.mark.hardship(only=True)
@pytest.mark.end_to_end
def test_one_layer_that_cannot_be_quantized_is_found_left_out_and_the_engine_registered(
    tmp_path: Path, prefect_url: str
) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415 - takes long, and one test needs it

    model = write_directory(tmp_path / "project", validation=800)
    environment = {
        "ENGINEGATE_HOME": str(tmp_path / "home"),
        "ENGINEGATE_BENCHMARK_S": "0.1",
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    project = Project(model.parent, environment)
    code, document, text = project.run("convert", str(model))
    assert code == 0, text
    (engine,) = document["engines"]
    (manifest,) = project.run("engines")[1]["engines"]
    assert manifest["engine_id"] == engine["engine_id"]
    (excluded,) = json.loads(manifest["recipe"]["excluded"])
    assert BROKEN.rpartition(".")[2] in excluded
    assert BROKEN.rpartition(".")[0] in excluded
    assert f"! int8: 1 of {LAYERS} layers are left out of INT8: {excluded}" in text
    assert (LAYERS - 1) / LAYERS >= 0.8
    client = MlflowClient(f"sqlite:///{tmp_path}/home/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("huge-channels").experiment_id])
    (made,) = [run for run in runs if run.data.tags.get("enginegate.kind") == "engine"]
    tries = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == made.info.run_id]
    assert {run.data.params["excluded"]: run.data.tags["enginegate.verdict"] for run in tries} == {
        "[]": "fail",
        json.dumps([excluded]): "pass",
    }
    assert {run.data.metrics["layers.int8"] for run in tries} == {LAYERS, LAYERS - 1}
