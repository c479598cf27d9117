"""What a run says: names, values and texts, without MLflow."""

from __future__ import annotations

import doctest
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import tasks.tracking.connection
import tasks.tracking.run_content
from tasks.declared import Dim
from tasks.rebuild_records import Discard, MiscompiledBuild
from tasks.tracking import run_content as content
from validation.breakdowns import SliceError
from validation.policy import Rule
from validation.verdict import decide

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
    measured = outcome.compared.comparison.measurements
    mae = {(m.output, m.column, m.group): m.value for m in measured if m.metric == "mae"}
    assert undefined == 0
    assert values["score.mae"] == mae["score", None, None]
    assert values["traits.1.mae"] == mae["traits", 1, None]
    assert values["slice.level.3.score.mae"] == mae["score", None, "3"]
    assert values["slice.level.3.traits.mae"] == mae["traits", None, "3"]
    assert values["slice.level.3.traits.2.mae"] == mae["traits", 2, "3"]
    assert values["latency.p50_ms"] == values["latency.batch_8.p50_ms"] == 4.0
    assert values["latency.batch_32.p99_ms"] == pytest.approx(24.0)
    assert values["throughput_per_s"] == 2000.0
    assert values["reference.latency.p50_ms"] == 10.0
    assert values["speedup"] == 2.5
    assert values["engine_size_bytes"] == 1_234_567
    assert values["worst_margin"] == outcome.verdict.worst_rule.margin


def test_judged_rules_alone_carry_bounds_and_margin(case: Case) -> None:
    outcome = case.engine("fp16").outcome
    values, _ = content.metrics(outcome)
    rules = {(rule.rule.output, rule.rule.metric, rule.group): rule for rule in outcome.verdict.rules}
    for name, key in {"score.ks": ("score", "ks", None), "slice.level.6.traits.bias": ("traits", "bias", "6")}.items():
        rule = rules[key]
        assert [values[f"{name}.{part}"] for part in ("low", "high", "margin")] == [rule.low, rule.high, rule.margin]
    assert values["speedup_vs_reference"] == 2.5
    assert values["speedup_vs_reference.low"] == pytest.approx(2.45)
    assert values["speedup_vs_reference.margin"] == pytest.approx(1 - 1 / 2.45)
    assert "score.rmse" in values
    assert "score.rmse.low" not in values
    assert len([name for name in values if name.endswith(".margin")]) == len(outcome.verdict.sentences)


def test_a_p_value_is_logged_with_what_it_became_after_holm_s_correction(case: Case) -> None:
    record = case.engine("fp16")
    rule = Rule(output="score", metric="ks_pvalue", min=0.05)
    policy = replace(record.outcome.policy, rules=(rule,))
    verdict = decide(policy, record.outcome.compared.comparison, other_pvalues=(0.5,))
    values, _ = content.metrics(record.outcome.model_copy(update={"verdict": verdict}))
    assert values["score.ks_pvalue.adjusted"] == verdict.rules[0].adjusted
    assert "score.ks_pvalue.low" not in values


def test_without_labels_the_metrics_that_need_them_are_not_missed(case: Case) -> None:
    measured = case.engine("fp16").outcome.compared.comparison.measurements
    assert any(m.value is None and m.metric == "qwk_drop" for m in measured)
    values, undefined = content.metrics(case.engine("fp16").outcome)
    assert "score.qwk_drop" in values
    assert "traits.qwk_drop" not in values
    assert undefined == 0


def test_a_metric_without_a_value_is_counted_and_not_logged(case: Case) -> None:
    record = case.engine("fp16")
    first, *rest = record.outcome.compared.comparison.measurements
    undefined = replace(first, value=None, note="undefined")
    values, count = content.metrics(_with(record, measurements=(undefined, *rest)))
    assert count == 1
    assert f"{first.output}.{first.metric}" not in values


def test_a_slice_with_very_many_values_is_left_out_of_the_metrics(case: Case) -> None:
    record = case.engine("fp16")
    groups = [str(number) for number in range(51)]
    slices = tuple(SliceError(slice="essay", value=group, output="score", n=1, mae=0.1) for group in groups)
    measured = next(m for m in record.outcome.compared.comparison.measurements if m.group == "3")
    judged = next(rule for rule in record.outcome.verdict.rules if rule.group == "3")
    outcome = _with(record, slices=slices, measurements=tuple(replace(measured, group=group) for group in groups))
    verdict = replace(record.outcome.verdict, rules=tuple(replace(judged, group=group) for group in groups))
    values, _ = content.metrics(outcome.model_copy(update={"verdict": verdict}))
    assert not [name for name in values if name.startswith("slice.")]


def test_the_mae_of_a_slice_without_rules_is_logged(case: Case) -> None:
    slices = (SliceError(slice="essay", value="a", output="score", n=1, mae=0.1),)
    values, _ = content.metrics(_with(case.engine("fp16"), slices=slices))
    assert values["slice.essay.a.score.mae"] == 0.1
    assert "slice.level.3.score.mae" in values


@pytest.mark.parametrize("value", ["a/b", "naïve?", "100 %", "x" * 400, "..", "a\nb"])
def test_every_slice_value_gives_a_name_that_mlflow_takes(value: str) -> None:
    name = content.safe_name(f"slice.kind.{value}.score.mae")
    assert re.fullmatch(r"[\w.\- ]{1,250}", name)


def test_slice_values_that_differ_keep_different_names() -> None:
    assert content.safe_name("slice.kind.a?.score.mae") != content.safe_name("slice.kind.a!.score.mae")


def test_evidence_changes_with_the_outcome_and_not_with_the_order(case: Case) -> None:
    engines = [case.engine("fp16").outcome, case.engine("int8").outcome]
    evidence = content.conversion_evidence(case.conversion(), engines)
    assert content.conversion_evidence(case.conversion(), engines[::-1]) == evidence
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
    assert [params[f"policy.{name}"] for name in ("confidence", "min_samples", "resamples")] == ["0.95", "300", "400"]


def test_a_parameter_names_the_plan_that_an_engine_was_refitted_from(case: Case) -> None:
    outcome = case.engine("int8").outcome
    assert outcome.engine
    assert "refitted_from" not in content.engine_params(case.conversion(), outcome)
    refitted = outcome.engine.model_copy(update={"refitted_from": outcome.engine.plan.digest})
    params = content.engine_params(case.conversion(), outcome.model_copy(update={"engine": refitted}))
    assert params["refitted_from"] == outcome.engine.plan.digest


def test_the_parameter_of_a_dim_names_its_buckets_where_it_has_some(case: Case) -> None:
    dims = {"batch": Dim(min=1, opt=8, max=32, buckets=(8, 32)), "tokens": Dim(min=1, opt=8, max=32)}
    conversion, outcome = case.conversion(dims=dims), case.engine("fp16").outcome
    for params in (content.conversion_params(conversion), content.engine_params(conversion, outcome)):
        assert params["dims.batch"] == "min 1, opt 8, max 32; buckets 8, 32"
        assert params["dims.tokens"] == "min 1, opt 8, max 32"


def test_texts_are_cut_to_what_mlflow_takes(case: Case) -> None:
    conversion = case.conversion(parameters={"long": "x" * 9000})
    assert len(content.conversion_params(conversion)["long"]) == 6000
    assert len(content.conversion_tags(conversion, "sha256:0", "y" * 9000)["mlflow.note.content"]) == 8000


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


def test_the_description_says_every_rule_and_what_failed_first(case: Case) -> None:
    outcome = case.engine("int8", noise=0.2).outcome
    verdict = replace(outcome.verdict, defects=("score: 3 values are NaN",))
    outcome = outcome.model_copy(update={"verdict": verdict})
    note = content.engine_tags(case.conversion(), outcome, 0, "parent")["mlflow.note.content"].splitlines()
    assert note[:2] == ["**fail**", "- defect: score: 3 values are NaN"]
    said = [line.removeprefix("- ").partition(":")[0] for line in note[2:]]
    assert said == sorted(said, key=["fail", "inconclusive", "pass"].index)
    assert any(line.startswith("- pass: speedup_vs_reference is 2.5") for line in note)


def test_a_run_says_why_its_engine_was_made_again_and_which_builds_were_miscompiled(case: Case) -> None:
    outcome, conversion = case.engine("fp16").outcome, case.conversion()
    assert outcome.engine
    plain = content.engine_tags(conversion, outcome, 0, "parent")
    assert not [name for name in plain if "again" in name or "miscompiled" in name]
    again = Discard(reason="the driver changed", who=None, when="2026-12-01T00:00:00+00:00")
    build = MiscompiledBuild(plan=outcome.engine.plan.digest, witness="onnxruntime 1", sentence="mae is 0.33")
    engine = outcome.engine.model_copy(update={"again": again})
    remade = outcome.model_copy(update={"engine": engine, "miscompiled": (build,)})
    tags = content.engine_tags(conversion, remade, 0, "parent")
    assert (tags["enginegate.again"], tags["enginegate.again_at"]) == (again.reason, again.when)
    assert tags["enginegate.miscompiled_builds"] == "1"
    assert "- made again: the driver changed" in tags["mlflow.note.content"]
    assert f"- miscompiled: {build.plan}: mae is 0.33" in tags["mlflow.note.content"]
