"""Every way in which outputs can be unfit is named, counted and located, and never raises."""

import numpy as np
import pytest

from tests.validation.cases import FEW, measure, pair_of, run, whole
from tests.validation.test_properties import OF_THEIR_OWN
from validation.breakdowns import LARGEST_SLICE
from validation.comparison import Comparison, ComparisonResult
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec

GOOD = np.linspace(0, 1, 8).reshape(8, 1)


def with_values(index: object, value: float) -> np.ndarray:
    array = GOOD.copy()
    array[index] = value
    return array


def after_a_good_batch(reference: object, candidate: object) -> ComparisonResult:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, plan=FEW)
    comparison.update({"score": GOOD}, {"score": GOOD})
    comparison.update({"score": reference}, {"score": candidate})
    return comparison.result()


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        (with_values(3, np.nan), "score: the candidate has NaN, Inf or a magnitude above 1e140 (1 sample: 11)"),
        (
            with_values([2, 5], np.inf),
            "score: the candidate has NaN, Inf or a magnitude above 1e140 (2 samples: 10, 13)",
        ),
        (
            with_values([2, 5], -np.inf),
            "score: the candidate has NaN, Inf or a magnitude above 1e140 (2 samples: 10, 13)",
        ),
        (
            with_values(slice(0, 7), 1e200),
            "score: the candidate has NaN, Inf or a magnitude above 1e140 (7 samples: 8, 9, 10, 11, 12, …)",
        ),
        (GOOD[:7], "score: the reference has shape (8, 1), the candidate (7, 1) (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD[:, 0], "score: the reference has shape (8, 1), the candidate (8,) (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.astype(object), "score: the candidate is not numeric: dtype object (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.astype(str), "score: the candidate is not numeric: dtype <U32 (8 samples: 8, 9, 10, 11, 12, …)"),
        (
            GOOD > 0,
            (
                "score: the candidate holds bool, true and false, and kind score measures sizes; write kind: labels,"
                " which counts how many are equal (8 samples: 8, 9, 10, 11, 12, …)"
            ),
        ),
        (GOOD + 1j, "score: the candidate is not numeric: dtype complex128 (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.tolist(), "score: the candidate is not numeric: type list (8 samples: 8, 9, 10, 11, 12, …)"),
        (None, "score: the candidate is not numeric: type NoneType (8 samples: 8, 9, 10, 11, 12, …)"),
    ],
)
def test_a_bad_candidate_is_named_and_leaves_the_good_batch_alone(candidate: object, sentence: str) -> None:
    result = after_a_good_batch(GOOD, candidate)
    assert result.defects == (sentence,)
    assert result.samples == 16
    assert {measurement.n for measurement in result.measurements} == {8}
    assert whole(result)["mae"].value == 0.0


def test_the_largest_magnitude_that_counts_as_a_number_does() -> None:
    assert after_a_good_batch(with_values(1, 1e140), with_values(1, 1e140)).defects == ()
    assert len(after_a_good_batch(with_values(1, 1.1e140), with_values(1, 1.1e140)).defects) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nan_and_inf_of_narrow_floats_are_found(dtype: type) -> None:
    for value in (np.nan, np.inf):
        assert len(after_a_good_batch(GOOD.astype(dtype), with_values(0, value).astype(dtype)).defects) == 1


def test_a_bad_reference_is_named_as_such() -> None:
    defects = after_a_good_batch(with_values(0, np.nan), with_values(1, np.nan)).defects
    assert [text.partition(" has")[0] for text in defects] == ["score: the reference", "score: the candidate"]
    objects = after_a_good_batch(GOOD.astype(object), GOOD.astype(object)).defects
    assert [text.partition(" is")[0] for text in objects] == ["score: the reference", "score: the candidate"]


def test_defects_of_one_kind_join_over_batches() -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)})
    for _ in range(200):
        comparison.update({"score": GOOD}, {"score": with_values([0, 1, 2, 3, 4, 5], np.nan)})
    (sentence,) = comparison.result().defects
    assert sentence.endswith("(1,200 samples: 0, 1, 2, 3, 4, …)")


def test_the_first_samples_may_be_of_several_batches() -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)})
    for _ in range(100):
        comparison.update({"score": GOOD}, {"score": with_values([0, 3], np.nan)})
    (sentence,) = comparison.result().defects
    assert sentence.endswith("(200 samples: 0, 3, 8, 11, 16, …)")


@pytest.mark.parametrize(
    ("reference", "candidate", "sentence"),
    [
        ({"score": GOOD}, {}, "score: the candidate lacks this output"),
        ({}, {"score": GOOD}, "score: the reference lacks this output"),
        (
            {"score": GOOD},
            {"score": GOOD, "extra": GOOD[:3]},
            "extra: the candidate has this output, which is not declared",
        ),
        (
            {"score": GOOD, "extra": np.ones(99)},
            {"score": GOOD},
            "extra: the reference has this output, which is not declared",
        ),
    ],
)
def test_a_missing_or_unexpected_output_is_named(reference: dict, candidate: dict, sentence: str) -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, plan=FEW)
    comparison.update(reference, candidate)
    result = comparison.result()
    assert result.defects == (f"{sentence} (8 samples: 0, 1, 2, 3, 4, …)",)
    assert result.samples == 8


def test_outputs_of_one_batch_with_different_lengths_are_a_defect() -> None:
    specs = {name: OutputSpec(kind=OutputKind.SCORE) for name in ("long", "short")}
    comparison = Comparison(specs, plan=FEW)
    batch = {"long": GOOD, "short": GOOD[:5]}
    comparison.update(batch, batch)
    assert comparison.result().defects == (
        "short: shape (5, 1) where the batch has 8 samples (8 samples: 0, 1, 2, 3, 4, …)",
    )


def test_a_score_that_changes_its_columns_is_a_defect() -> None:
    wide = np.ones((2, 3))
    assert after_a_good_batch(wide, wide).defects == (
        "score: 3 columns, where the first batch has 1 (2 samples: 8, 9)",
    )


@pytest.mark.parametrize(
    "kind",
    [
        OutputKind.EMBEDDING,
        OutputKind.LOGITS,
        OutputKind.PROBABILITIES,
    ],
)
def test_an_output_that_changes_its_classes_or_dimensions_is_a_defect(kind: OutputKind) -> None:
    comparison = Comparison({"out": OutputSpec(kind=kind)}, plan=FEW)
    for width in (4, 6):
        side = np.random.default_rng(0).random((20, width))
        comparison.update({"out": side}, {"out": side})
    result = comparison.result()
    assert result.defects == ("out: 6 columns, where the first batch has 4 (20 samples: 20, 21, 22, 23, 24, …)",)
    assert whole(result)["mae"].n == 20


@pytest.mark.parametrize("array", [np.ones((8, 0)), np.array(3.0)])
def test_an_output_without_elements_or_samples_is_a_defect(array: np.ndarray) -> None:
    assert len(after_a_good_batch(array, array).defects) == 1


def test_an_empty_batch_against_a_full_one_is_a_defect() -> None:
    assert after_a_good_batch(GOOD[:0], GOOD).defects == (
        "score: the reference has shape (0, 1), the candidate (8, 1) (in a batch without samples)",
    )


@pytest.mark.parametrize("kind", OutputKind)
def test_an_empty_batch_on_both_sides_changes_nothing(kind: OutputKind) -> None:
    r, label = np.random.default_rng(0).random((20, 6)), np.arange(20) % 6
    slices = {"level": label}
    if kind in OF_THEIR_OWN:
        r, _, label = pair_of(kind, 0, 20)
    mask = None if kind in {OutputKind.SCORE, OutputKind.BOXES} else np.ones(20)
    whole_ = run(r, r, kind, label=label, mask=mask, slices=slices)
    assert run(r, r, kind, label=label, mask=mask, slices=slices, cuts=[0, 20]) == whole_
    assert whole_.defects == ()


@pytest.mark.parametrize(
    "values", [np.arange(3), np.arange(16).reshape(8, 2), np.array([None] * 8), np.array([b"a"] * 8)]
)
def test_a_slice_that_does_not_label_every_sample_is_a_defect(values: np.ndarray) -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, by={"score": {"level": METRICS}}, plan=FEW)
    comparison.update({"score": GOOD}, {"score": GOOD}, slices={"level": values})
    result = comparison.result()
    assert result.defects == (
        (
            f"slice.level: shape {values.shape} and dtype {values.dtype} where one label per sample is needed"
            " (8 samples: 0, 1, 2, 3, 4, …)"
        ),
    )
    assert {m.slice for m in result.measurements} == {None}


def test_a_slice_of_too_many_values_is_a_defect() -> None:
    n = LARGEST_SLICE + 1
    result = run(np.zeros(n), np.zeros(n), slices={"essay": np.arange(n)}, by=["essay"])
    assert result.defects == (f"slice.essay: more than 1,000 distinct values ({n:,} samples: 0, 1, 2, 3, 4, …)",)


def test_a_slice_that_some_batches_lack_is_a_defect() -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, by={"score": {"level": METRICS}}, plan=FEW)
    comparison.update({"score": GOOD}, {"score": GOOD}, slices={"level": np.arange(8) % 2})
    comparison.update({"score": GOOD}, {"score": 1 - GOOD})
    assert comparison.result().defects == (
        "slice.level: is there in some batches only (8 samples: 8, 9, 10, 11, 12, …)",
    )
    late = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, plan=FEW)
    late.update({"score": GOOD}, {"score": GOOD})
    late.update({"score": GOOD}, {"score": GOOD}, slices={"level": np.arange(8) % 2})
    assert len(late.result().defects) == 1


@pytest.mark.parametrize(
    ("label", "what"),
    [
        (np.ones(7), "shape (7,) and dtype float64"),
        (np.array(1.0), "shape () and dtype float64"),
        (np.array(["a"] * 8), "shape (8,) and dtype <U1"),
        (np.array([None] * 8), "shape (8,) and dtype object"),
        ([1] * 8, "<class 'list'>"),
    ],
)
def test_labels_that_are_not_one_number_per_sample_are_a_defect(label: object, what: str) -> None:
    result = one_batch(label=label)
    assert result.defects == (f"label: {what} where one number per sample is needed (8 samples: 0, 1, 2, 3, 4, …)",)
    assert whole(result)["mae_drop"].value is None


def test_a_label_that_is_not_finite_is_a_defect() -> None:
    result = one_batch(label=with_values([1, 2], np.nan)[:, 0])
    assert result.defects == ("label: NaN or Inf (2 samples: 1, 2)",)
    assert whole(result)["mae_drop"].value is None


def one_batch(label: object) -> ComparisonResult:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, plan=FEW)
    comparison.update({"score": GOOD}, {"score": GOOD}, label=label)
    return comparison.result()


PADDED = np.random.default_rng(0).random((8, 3, 6))
MASKED = {
    kind: OutputSpec(kind=kind, mask="padding") for kind in set(OutputKind) - {OutputKind.SCORE, OutputKind.BOXES}
}


@pytest.mark.parametrize("kind", sorted(MASKED))
@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (np.ones(7), "shape (7,) and dtype float64"),
        (np.ones((8, 4)), "shape (8, 4) and dtype float64"),
        (np.array(1.0), "shape () and dtype float64"),
        (np.array([None] * 8), "shape (8,) and dtype object"),
        (np.array(["a"] * 8), "shape (8,) and dtype <U1"),
        (np.ones((8, 3, 6, 2)), "shape (8, 3, 6, 2) and dtype float64"),
    ],
)
def test_a_mask_that_does_not_fit_is_a_defect(kind: OutputKind, mask: np.ndarray, what: str) -> None:
    result = run(PADDED, PADDED, kind, mask=mask) if mask.ndim else scalar_mask(kind, mask)
    (sentence,) = result.defects
    assert sentence.startswith(f"out: its mask mask has {what}, the output (8, 3, 6) (8 samples: 0,")
    assert {m.value for m in result.measurements} == {None}


def scalar_mask(kind: OutputKind, mask: np.ndarray) -> ComparisonResult:
    comparison = Comparison({"out": OutputSpec(kind=kind, mask="mask")}, plan=FEW)
    comparison.update({"out": PADDED}, {"out": PADDED}, masks={"mask": mask})
    return comparison.result()


@pytest.mark.parametrize("kind", sorted(MASKED))
def test_a_missing_mask_is_a_defect(kind: OutputKind) -> None:
    comparison = Comparison({"out": MASKED[kind]}, plan=FEW)
    comparison.update({"out": PADDED}, {"out": PADDED}, masks={"other": np.ones(8)})
    result = comparison.result()
    assert result.defects == ("out: its mask padding is missing (8 samples: 0, 1, 2, 3, 4, …)",)
    assert {m.value for m in result.measurements} == {None}


@pytest.mark.parametrize(
    ("kind", "shape", "mask"),
    [
        pytest.param(OutputKind.LOGITS, (8, 6), (8, 6)),
        pytest.param(OutputKind.PROBABILITIES, (8, 3, 6), (8, 3, 6)),
        pytest.param(OutputKind.EMBEDDING, (8, 6), (8, 6)),
        pytest.param(OutputKind.EMBEDDING, (8, 3, 6), (8, 3, 6)),
    ],
)
def test_a_mask_of_classes_or_dimensions_is_a_defect(
    kind: OutputKind, shape: tuple[int, ...], mask: tuple[int, ...]
) -> None:
    r = np.random.default_rng(0).random(shape)
    (sentence,) = run(r, r, kind, mask=np.ones(mask)).defects
    assert sentence.startswith("out: its mask mask has shape")


@pytest.mark.parametrize(
    "kind",
    [
        OutputKind.TENSOR,
        pytest.param(OutputKind.LOGITS),
        pytest.param(OutputKind.EMBEDDING),
    ],
)
def test_a_mask_of_positions_holds_for_all_that_a_position_has(kind: OutputKind) -> None:
    r = np.random.default_rng(0).random((20, 3, 2, 6))
    mask = np.arange(3) <= (np.arange(20) % 3)[:, None]
    c = np.where(mask[:, :, None, None], r + 0.25, 9)
    keys = {"axis": 3} if kind is OutputKind.LOGITS else {}
    assert measure(r, c, kind, mask=mask, **keys)["mae"].value == pytest.approx(0.25)


def test_what_a_mask_leaves_out_may_be_nan() -> None:
    c = PADDED.copy()
    c[:, 2] = np.nan
    mask = np.array([[1, 1, 0]] * 8)
    for kind in (OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.EMBEDDING, OutputKind.TENSOR):
        result = run(PADDED, c, kind, mask=mask)
        assert result.defects == ()
        assert whole(result)["mae"].value == 0
    assert len(run(PADDED, c, OutputKind.TENSOR, mask=np.ones((8, 3))).defects) == 1


def test_a_sample_that_is_all_padding_is_no_error_of_an_embedding() -> None:
    mask = np.ones((8, 3))
    mask[0] = 0
    assert measure(PADDED, PADDED, OutputKind.EMBEDDING, mask=mask)["cosine_p1"].value == pytest.approx(1.0)


def test_samples_that_are_all_padding_do_not_thin_out_a_quantile() -> None:
    r, mask = np.zeros((400, 3)), np.zeros((400, 3))
    mask[:4] = 1
    assert measure(r, r + 0.5, OutputKind.TENSOR, mask=mask)["p99_abs"].value == 0.5
