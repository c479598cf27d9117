"""A comparison as its callers see it: batches in, one result out."""

import json
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.validation.cases import FEW, measure, run, whole
from validation import units, vectors
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Measurement
from validation.metrics import METRICS, metrics_of
from validation.outputs import OutputKind, OutputSpec
from validation.reservoir import KeptSamples

OUTPUTS = {
    "score": OutputSpec(kind=OutputKind.SCORE, low=0, high=1),
    "traits": OutputSpec(kind=OutputKind.SCORE, low=0, high=1),
    "grade": OutputSpec(kind=OutputKind.LOGITS),
    "tokens": OutputSpec(kind=OutputKind.LOGITS, mask="attention_mask"),
    "label": OutputSpec(kind=OutputKind.PROBABILITIES),
    "embedding": OutputSpec(kind=OutputKind.EMBEDDING, mask="attention_mask"),
    "map": OutputSpec(kind=OutputKind.TENSOR),
}
BY = {
    "score": {"level": METRICS, "prompt": ("mae",)},
    "tokens": {"level": METRICS},
    "embedding": {"level": METRICS},
    "map": {"level": ("relative_l2", "p99_abs")},
}
N = 60


def make_side(seed: int) -> dict[str, np.ndarray]:
    base, noise = np.random.default_rng(0), np.random.default_rng(seed)

    def noisy(values: np.ndarray) -> np.ndarray:
        return (values + 0.05 * noise.normal(size=values.shape)).astype(np.float32)

    return {
        "score": noisy(base.random(N)),
        "traits": noisy(base.random((N, 3))),
        "grade": noisy(base.normal(size=(N, 6))),
        "tokens": noisy(base.normal(size=(N, 4, 7))),
        "label": noisy(base.dirichlet(np.ones(6), N)).clip(0, 1),
        "embedding": noisy(base.normal(size=(N, 4, 16))),
        "map": noisy(base.random((N, 2, 5, 5))),
    }


REFERENCE, CANDIDATE = make_side(1), make_side(2)
LABEL = np.arange(N) % 5
SLICES = {"level": np.arange(N) % 4, "prompt": np.array(["first", "second", "third"])[np.arange(N) // 20]}
MASKS = {"attention_mask": np.arange(4) <= (np.arange(N) % 4)[:, None]}


def compare_in_shards(cuts: list[int]) -> ComparisonResult:
    comparison = Comparison(OUTPUTS, by=BY, plan=FEW)
    for start, end in pairwise([0, *sorted(cuts), N]):
        part = slice(start, end)
        comparison.update(
            {name: array[part] for name, array in REFERENCE.items()},
            {name: array[part] for name, array in CANDIDATE.items()},
            slices={name: array[part] for name, array in SLICES.items()},
            label=LABEL[part],
            masks={name: array[part] for name, array in MASKS.items()},
        )
    return comparison.result()


WHOLE = compare_in_shards([])


def without_slice_errors(result: ComparisonResult) -> ComparisonResult:
    return replace(result, slices=())


def test_nothing_is_wrong_with_the_example() -> None:
    assert WHOLE.defects == ()
    assert WHOLE.samples == N
    assert (WHOLE.confidence, WHOLE.resamples) == (0.95, 200)


@settings(max_examples=15)
@given(st.lists(st.integers(0, N), max_size=5))
def test_any_split_into_shards_gives_the_very_same_measurements(cuts: list[int]) -> None:
    result = compare_in_shards(cuts)
    assert without_slice_errors(result) == without_slice_errors(WHOLE)
    for one, other in zip(result.slices, WHOLE.slices, strict=True):
        assert (one.slice, one.value, one.output, one.n) == (other.slice, other.value, other.output, other.n)
        assert one.mae == pytest.approx(other.mae, rel=1e-12)


def test_a_hundred_shards_of_one_sample_give_the_very_same_measurements() -> None:
    assert without_slice_errors(compare_in_shards(list(range(1, N)))) == without_slice_errors(WHOLE)


def test_any_split_into_shards_gives_the_very_same_breakdown() -> None:
    assert compare_in_shards(list(range(7, N, 7))).slices == WHOLE.slices


@settings(max_examples=10)
@given(st.lists(st.integers(0, N), max_size=4))
def test_the_split_does_not_matter_where_samples_are_joined_and_dropped_either(cuts: list[int]) -> None:
    assert without_slice_errors(compare_a_part(*cuts)) == without_slice_errors(compare_a_part())


@cache
def compare_a_part(*cuts: int) -> ComparisonResult:
    """Compare where there is room for a few samples only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_UNITS", 8)
        patch.setattr(units, "LARGEST_PART", 4)
        patch.setattr(vectors, "MOST_SEARCHED", 30)
        patch.setattr(KeptSamples.__init__, "__defaults__", (20,))
        return compare_in_shards(list(cuts))


@pytest.mark.parametrize("kind", [OutputKind.TENSOR, OutputKind.EMBEDDING, OutputKind.LOGITS])
def test_the_split_does_not_matter_to_arrays_in_fortran_s_order(kind: OutputKind) -> None:
    rng = np.random.default_rng(0)
    r, c = (np.asfortranarray(rng.random((40, 300)).astype(np.float32)) for _ in range(2))
    assert run(r, c, kind, cuts=range(1, 40)).measurements == run(r, c, kind).measurements


@pytest.mark.parametrize("kind", [OutputKind.TENSOR, OutputKind.EMBEDDING, OutputKind.LOGITS])
def test_the_order_in_memory_does_not_matter(kind: OutputKind) -> None:
    r, c = np.random.default_rng(0).random((2, 40, 300))
    assert run(np.asfortranarray(r), np.asfortranarray(c), kind).measurements == run(r, c, kind).measurements


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_metric_of_an_output_is_measured_on_all_samples(name: str) -> None:
    found = [m for m in WHOLE.measurements if m.output == name and m.column is None and m.slice is None]
    assert [m.metric for m in found] == [metric.name for metric in metrics_of(OUTPUTS[name].kind)]
    for m in found:
        assert m.n == N
        # The label is one for each sample: traits would need one for each column, tokens one for each position.
        lacks_label = name in {"traits", "tokens"} and METRICS[m.metric].needs_label
        assert (m.value is None) == lacks_label
        assert m.note.endswith("needs labels that fit this output, and there are none") == lacks_label


def test_a_group_is_measured_as_its_samples_alone_would_be() -> None:
    rows = SLICES["level"] == 2
    alone = Comparison({name: OUTPUTS[name] for name in ("score", "tokens", "embedding")}, plan=FEW)
    alone.update(
        {name: REFERENCE[name][rows] for name in ("score", "embedding", "tokens")},
        {name: CANDIDATE[name][rows] for name in ("score", "embedding", "tokens")},
        label=LABEL[rows],
        masks={name: mask[rows] for name, mask in MASKS.items()},
    )
    expected = [replace(m, slice="level", group="2") for m in alone.result().measurements]
    found = [m for m in WHOLE.measurements if (m.slice, m.group) == ("level", "2") and m.output != "map"]
    assert found == expected


def test_in_the_values_of_a_slice_only_what_is_asked_for_is_measured() -> None:
    found = {(m.output, m.slice, m.metric) for m in WHOLE.measurements if m.slice is not None}
    assert {metric for name, _, metric in found if name == "map"} == {"relative_l2", "p99_abs"}
    assert {metric for name, slice_name, metric in found if (name, slice_name) == ("score", "prompt")} == {"mae"}
    assert {metric for name, _, metric in found if name == "tokens"} == {
        metric.name for metric in metrics_of(OUTPUTS["tokens"].kind)
    }


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_metric_measured_alone_is_the_same_as_among_all(name: str) -> None:
    """Samples are kept where a metric needs them, and sums tell the others."""
    ones = {"of": np.array(["all"] * N)}
    for metric in metrics_of(OUTPUTS[name].kind):
        comparison = Comparison({name: OUTPUTS[name]}, by={name: {"of": [metric.name]}}, plan=FEW)
        comparison.update({name: REFERENCE[name]}, {name: CANDIDATE[name]}, slices=ones, label=LABEL, masks=MASKS)
        pairs = [m for m in comparison.result().measurements if m.metric == metric.name]
        whole_, sliced = ([m for m in pairs if (m.slice is None) is plain] for plain in (True, False))
        assert [replace(m, slice=None, group=None) for m in sliced] == whole_


def test_an_output_is_measured_by_the_slices_that_it_asks_for_alone() -> None:
    found = {(m.output, m.slice, m.group) for m in WHOLE.measurements if m.slice is not None}
    levels = {(name, "level", value) for name in ("score", "tokens", "embedding", "map") for value in "0123"}
    assert found == levels | {("score", "prompt", value) for value in ("first", "second", "third")}
    assert {m.n for m in WHOLE.measurements if m.slice == "level" and METRICS[m.metric].least_n == 1} == {N // 4}


@pytest.mark.parametrize("values", [np.array([True, False] * 30), np.repeat([1.5, 2.0], 30), np.array(["a", "b"] * 30)])
def test_a_slice_may_be_of_text_numbers_or_booleans(values: np.ndarray) -> None:
    found = run(REFERENCE["score"], CANDIDATE["score"], slices={"of": values}, by=["of"])
    assert {m.group for m in found.measurements if m.slice} == {str(value) for value in set(values.tolist())}


def test_a_score_of_several_columns_is_judged_by_its_worst() -> None:
    far = {"mae": lambda m: m.high, "pearson": lambda m: -m.low, "bias": lambda m: max(abs(m.low), abs(m.high))}
    far |= {"ks_pvalue": lambda m: -m.value, "max_abs": lambda m: m.value}
    for name, badness in far.items():
        found = {m.column: m for m in WHOLE.measurements if m.output == "traits" and m.metric == name}
        worst = max((found[column] for column in range(3)), key=badness)
        assert found[None].value == worst.value
        assert (found[None].low, found[None].high) == (worst.low, worst.high)
        assert found[None].note == f"column {worst.column}, the worst of 3"


def columns(m: Measurement) -> tuple[float | None, ...]:
    return (m.value, m.low, m.high)


def test_each_column_is_measured_as_if_alone() -> None:
    for column in range(3):
        alone = measure(REFERENCE["traits"][:, column], CANDIDATE["traits"][:, column])
        found = {m.metric: m for m in WHOLE.measurements if m.output == "traits" and m.column == column}
        assert {name: columns(m) for name, m in found.items()} == {name: columns(m) for name, m in alone.items()}


def test_a_score_of_one_column_has_no_columns_and_is_a_plain_score() -> None:
    r, c = REFERENCE["score"], CANDIDATE["score"]
    result = run(r[:, None], c[:, None], label=LABEL)
    assert {m.column for m in result.measurements} == {None}
    assert whole(result) == measure(r, c, label=LABEL)
    assert whole(run(r, c, label=LABEL[:, None])) == whole(result)


def test_one_undefined_column_makes_the_whole_undefined() -> None:
    reference = np.random.default_rng(0).random((20, 2))
    candidate = reference.copy()
    candidate[:, 1] = 0.5
    m = measure(reference, candidate)["pearson"]
    assert (m.value, m.low, m.high) == (None, None, None)
    assert m.note == "column 1: undefined: the candidate is constant"


def test_labels_of_every_column_are_each_column_s_own() -> None:
    label = np.round(REFERENCE["traits"] * 4)
    result = run(REFERENCE["traits"], CANDIDATE["traits"], label=label)
    for column in range(3):
        alone = measure(REFERENCE["traits"][:, column], CANDIDATE["traits"][:, column], label=label[:, column])
        (found,) = (m for m in result.measurements if (m.metric, m.column) == ("qwk_drop", column))
        assert found.value == alone["qwk_drop"].value is not None


def test_labels_may_name_the_class_of_every_position() -> None:
    label = np.arange(4 * N).reshape(N, 4) % 7
    tokens = measure(
        REFERENCE["tokens"], CANDIDATE["tokens"], OutputKind.LOGITS, label=label, mask=MASKS["attention_mask"]
    )
    right = [(side["tokens"].argmax(-1) == label)[MASKS["attention_mask"]].mean() for side in (REFERENCE, CANDIDATE)]
    assert tokens["accuracy_drop"].value == pytest.approx(right[0] - right[1])


def test_labels_in_some_batches_only_are_a_defect_and_what_has_them_is_measured() -> None:
    r, c = REFERENCE["score"], CANDIDATE["score"]
    for first, second in ((LABEL, None), (None, LABEL)):
        comparison = Comparison({"score": OUTPUTS["score"]}, plan=FEW)
        for part, label in ((slice(0, 20), first), (slice(20, N), second)):
            comparison.update({"score": r[part]}, {"score": c[part]}, label=None if label is None else label[part])
        (sentence,) = comparison.result().defects
        assert sentence.startswith("score: labels that fit this output in some batches only (40 samples: 20, 21,")


def test_slices_give_the_mean_absolute_error_of_every_output_and_value() -> None:
    error = np.abs(REFERENCE["map"].astype(float) - CANDIDATE["map"]).mean(axis=(1, 2, 3))
    found = {(s.output, s.slice, s.value): s for s in WHOLE.slices}
    assert len(found) == len(OUTPUTS) * (4 + 3)
    assert found["map", "level", "2"].n == N // 4
    assert found["map", "level", "2"].mae == pytest.approx(error[SLICES["level"] == 2].mean())
    mask = MASKS["attention_mask"]
    error = np.abs(REFERENCE["tokens"].astype(float) - CANDIDATE["tokens"]).mean(axis=2)
    rows = SLICES["prompt"] == "second"
    each = [error[row][mask[row]].mean() for row in np.flatnonzero(rows)]
    assert found["tokens", "prompt", "second"].mae == pytest.approx(np.mean(each))


def test_the_worst_samples_are_over_all_outputs_and_sorted() -> None:
    found = [sample.abs_error for sample in WHOLE.worst]
    assert len(found) == 50
    assert found == sorted(found, reverse=True)
    for sample in WHOLE.worst:
        assert OUTPUTS[sample.output].mask or sample.abs_error == abs(sample.reference - sample.candidate)


def test_the_worst_sample_is_not_in_the_padding() -> None:
    r = np.zeros((3, 4))
    c = r + 0.1
    c[:, 3] = np.nan
    result = run(r, c, OutputKind.TENSOR, mask=np.array([[1, 1, 1, 0]] * 3))
    assert [(w.reference, w.candidate, w.abs_error) for w in result.worst] == [(0.0, 0.1, 0.1)] * 3
    json.dumps(asdict(result), allow_nan=False)


def test_shards_may_differ_in_the_length_of_a_tensor() -> None:
    comparison = Comparison({"map": OUTPUTS["map"]}, plan=FEW)
    for length in (3, 9):
        comparison.update({"map": np.ones((2, length))}, {"map": np.full((2, length), 1.5)})
    result = comparison.result()
    assert result.defects == ()
    assert whole(result)["mae"].value == 0.5


def test_more_batches_may_follow_a_result() -> None:
    comparison = Comparison({"out": OUTPUTS["score"]}, plan=FEW)
    for part in (slice(0, 25), slice(25, N)):
        comparison.update({"out": REFERENCE["score"][part]}, {"out": CANDIDATE["score"][part]})
        comparison.result()
    assert whole(comparison.result()) == measure(REFERENCE["score"], CANDIDATE["score"])


def test_without_a_batch_every_metric_is_undefined_and_says_so() -> None:
    result = Comparison(OUTPUTS, by=BY).result()
    assert result.samples == 0
    assert {(m.value, m.n, m.note) for m in result.measurements} == {(None, 0, "no sample could be compared")}
    assert {m.slice for m in result.measurements} == {None}


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="outputs: none declared"):
        Comparison({})


def test_the_plan_is_that_of_the_bounds() -> None:
    r, c = REFERENCE["score"], CANDIDATE["score"]
    sure = run(r, c, plan=Bootstrap(confidence=0.99, resamples=300))
    assert (sure.confidence, sure.resamples) == (0.99, 300)
    assert whole(sure)["mae"].high > measure(r, c, plan=Bootstrap(confidence=0.8, resamples=300))["mae"].high
    default = Comparison({"score": OUTPUTS["score"]}).result()
    assert (default.confidence, default.resamples) == (0.95, 2000)


def test_a_result_survives_json_without_nan() -> None:
    adapter = TypeAdapter(ComparisonResult)
    assert adapter.validate_json(adapter.dump_json(WHOLE)) == WHOLE
    json.dumps(asdict(WHOLE), allow_nan=False)
