"""What a run says: names, values and texts, without MLflow."""

from __future__ import annotations

import doctest
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import tasks.tracking.connection
import tasks.tracking.run_content
from tasks.specs import Dim
from tasks.tracking import run_content as content
from validation.breakdowns import SliceError

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineOutcome
    from tasks.tracking.interface import EngineRecord
    from tests.tasks.tracking.conftest import Case


def _with(record: EngineRecord, **changes: Any) -> EngineOutcome:
    compared = record.outcome.compared
    comparison = replace(compared.comparison, **changes)
    return record.outcome.model_copy(update={"compared": compared.model_copy(update={"comparison": comparison})})


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (tasks.tracking.run_content, tasks.tracking.connection):
        assert doctest.testmod(module).failed == 0


def test_fp16_and_int8_have_the_same_metric_names(case: Case) -> None:
    fp16, _ = content.metrics(case.engine("fp16").outcome)
    int8, _ = content.metrics(case.engine("int8", noise=0.2).outcome)
    assert fp16.keys() == int8.keys()


def test_metrics_carry_what_was_measured(case: Case) -> None:
    outcome = case.engine("fp16").outcome
    values, undefined = content.metrics(outcome)
    mae = {(m.output, m.column): m.value for m in outcome.compared.comparison.measurements if m.metric == "mae"}
    assert undefined == 0
    assert values["score.mae"] == mae["score", None]
    assert values["traits.1.mae"] == mae["traits", 1]
    assert values["latency.p50_ms"] == values["latency.batch_8.p50_ms"] == 4.0
    assert values["latency.batch_32.p99_ms"] == pytest.approx(24.0)
    assert values["throughput_per_s"] == 2000.0
    assert values["reference.latency.p50_ms"] == 10.0
    assert values["speedup"] == 2.5
    assert values["engine_size_bytes"] == 1_234_567
    assert "slice.level.3.score.mae" in values
    assert values["worst_margin"] == outcome.verdict.worst_rule.margin


def test_a_metric_without_a_value_is_counted_and_not_logged(case: Case) -> None:
    record = case.engine("fp16")
    first, *rest = record.outcome.compared.comparison.measurements
    undefined = replace(first, value=None, note="undefined")
    values, count = content.metrics(_with(record, measurements=(undefined, *rest)))
    assert count == 1
    assert f"{first.output}.{first.metric}" not in values


def test_a_slice_with_very_many_values_is_left_out_of_the_metrics(case: Case) -> None:
    slices = tuple(SliceError(slice="essay", value=str(i), output="score", n=1, mae=0.1) for i in range(51))
    values, _ = content.metrics(_with(case.engine("fp16"), slices=slices))
    assert not [name for name in values if name.startswith("slice.")]


@pytest.mark.parametrize("value", ["a/b", "naïve?", "100 %", "x" * 400, "..", "a\nb"])
def test_every_slice_value_gives_a_name_that_mlflow_takes(value: str) -> None:
    name = content.safe_name(f"slice.kind.{value}.score.mae")
    assert re.fullmatch(r"[\w.\- ]{1,250}", name)


def test_slice_values_that_differ_keep_different_names() -> None:
    assert content.safe_name("slice.kind.a?.score.mae") != content.safe_name("slice.kind.a!.score.mae")


def test_evidence_changes_with_the_outcome_and_not_with_the_free_tags_or_the_order(case: Case) -> None:
    engines = [case.engine("fp16").outcome, case.engine("int8").outcome]
    evidence = content.conversion_evidence(case.conversion(), engines)
    assert content.conversion_evidence(case.conversion(tags={"run": "2"}), engines[::-1]) == evidence
    assert content.conversion_evidence(case.conversion(parameters={}), engines) != evidence
    other = [engines[0], case.engine("int8", noise=0.003).outcome]
    assert content.conversion_evidence(case.conversion(), other) != evidence


def test_evidence_exists_for_an_outcome_with_a_number_that_is_not_finite(case: Case) -> None:
    record = case.engine("fp16")
    slices = (SliceError(slice="level", value="1", output="score", n=1, mae=float("nan")),)
    assert content.engine_evidence(_with(record, slices=slices)).startswith("sha256:")


def test_parameters_name_recipe_options_backend_and_dims(case: Case) -> None:
    params = content.engine_params(case.conversion(), case.engine("int8").outcome)
    assert params["target"] == "cpu"
    assert params["precision"] == "int8"
    assert params["recipe.converter"] == "autocast"
    assert params["backend.name"] == "onnxruntime"
    assert params["backend.device"] == "cpu"
    assert params["dims.batch"] == "min 1, opt 8, max 32"
    assert params["option.cache"] == "…/cache.bin"


def test_the_parameter_of_a_dim_names_its_buckets_where_it_has_some(case: Case) -> None:
    dims = {"batch": Dim(min=1, opt=8, max=32, buckets=(8, 32)), "tokens": Dim(min=1, opt=8, max=32)}
    conversion, outcome = case.conversion(dims=dims), case.engine("fp16").outcome
    for params in (content.conversion_params(conversion), content.engine_params(conversion, outcome)):
        assert params["dims.batch"] == "min 1, opt 8, max 32; buckets 8, 32"
        assert params["dims.tokens"] == "min 1, opt 8, max 32"


def test_texts_are_cut_to_what_mlflow_takes(case: Case) -> None:
    conversion = case.conversion(parameters={"long": "x" * 9000}, tags={"long": "y" * 9000})
    assert len(content.conversion_params(conversion)["long"]) == 6000
    assert len(content.conversion_tags(conversion, "sha256:0", "")["long"]) == 8000


def test_free_tags_cannot_take_the_place_of_our_own(case: Case) -> None:
    tags = content.conversion_tags(case.conversion(tags={"enginegate.version": "x"}), "sha256:0", "")
    assert tags["enginegate.version"] == case.conversion().version


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open /tmp/x1/model.onnx: no such file", "open …/model.onnx: no such file"),
        ("file:///root/.enginegate/mlruns/3", "…/3"),
        ("error:/home/ann/a.npz", "error:…/a.npz"),
        ("https://host.example/a/b and FP16/INT8 and 3/4", "https://host.example/a/b and FP16/INT8 and 3/4"),
        ("node /encoder/layer.0/MatMul_3", "node /encoder/layer.0/MatMul_3"),
    ],
)
def test_host_paths_are_cut_and_nothing_else(text: str, shown: str) -> None:
    assert content.without_host_paths(text) == shown


def test_a_reason_with_a_path_reaches_no_tag(case: Case, tmp_path: Path) -> None:
    outcome = case.failed_engine("int8", f"cannot load {tmp_path}/model.onnx").outcome
    tags = content.engine_tags(case.conversion(), outcome, 0, "parent")
    assert str(tmp_path) not in str(tags)
    assert "cannot load …/model.onnx" in tags["mlflow.note.content"]
