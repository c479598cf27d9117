"""What a precision search tried, as runs of a real MLflow on SQLite."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from tasks.records import EngineTry
from tasks.tracking.connection import open_client
from tasks.tracking.mlflow_store import MlflowTracker
from tasks.tracking.tries import try_content
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.tracking.interface import EngineRecord
    from tests.tasks.tracking.conftest import Case

ENGINE = "essay-scorer-cpu-int8@0123456789ab"
DIGEST = f"sha256:{'f' * 64}"


def attempt(excluded: tuple[str, ...] = (), **changes: Any) -> EngineTry:
    fields: dict[str, Any] = {
        "excluded": excluded,
        "layers": 10,
        "outcome": Outcome.FAIL,
        "sentence": "score mae is 0.3, above its maximum of 0.02.",
        "metrics": {"score.mae": 0.3},
    }
    return EngineTry(**(fields | changes))


@pytest.fixture
def searched(case: Case) -> EngineRecord:
    """An INT8 engine that a search of two tries found."""
    record = case.failed_engine("int8", "no engine, so that nothing is drawn")
    tries = (
        attempt(),
        attempt(
            ("/encoder/MatMul", "Conv_3"),
            outcome=Outcome.PASS,
            sentence="score mae is 0.002, within its maximum of 0.02.",
            metrics={"score.mae": 0.002, "slice.level.A/B.score.mae": 0.01, "score.kl": float("inf")},
            p50_ms=1.5,
            speedup_vs_fp16=1.25,
            onnx=DIGEST,
        ),
    )
    return replace(record, outcome=record.outcome.model_copy(update={"tries": tries}))


def test_a_try_says_what_was_left_out_and_how_it_did(searched: EngineRecord) -> None:
    first, second = (try_content(searched.outcome, one, "parent") for one in searched.outcome.tries)
    assert first.name == f"{ENGINE}, 10 of 10 layers in INT8"
    assert first.params == {"excluded": "[]", "onnx": ""}
    assert first.values == {"score.mae": 0.3, "layers.int8": 10, "layers.fp16": 0}
    assert second.name == f"{ENGINE}, 8 of 10 layers in INT8"
    assert json.loads(second.params["excluded"]) == ["/encoder/MatMul", "Conv_3"]
    assert second.params["onnx"] == DIGEST
    assert second.tags == {
        "enginegate.kind": "try",
        "enginegate.engine_id": ENGINE,
        "enginegate.verdict": "pass",
        "mlflow.parentRunId": "parent",
        "mlflow.user": "enginegate",
        "mlflow.note.content": "**pass**\nscore mae is 0.002, within its maximum of 0.02.",
    }


def test_metrics_have_names_that_mlflow_takes_and_finite_values(searched: EngineRecord) -> None:
    values = try_content(searched.outcome, searched.outcome.tries[1], "parent").values
    assert values == {
        "score.mae": 0.002,
        "slice.level.A_B.score.mae-c80f61": 0.01,
        "layers.int8": 8,
        "layers.fp16": 2,
        "p50_ms": 1.5,
        "speedup_vs_fp16": 1.25,
    }


def test_no_path_of_this_host_gets_out(searched: EngineRecord) -> None:
    made = try_content(searched.outcome, attempt(sentence="could not load /home/ann/secret-folder/model.onnx"), "p")
    assert made.tags["mlflow.note.content"] == "**fail**\ncould not load …/model.onnx"


@dataclass(frozen=True)
class Mlflow:
    """A store, and its runs by name."""

    tracker: MlflowTracker
    client: Any

    def runs(self, model: str) -> dict[str, Any]:
        experiment = self.client.get_experiment_by_name(model)
        return {run.info.run_name: run for run in self.client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Mlflow:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    return Mlflow(MlflowTracker(uri, str(folder / "mlruns")), open_client(uri))


def test_tries_are_finished_runs_below_their_engine(case: Case, searched: EngineRecord, mlflow: Mlflow) -> None:
    logged = mlflow.tracker.log_conversion(case.conversion(model="once"), [searched])
    runs = mlflow.runs("once")
    assert set(runs) == {"once@0123456789ab", ENGINE, *(f"{ENGINE}, {n} of 10 layers in INT8" for n in (8, 10))}
    tries = [run for name, run in runs.items() if "layers in INT8" in name]
    assert {run.data.tags["mlflow.parentRunId"] for run in tries} == {logged[ENGINE]}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    second = runs[f"{ENGINE}, 8 of 10 layers in INT8"].data
    assert second.metrics == try_content(searched.outcome, searched.outcome.tries[1], "").values
    assert json.loads(second.params["excluded"]) == ["/encoder/MatMul", "Conv_3"]


def test_what_a_killed_process_left_is_deleted_tries_and_all(
    case: Case, searched: EngineRecord, mlflow: Mlflow
) -> None:
    conversion = case.conversion(model="killed")
    mlflow.tracker.log_conversion(conversion, [searched])
    left = mlflow.runs("killed")
    mlflow.client.set_terminated(left["killed@0123456789ab"].info.run_id, "FAILED")
    mlflow.tracker.log_conversion(conversion, [searched])
    again = mlflow.runs("killed")
    assert again.keys() == left.keys()  # each once
    assert {run.info.run_id for run in again.values()}.isdisjoint(run.info.run_id for run in left.values())
    for run in left.values():
        assert mlflow.client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


def test_a_conversion_is_logged_once_and_again_with_other_tries(
    case: Case, searched: EngineRecord, mlflow: Mlflow
) -> None:
    conversion = case.conversion(model="again")
    first = mlflow.tracker.log_conversion(conversion, [searched])
    assert mlflow.tracker.log_conversion(conversion, [searched]) == first
    fewer = searched.outcome.model_copy(update={"tries": searched.outcome.tries[:1]})
    assert mlflow.tracker.log_conversion(conversion, [replace(searched, outcome=fewer)]) != first
