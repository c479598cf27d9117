"""Every metric of a score against an independent implementation, and what a constant or a label does to it."""

import numpy as np
import pytest
from scipy import stats

from tests.validation.cases import measure, run, values, whole
from tests.validation.independent import kappa, kl_by_deciles, scores
from validation.bootstrap import Bootstrap
from validation.metrics import METRICS, metrics_of
from validation.outputs import OutputKind
from validation.reservoir import KeptSamples
from validation.scores import MOST_GRADES, ScoreColumn


def make_pairs(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    r = rng.beta(2, 3, 400)
    c = np.clip(r + rng.normal(0.02, 0.1, r.size), 0, 1)
    label = np.clip(np.round(5 * r + rng.normal(0, 0.6, r.size)), 0, 5) / 5
    if name == "ties":
        r, c = np.round(r, 1), np.round(c, 1)
        label = label + 0.013  # no score lies half-way between two labels
    if name == "far from zero":
        r, c, label = r + 1e6, c + 1e6, label + 1e6
    if name == "float32":
        r, c = r.astype(np.float32), c.astype(np.float32)
    return r, c, label


@pytest.mark.parametrize("name", ["plain", "ties", "far from zero", "float32"])
def test_every_metric_of_a_score_is_that_of_an_independent_implementation(name: str) -> None:
    r, c, label = make_pairs(name)
    found, expected = values(measure(r, c, label=label)), scores(r, c, label)
    assert set(found) == set(expected) == {metric.name for metric in metrics_of(OutputKind.SCORE)}
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-6, abs=1e-8), metric


def test_every_interval_of_a_score_holds_its_value() -> None:
    r, c, label = make_pairs("plain")
    for m in measure(r, c, label=label).values():
        if m.metric not in {"ks_pvalue", "max_abs"}:
            assert m.low <= m.value <= m.high, m.metric
            assert m.low < m.high, m.metric
            assert m.low <= m.low_seen <= m.value <= m.high_seen <= m.high, m.metric


def test_the_largest_error_has_no_bound_from_above_and_a_p_value_none_at_all() -> None:
    found = measure(*make_pairs("plain")[:2])
    assert (found["max_abs"].low, found["max_abs"].high) == (found["max_abs"].value, None)
    assert (found["ks_pvalue"].low, found["ks_pvalue"].high) == (None, None)


SPREAD = ("bias", "pearson", "spearman", "wasserstein", "smd", "mae_drop", "qwk_drop")


@pytest.mark.parametrize("metric", SPREAD)
def test_the_width_of_an_interval_is_that_of_fresh_samples(metric: str) -> None:
    assert_width(metric, digits=9)


@pytest.mark.parametrize("metric", ["bias", "pearson", "smd", "mae_drop", "spearman"])
def test_the_width_of_an_interval_is_that_of_fresh_samples_with_ties_too(metric: str) -> None:
    assert_width(metric, digits=0)


def assert_width(metric: str, digits: int) -> None:
    """The bound is about 1.64 deviations off, and the deviation is seen by drawing samples anew."""
    rng = np.random.default_rng(11)
    drawn, upper = [], []
    for number in range(60):
        r = 3 * rng.beta(2, 3, 400)
        c = (r + rng.normal(0.09, 0.3, r.size)).round(digits)
        r = r.round(digits)
        label = np.clip(np.round(5 / 3 * r + rng.normal(0, 0.6, r.size)), 0, 5) * 3 / 5
        if number < 10:
            column = ScoreColumn(with_label=True, keeps=True)
            column.update(r, c, label=label)
            reading = column.readings(Bootstrap(resamples=400), METRICS)[metric]
            upper.append(reading.interval.high_seen - reading.value)
        drawn.append(scores_of(metric, r, c, label))
    assert np.mean(upper) == pytest.approx(1.645 * np.std(drawn), rel=0.3)


def scores_of(metric: str, r: np.ndarray, c: np.ndarray, label: np.ndarray) -> float:
    """One metric alone: the independent ones of all are slow."""
    made = {
        "bias": lambda: c.mean() - r.mean(),
        "pearson": lambda: stats.pearsonr(r, c).statistic,
        "spearman": lambda: stats.spearmanr(r, c).statistic,
        "wasserstein": lambda: stats.wasserstein_distance(r, c),
        "smd": lambda: (c.mean() - r.mean()) / np.sqrt((r.var() + c.var()) / 2),
        "mae_drop": lambda: np.abs(c - label).mean() - np.abs(r - label).mean(),
        "qwk_drop": lambda: kappa(label, r) - kappa(label, c),
    }
    return made[metric]()


def test_bins_of_a_score_sit_between_its_own_values_wherever_those_repeat() -> None:
    rng = np.random.default_rng(3)
    for r in (rng.integers(0, 4, 300) / 3, np.repeat([0.0, 1.0], [290, 10]), rng.beta(0.2, 0.2, 300).round(1)):
        c = np.clip(r + rng.normal(0, 0.3, r.size), 0, 1)
        assert measure(r, c)["kl"].value == pytest.approx(kl_by_deciles(r, c), abs=1e-12)


def test_a_constant_side_has_no_correlation() -> None:
    r, flat = np.linspace(0, 1, 50), np.full(50, 0.5)
    for metric in ("pearson", "spearman"):
        assert (measure(r, flat)[metric].value, measure(r, flat)[metric].note) == (
            None,
            "undefined: the candidate is constant",
        )
        assert measure(flat, r)[metric].note == "undefined: the reference is constant"
        assert measure(flat, flat + 0.1)[metric].note == "undefined: the reference and the candidate are constant"
        assert measure(flat, flat + 0.1)[metric].value is None


def test_constant_and_equal_sides_are_ideal() -> None:
    flat = np.full(50, 0.5)
    found = measure(flat, flat)
    assert {name: found[name].value for name in ("pearson", "spearman", "smd", "kl")} == {
        "pearson": 1.0,
        "spearman": 1.0,
        "smd": 0.0,
        "kl": 0.0,
    }
    assert (found["pearson"].low, found["smd"].high, found["kl"].high) == (1.0, 0.0, 0.0)
    assert found["pearson"].note == "both sides are constant and equal"


def test_a_constant_reference_has_no_deciles_and_two_constants_no_spread() -> None:
    flat = np.full(50, 0.5)
    assert measure(flat, np.linspace(0, 1, 50))["kl"].note == "undefined: the reference is constant"
    assert measure(flat, flat + 0.1)["kl"].value is None
    assert measure(flat, flat + 0.1)["smd"].note == "undefined: the reference and the candidate are constant"
    assert measure(flat, np.linspace(0, 1, 50))["smd"].value == pytest.approx(0, abs=1e-12)


def test_a_column_is_constant_only_over_all_batches() -> None:
    r = np.repeat([0.2, 0.8], 25)
    found = whole(run(r, r, cuts=[25]))
    assert found["pearson"].value == pytest.approx(1.0)
    assert found["pearson"].note == ""


def test_two_samples_are_too_few_for_a_correlation() -> None:
    found = measure(np.array([0.1, 0.2]), np.array([0.1, 0.3]))
    assert (found["pearson"].value, found["pearson"].note) == (None, "undefined on fewer than 3 samples")
    assert found["smd"].value is not None


def test_without_labels_a_drop_is_undefined() -> None:
    found = measure(*make_pairs("plain")[:2])
    for metric in ("mae_drop", "qwk_drop"):
        assert (found[metric].value, found[metric].note) == (
            None,
            "needs labels that fit this output, and there are none",
        )


def test_labels_of_one_grade_or_of_no_grades_have_no_kappa() -> None:
    r = np.linspace(0, 1, MOST_GRADES + 1)
    assert measure(r, r, label=np.ones(r.size))["qwk_drop"].note == "undefined: labels and scores are one grade"
    assert measure(r, r, label=r)["qwk_drop"].note == "undefined: labels with 101 distinct values are no grades"
    assert measure(r, r, label=r)["mae_drop"].value == 0
    assert measure(r[1:], r[1:], label=r[1:])["qwk_drop"].value == 0


def test_a_score_half_way_between_two_grades_counts_as_the_lower() -> None:
    label = np.array([0.0, 1.0] * 20)
    assert measure(label, np.where(label == 0, 0.5, 1.0), label=label)["qwk_drop"].value == 0
    assert measure(label, np.where(label == 1, 0.5, 0.0), label=label)["qwk_drop"].value == 1


def test_a_better_candidate_has_a_negative_drop() -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, 6, 300).astype(float)
    found = measure(label + rng.normal(0, 1, 300), label, label=label)
    assert found["mae_drop"].high < 0
    assert found["qwk_drop"].high < 0


def test_beyond_the_limit_ranks_and_distributions_are_of_a_part_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptSamples.__init__, "__defaults__", (256,))
    rng = np.random.default_rng(6)
    r = rng.random(2_000)
    found = measure(r, r + rng.normal(0, 0.1, r.size), label=np.round(r, 1))
    parts = {"p99_abs", "p99_sd", "median_sd", "spearman", "ks", "ks_pvalue", "wasserstein", "kl", "qwk_drop"}
    for name, m in found.items():
        if name in parts:
            assert 64 < m.n <= 256
            assert m.note == f"of {m.n:,} samples drawn at random"
        else:
            assert (m.n, m.note) == (2_000, "")


def test_an_empty_batch_changes_nothing() -> None:
    r, c, label = make_pairs("plain")
    column = ScoreColumn(with_label=True, keeps=True)
    for part in (slice(0, 0), slice(0, 400), slice(400, 400)):
        column.update(r[part], c[part], label=label[part])
    plain = ScoreColumn(with_label=True, keeps=True)
    plain.update(r, c, label=label)
    plan = Bootstrap(resamples=200)
    assert column.readings(plan, METRICS) == plain.readings(plan, METRICS)


def test_without_a_batch_there_are_no_readings() -> None:
    assert ScoreColumn(with_label=False, keeps=True).readings(Bootstrap(), METRICS) == {}
