"""What is kept of a stream: exactness, independence of the split, and bounded memory."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats
from sklearn import metrics

from validation.accumulators import Accumulator, ClassAgreement, ScoreColumn, TensorMoments

COUNTED = {"ks", "ks_pvalue", "max_abs", "top1_agreement"}
CUTS = st.lists(st.integers(0, 40), max_size=4)


def numbers(n: int, *trailing: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (2, n, *trailing), elements=st.floats(-4, 4, width=16))


def feed(make: Callable[[], Accumulator], pairs: np.ndarray, cuts: list[int]) -> Accumulator:
    accumulator = make()
    for part in np.split(pairs, sorted(min(cut, pairs.shape[1]) for cut in cuts), axis=1):
        accumulator.update(*part)
    return accumulator


def assert_same_readings(one: Accumulator, other: Accumulator) -> None:
    a, b = one.readings(), other.readings()
    assert a.keys() == b.keys()
    for name, reading in a.items():
        assert reading.n == b[name].n
        assert reading.note == b[name].note
        tolerance = 1e-12 if name in COUNTED else 1e-7
        assert reading.value == (None if b[name].value is None else pytest.approx(b[name].value, abs=tolerance))


@given(st.integers(1, 40).flatmap(numbers), CUTS)
def test_a_score_column_does_not_see_where_shards_are_cut(pairs: np.ndarray, cuts: list[int]) -> None:
    def make() -> ScoreColumn:
        return ScoreColumn(span=1.0)

    assert feed(make, pairs, cuts).readings() == feed(make, pairs, []).readings()


@given(st.integers(1, 40).flatmap(lambda n: numbers(n, 3)), CUTS)
def test_tensor_moments_do_not_see_where_shards_are_cut(pairs: np.ndarray, cuts: list[int]) -> None:
    def make() -> TensorMoments:
        return TensorMoments((-4.0, 4.0))

    assert_same_readings(feed(make, pairs, cuts), feed(make, pairs, []))


@given(st.integers(1, 40).flatmap(lambda n: numbers(n, 3)), CUTS)
def test_class_agreement_does_not_see_where_shards_are_cut(pairs: np.ndarray, cuts: list[int]) -> None:
    def make() -> ClassAgreement:
        return ClassAgreement(logits=True)

    assert_same_readings(feed(make, pairs, cuts), feed(make, pairs, []))


@given(st.integers(1, 40).flatmap(numbers), st.randoms(use_true_random=False))
def test_a_score_column_does_not_see_the_order_of_pairs(pairs: np.ndarray, random) -> None:  # noqa: ANN001 - Hypothesis has no name for it
    order = list(range(pairs.shape[1]))
    random.shuffle(order)
    assert_same_readings(feed(ScoreColumn, pairs[:, order], []), feed(ScoreColumn, pairs, []))


def test_a_score_column_measures_what_scipy_and_scikit_learn_do(rng: np.random.Generator) -> None:
    reference, candidate = rng.random(3_000), rng.random(3_000)
    column = ScoreColumn(span=4.0)
    column.update(reference, candidate)
    values = {name: reading.value for name, reading in column.readings().items()}
    scipys = stats.ks_2samp(reference, candidate)
    edges = np.quantile(reference, np.arange(1, 10) / 10, method="midpoint")
    p, q = (np.bincount(np.digitize(side, edges), minlength=10) for side in (reference, candidate))
    assert values == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(reference, candidate),
            "max_abs": metrics.max_error(reference, candidate),
            "rmse": metrics.root_mean_squared_error(reference, candidate),
            "relative_l2": np.linalg.norm(reference - candidate) / np.linalg.norm(reference),
            "pearson": stats.pearsonr(reference, candidate).statistic,
            "mae_range": metrics.mean_absolute_error(reference, candidate) / 4,
            "ks": scipys.statistic,
            "ks_pvalue": scipys.pvalue,
            "kl": stats.entropy(p + 0.5, q + 0.5),
        },
        abs=1e-9,
    )


def test_without_a_declared_range_the_error_of_the_range_is_undefined() -> None:
    column = ScoreColumn()
    column.update(np.ones(3), np.ones(3))
    assert column.readings()["mae_range"].value is None
    assert column.readings()["mae_range"].note == "the output declares no range"


@pytest.mark.parametrize(("dtype", "most"), [(np.float16, 10), (np.float32, 10), (np.float64, 20), (np.int64, 20)])
def test_a_hundred_thousand_pairs_take_few_bytes_each(dtype: type, most: int) -> None:
    column, batch = ScoreColumn(), np.ones(64, dtype=dtype)
    pairs = 0
    while pairs < 100_000:
        column.update(batch, batch)
        pairs += batch.size
    assert column.nbytes <= most * pairs * 1.01


def test_a_score_column_keeps_float64_exactly_after_float32() -> None:
    column = ScoreColumn()
    column.update(np.array([0.5], dtype=np.float32), np.array([0.5], dtype=np.float32))
    column.update(np.array([0.1]), np.array([1 / 3]))
    reference, candidate = column.pairs
    assert reference.tolist() == [0.5, 0.1]
    assert candidate.tolist() == [0.5, 1 / 3]


def test_tensor_moments_measure_what_scipy_and_scikit_learn_do(rng: np.random.Generator) -> None:
    reference = rng.normal(size=(300, 8, 130))  # More than one block of work.
    candidate = reference + rng.normal(0, 0.1, reference.shape)
    moments = TensorMoments((reference.min(), reference.max()))
    moments.update(reference, candidate)
    values = {name: reading.value for name, reading in moments.readings().items()}
    a, b = reference.ravel(), candidate.ravel()
    assert values["mae"] == pytest.approx(metrics.mean_absolute_error(a, b))
    assert values["rmse"] == pytest.approx(metrics.root_mean_squared_error(a, b))
    assert values["max_abs"] == pytest.approx(metrics.max_error(a, b))
    assert values["relative_l2"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert values["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert values["ks"] == pytest.approx(stats.ks_2samp(a, b).statistic, abs=2e-4)


def test_readings_of_a_tensor_count_samples_and_not_elements() -> None:
    moments = TensorMoments((0.0, 1.0))
    moments.update(np.ones((5, 100)), np.ones((5, 100)))
    assert {reading.n for reading in moments.readings().values()} == {5}


def test_logits_are_measured_as_scipy_and_scikit_learn_do(rng: np.random.Generator) -> None:
    reference = rng.normal(0, 2, (500, 3, 11)).astype(np.float32)
    candidate = reference + rng.normal(0, 0.3, reference.shape).astype(np.float32)
    agreement = ClassAgreement(logits=True)
    agreement.update(reference, candidate)
    values = {name: reading.value for name, reading in agreement.readings().items()}
    p, q = special.softmax(reference.astype(float), axis=-1), special.softmax(candidate.astype(float), axis=-1)
    assert values["kl"] == pytest.approx(stats.entropy(p, q, axis=-1).mean(), rel=1e-9)
    assert values["top1_agreement"] == metrics.accuracy_score(p.argmax(-1).ravel(), q.argmax(-1).ravel())
    exact = stats.ks_2samp(p.max(-1).ravel(), q.max(-1).ravel()).statistic
    assert values["ks"] == pytest.approx(exact, abs=2e-3)
    assert values["mae"] == pytest.approx(metrics.mean_absolute_error(reference.ravel(), candidate.ravel()), rel=1e-5)


@pytest.mark.parametrize("shape", [(100,), (100, 1)])
def test_a_lone_logit_is_one_of_two_classes(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    logits = rng.normal(0, 2, shape)
    agreement = ClassAgreement(logits=True)
    agreement.update(logits, -logits)
    values = agreement.readings()
    p = special.expit(logits.ravel())
    assert values["top1_agreement"].value == 0.0
    assert values["kl"].value == pytest.approx(stats.entropy([p, 1 - p], [1 - p, p]).mean(), rel=1e-9)


def test_a_lone_probability_is_one_of_two_classes() -> None:
    agreement = ClassAgreement(logits=False)
    agreement.update(np.array([0.9, 0.2]), np.array([0.8, 0.7]))
    values = agreement.readings()
    assert values["top1_agreement"].value == 0.5
    assert values["kl"].value == pytest.approx(stats.entropy([[0.9, 0.2], [0.1, 0.8]], [[0.8, 0.7], [0.2, 0.3]]).mean())


def test_without_the_reference_range_only_what_needs_a_histogram_is_undefined() -> None:
    moments = TensorMoments(None)
    moments.update(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    readings = moments.readings()
    assert readings["mae"].value == 0.5
    assert {name for name, reading in readings.items() if reading.value is None} == {"ks", "ks_pvalue", "kl"}
    assert readings["ks"].note == "undefined: the reference's range was not given"


def test_without_a_batch_there_are_no_readings() -> None:
    accumulators = ScoreColumn(), TensorMoments((0, 1)), ClassAgreement(logits=True)
    assert [accumulator.readings() for accumulator in accumulators] == [{}, {}, {}]
