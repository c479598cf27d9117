"""A comparison as its callers see it: batches in, one result out."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from validation.comparison import Comparison, ComparisonResult
from validation.metrics import METRICS, metrics_of
from validation.outputs import OutputKind, OutputSpec

OUTPUTS = {
    "traits": OutputSpec(kind=OutputKind.SCORE, low=0, high=1),
    "grade": OutputSpec(kind=OutputKind.LOGITS),
    "label": OutputSpec(kind=OutputKind.PROBABILITIES),
    "embedding": OutputSpec(kind=OutputKind.EMBEDDING),
    "map": OutputSpec(kind=OutputKind.TENSOR),
}
RANGES = {"embedding": (-4.0, 4.0), "map": (0.0, 1.0)}
N = 60


def make_side(seed: int) -> dict[str, np.ndarray]:
    base, noise = np.random.default_rng(0), np.random.default_rng(seed)

    def noisy(values: np.ndarray) -> np.ndarray:
        return (values + 0.05 * noise.normal(size=values.shape)).astype(np.float32)

    return {
        "traits": noisy(base.random((N, 3))),
        "grade": noisy(base.normal(size=(N, 6))),
        "label": noisy(base.dirichlet(np.ones(4), N)).clip(0, 1),
        "embedding": noisy(base.normal(size=(N, 16))),
        "map": noisy(base.random((N, 2, 5, 5))),
    }


REFERENCE, CANDIDATE = make_side(1), make_side(2)
LEVELS = np.arange(N) % 4


def compare_in_shards(cuts: list[int]) -> ComparisonResult:
    comparison = Comparison(OUTPUTS, RANGES)
    ends = [0, *sorted(cuts), N]
    for start, end in pairwise(ends):
        part = slice(start, end)
        sides = ({name: array[part] for name, array in side.items()} for side in (REFERENCE, CANDIDATE))
        comparison.update(*sides, slices={"level": LEVELS[part]})
    return comparison.result()


WHOLE = compare_in_shards([])


@given(st.lists(st.integers(0, N), max_size=5))
def test_any_split_into_shards_gives_the_same_result(cuts: list[int]) -> None:
    result = compare_in_shards(cuts)
    assert (result.samples, result.defects, result.worst) == (WHOLE.samples, WHOLE.defects, WHOLE.worst)
    for one, other in zip(result.measurements, WHOLE.measurements, strict=True):
        assert (one.output, one.column, one.metric, one.n) == (other.output, other.column, other.metric, other.n)
        exact = one.metric in {"ks", "ks_pvalue", "max_abs", "top1_agreement"}
        assert one.value == pytest.approx(other.value, rel=0 if exact else 1e-9)
    for one, other in zip(result.slices, WHOLE.slices, strict=True):
        assert (one.value, one.output, one.n) == (other.value, other.output, other.n)
        assert one.mae == pytest.approx(other.mae, rel=1e-12)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_metric_of_an_output_is_measured_on_all_samples(name: str) -> None:
    whole = [m for m in WHOLE.measurements if m.output == name and m.column is None]
    assert [m.metric for m in whole] == [metric.name for metric in metrics_of(OUTPUTS[name].kind)]
    assert all(m.value is not None and m.n == N for m in whole)


def test_a_score_of_several_columns_is_judged_by_its_worst() -> None:
    for name in ("mae", "pearson", "ks_pvalue"):
        found = {m.column: m.value for m in WHOLE.measurements if m.output == "traits" and m.metric == name}
        columns = [found[column] for column in range(3)]
        assert found[None] == (max(columns) if METRICS[name].ideal == 0 else min(columns))


def test_the_whole_names_its_worst_column() -> None:
    (note,) = (m.note for m in WHOLE.measurements if (m.output, m.column, m.metric) == ("traits", None, "mae"))
    assert note.startswith("column ")
    assert note.endswith(", the worst of 3")


def test_a_score_of_one_column_has_no_columns() -> None:
    comparison = Comparison({"score": OUTPUTS["traits"]}, {})
    comparison.update({"score": np.ones((4, 1))}, {"score": np.ones((4, 1))})
    assert {m.column for m in comparison.result().measurements} == {None}


def test_one_undefined_column_makes_the_whole_undefined() -> None:
    reference = np.random.default_rng(0).random((20, 2))
    candidate = reference.copy()
    candidate[:, 1] = 0.5
    comparison = Comparison({"traits": OUTPUTS["traits"]}, {})
    comparison.update({"traits": reference}, {"traits": candidate})
    (whole,) = (m for m in comparison.result().measurements if m.metric == "pearson" and m.column is None)
    assert whole.value is None
    assert whole.note == "column 1: undefined: the candidate is constant"


def test_slices_give_the_mean_absolute_error_of_every_output_and_value() -> None:
    error = np.abs(REFERENCE["map"].astype(float) - CANDIDATE["map"]).mean(axis=(1, 2, 3))
    found = {(s.output, s.value): s for s in WHOLE.slices}
    assert len(found) == len(OUTPUTS) * 4
    assert found["map", "2"].n == N // 4
    assert found["map", "2"].mae == pytest.approx(error[LEVELS == 2].mean())


def test_the_worst_samples_are_over_all_outputs_and_sorted() -> None:
    errors = [sample.abs_error for sample in WHOLE.worst]
    assert len(errors) == 50
    assert errors == sorted(errors, reverse=True)
    largest = max(np.abs(REFERENCE[name].astype(float) - CANDIDATE[name]).max() for name in OUTPUTS)
    assert errors[0] == largest


def test_shards_may_differ_in_the_length_of_a_tensor() -> None:
    comparison = Comparison({"map": OUTPUTS["map"]}, RANGES)
    for length in (3, 9):
        comparison.update({"map": np.ones((2, length))}, {"map": np.full((2, length), 1.5)})
    result = comparison.result()
    assert result.defects == ()
    assert {m.metric: m.value for m in result.measurements}["mae"] == 0.5


def test_without_a_batch_every_metric_is_undefined_and_says_so() -> None:
    result = Comparison(OUTPUTS, RANGES).result()
    assert result.samples == 0
    assert {(m.value, m.n, m.note) for m in result.measurements} == {(None, 0, "no sample could be compared")}


def test_one_sample_is_too_few_for_pearson() -> None:
    comparison = Comparison({"score": OUTPUTS["traits"]}, {})
    comparison.update({"score": np.array([0.5])}, {"score": np.array([0.5])})
    values = {m.metric: (m.value, m.note) for m in comparison.result().measurements}
    assert values["pearson"] == (None, "undefined on fewer than 2 samples")
    assert values["mae"][0] == 0.0


def test_a_reference_without_an_output_and_so_without_its_range_is_a_defect_and_no_error() -> None:
    comparison = Comparison(OUTPUTS, {"map": (0, 1)})
    comparison.update({name: REFERENCE[name] for name in OUTPUTS if name != "embedding"}, CANDIDATE)
    (sentence,) = comparison.result().defects
    assert sentence.startswith("embedding: the reference lacks this output")


def test_a_range_that_is_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="no interval"):
        Comparison(OUTPUTS, RANGES | {"map": (1, 0)})


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="outputs: none declared"):
        Comparison({}, {})


def test_a_result_survives_json_without_nan() -> None:
    adapter = TypeAdapter(ComparisonResult)
    assert adapter.validate_json(adapter.dump_json(WHOLE)) == WHOLE
    json.dumps(asdict(WHOLE), allow_nan=False)
