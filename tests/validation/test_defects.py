"""Every way in which outputs can be unfit is named, counted and located, and never raises."""

import numpy as np
import pytest

from validation.comparison import Comparison, ComparisonResult
from validation.outputs import OutputKind, OutputSpec

GOOD = np.linspace(0, 1, 8).reshape(8, 1)


def with_values(index: object, value: float) -> np.ndarray:
    array = GOOD.copy()
    array[index] = value
    return array


def run(reference: object, candidate: object) -> ComparisonResult:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, {})
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
            with_values(slice(0, 7), 1e200),
            "score: the candidate has NaN, Inf or a magnitude above 1e140 (7 samples: 8, 9, 10, 11, 12, …)",
        ),
        (GOOD[:7], "score: the reference has shape (8, 1), the candidate (7, 1) (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD[:, 0], "score: the reference has shape (8, 1), the candidate (8,) (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.astype(object), "score: the candidate is not numeric: dtype object (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.astype(str), "score: the candidate is not numeric: dtype <U32 (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD > 0, "score: the candidate is not numeric: dtype bool (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD + 1j, "score: the candidate is not numeric: dtype complex128 (8 samples: 8, 9, 10, 11, 12, …)"),
        (GOOD.tolist(), "score: the candidate is not numeric: type list (8 samples: 8, 9, 10, 11, 12, …)"),
    ],
)
def test_a_bad_candidate_is_named_and_leaves_the_good_batch_alone(candidate: object, sentence: str) -> None:
    result = run(GOOD, candidate)
    assert result.defects == (sentence,)
    assert result.samples == 16
    assert {measurement.n for measurement in result.measurements} == {8}
    assert {m.metric: m.value for m in result.measurements}["mae"] == 0.0


def test_a_bad_reference_is_named_as_such() -> None:
    defects = run(with_values(0, np.nan), with_values(1, np.nan)).defects
    assert [text.partition(" has")[0] for text in defects] == ["score: the reference", "score: the candidate"]


def test_defects_of_one_kind_join_over_batches() -> None:
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, {})
    for _ in range(100):
        comparison.update({"score": GOOD}, {"score": with_values(0, np.nan)})
    (sentence,) = comparison.result().defects
    assert sentence.endswith("(100 samples: 0, 8, 16, 24, 32, …)")


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
    comparison = Comparison({"score": OutputSpec(kind=OutputKind.SCORE)}, {})
    comparison.update(reference, candidate)
    result = comparison.result()
    assert result.defects == (f"{sentence} (8 samples: 0, 1, 2, 3, 4, …)",)
    assert result.samples == 8


def test_outputs_of_one_batch_with_different_lengths_are_a_defect() -> None:
    specs = {name: OutputSpec(kind=OutputKind.SCORE) for name in ("long", "short")}
    comparison = Comparison(specs, {})
    batch = {"long": GOOD, "short": GOOD[:5]}
    comparison.update(batch, batch)
    assert comparison.result().defects == (
        "short: shape (5, 1) where the batch has 8 samples (8 samples: 0, 1, 2, 3, 4, …)",
    )


def test_a_score_that_changes_its_columns_is_a_defect() -> None:
    wide = np.ones((2, 3))
    assert run(wide, wide).defects == ("score: 3 columns, where the first batch has 1 (2 samples: 8, 9)",)


@pytest.mark.parametrize("array", [np.ones((8, 0)), np.array(3.0)])
def test_an_output_without_elements_or_samples_is_a_defect(array: np.ndarray) -> None:
    assert len(run(array, array).defects) == 1


def test_an_empty_batch_against_a_full_one_is_a_defect() -> None:
    assert run(GOOD[:0], GOOD).defects == (
        "score: the reference has shape (0, 1), the candidate (8, 1) (in a batch without samples)",
    )


def test_an_empty_batch_on_both_sides_changes_nothing() -> None:
    result = run(GOOD[:0], GOOD[:0])
    assert result.defects == ()
    assert result.samples == 8
