import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.breakdowns import LARGEST_SLICE, WORST_KEPT, SliceErrors, WorstSamples
from validation.defects import DefectLog


def add(slices: SliceErrors, labels: dict[str, np.ndarray], errors: np.ndarray) -> None:
    for name, values in labels.items():
        for value in np.unique(values).tolist():
            slices.add("score", (name, value), errors[values == value])


def test_slice_errors_are_means_over_all_batches() -> None:
    slices, log = SliceErrors(), DefectLog()
    for levels, errors in (([1, 2, 1], [0.1, 0.2, 0.3]), ([2, 2], [0.6, 0.1])):
        labels = slices.label({"level": np.array(levels)}, np.arange(len(levels)), log)
        add(slices, labels, np.array(errors))
    found = {(error.slice, error.value, error.output): (error.n, error.mae) for error in slices.result()}
    assert found == {
        ("level", "1", "score"): (2, pytest.approx(0.2)),
        ("level", "2", "score"): (3, pytest.approx(0.3)),
    }
    assert log.sentences() == ()


def test_a_slice_of_too_many_values_is_a_defect_and_stays_bounded() -> None:
    slices, log = SliceErrors(), DefectLog()
    for start in range(0, 5_000, 500):
        samples = np.arange(start, start + 500)
        add(slices, slices.label({"essay": samples}, samples, log), np.zeros(500))
    assert len(slices.result()) == LARGEST_SLICE
    assert log.sentences() == (
        "slice.essay: more than 1,000 distinct values (4,000 samples: 1000, 1001, 1002, 1003, 1004, …)",
    )


def worst_indices(errors: np.ndarray, cuts: list[int]) -> list[int]:
    worst, start = WorstSamples(), 0
    for part in np.split(errors, sorted(cuts)):
        column = part.reshape(-1, 1)
        worst.update("score", np.zeros_like(column), column, part, start=start, columns=False)
        start += part.size
    return [sample.index for sample in worst.result()]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_the_worst_samples_do_not_depend_on_the_split_and_ties_go_to_the_lower_index(
    errors: list[int], cuts: list[int]
) -> None:
    expected = sorted(range(len(errors)), key=lambda index: (-errors[index], index))[:WORST_KEPT]
    array = np.array(errors, dtype=float)
    assert worst_indices(array, [min(cut, array.size) for cut in cuts]) == expected


def test_a_worst_sample_names_the_column_and_both_values() -> None:
    worst = WorstSamples()
    reference, candidate = np.array([[0.1, 0.5]]), np.array([[0.2, 0.9]])
    worst.update("traits", reference, candidate, np.array([0.4]), start=7, columns=True)
    (sample,) = worst.result()
    assert (sample.index, sample.output, sample.column) == (7, "traits", 1)
    assert (sample.reference, sample.candidate, sample.abs_error) == (0.5, 0.9, 0.4)


def test_the_worst_of_several_outputs_are_ranked_together() -> None:
    worst = WorstSamples()
    for name, error in (("b", 0.2), ("a", 0.2), ("c", 0.7)):
        side = np.array([[0.0], [0.0]])
        worst.update(name, side, side + error, np.array([error, error]), start=0, columns=False)
    assert [(sample.output, sample.index) for sample in worst.result()] == [
        ("c", 0),
        ("c", 1),
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]
    assert {sample.column for sample in worst.result()} == {None}


def test_ties_between_outputs_are_kept_whichever_comes_first() -> None:
    kept = []
    for names in (("a", "b"), ("b", "a")):
        worst = WorstSamples()
        for name in names:
            side = np.zeros((WORST_KEPT, 1))
            worst.update(name, side, side + 1, np.ones(WORST_KEPT), start=0, columns=False)
        kept.append(worst.result())
    assert kept[0] == kept[1]
    assert [(sample.index, sample.output) for sample in kept[0]][:4] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
