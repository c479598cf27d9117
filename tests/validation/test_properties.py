"""What must hold of metrics whatever the data: symmetry, identity, order, scale and shift."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tests.validation.cases import measure, pair_of, run, values
from validation.bootstrap import Bootstrap
from validation.metrics import METRICS, Bound, Direction, metrics_of
from validation.outputs import OutputKind

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = tuple(OutputKind)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(12, 60)
SYMMETRIC = {
    *("mae", "rmse", "max_abs", "p99_abs", "cosine", "cosine_p1", "pearson", "spearman", "ks", "ks_pvalue"),
    *("wasserstein", "js", "retrieval_overlap@10"),
    *("agreement", "decision_agreement", "set_agreement", "f1_agreement", "iou_agreement"),
    *("text_agreement", "edit_distance"),
}
TURNED_ROUND = {"bias", "smd", "mae_drop", "qwk_drop", "accuracy_drop", "ece_drop"} | {
    *("f1_drop", "iou_drop", "box_f1_drop", "map_drop", "error_rate_drop", "nll_drop"),
}
ONE_SIDED = {
    "relative_l2",
    "p99_sd",
    "median_sd",
    "relative_l2_p99",
    "kl",
    "kl_p99",
    "top1_agreement",
    "top5_agreement",
} | {
    *("class_agreement", "box_f1", "box_quality", "perplexity_ratio"),
}
OF_THEIR_OWN = {
    *(OutputKind.LABELS, OutputKind.MULTILABEL, OutputKind.SEGMENTATION),
    *(OutputKind.BOXES, OutputKind.CTC, OutputKind.LANGUAGE),
}


def make_pair(kind: OutputKind, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Two sides that differ somewhat, with ties, and labels where the kind has any."""
    if kind in OF_THEIR_OWN:
        return pair_of(kind, seed, n)
    rng = np.random.default_rng(seed)
    width = {OutputKind.SCORE: (), OutputKind.TENSOR: (2, 3)}.get(kind, (7,))
    r = rng.normal(0, 2, (n, *width))
    c = r + rng.normal(0, 0.5, r.shape)
    if kind is OutputKind.SCORE:
        return r.round(1), c.round(1), np.arange(n) % 4 + 0.013
    if kind is OutputKind.PROBABILITIES:
        r, c = special.softmax(r, axis=-1), special.softmax(c, axis=-1)
    return r, c, rng.integers(0, 7, n) if kind in {OutputKind.LOGITS, OutputKind.PROBABILITIES} else None


def test_every_metric_is_in_one_of_the_three_sets() -> None:
    assert set(METRICS) == SYMMETRIC | TURNED_ROUND | ONE_SIDED


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=SEEDS, n=SIZES)
def test_metrics_are_symmetric_or_change_their_sign_when_the_sides_are_swapped(
    kind: OutputKind, seed: int, n: int
) -> None:
    r, c, label = make_pair(kind, seed, n)
    one, other = measure(r, c, kind, label=label), measure(c, r, kind, label=label)
    for metric in metrics_of(kind):
        a, b = one[metric.name], other[metric.name]
        if metric.name in SYMMETRIC and not (metric.name == "kl" and kind is OutputKind.SCORE):
            assert a.value == pytest.approx(b.value, abs=1e-12), metric.name
            assert a.high == pytest.approx(b.high, abs=1e-9), metric.name
        if metric.name in TURNED_ROUND:
            assert a.value == pytest.approx(-b.value, abs=1e-12), metric.name


CERTAIN = {"spearman", "wasserstein", "kl", "ece_drop"}
"""Metrics for which an unseen sample is as bad as the worst that was; of all others, however many agree, it may not."""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(seed=SEEDS, n=st.integers(12, 400))
def test_a_candidate_equal_to_its_reference_is_ideal(kind: OutputKind, seed: int, n: int) -> None:
    r, _, label = make_pair(kind, seed, n)
    for name, m in measure(r, r, kind, label=label).items():
        ideal, bounds = METRICS[name].ideal, {m.low, m.high}
        assert m.value == pytest.approx(ideal, abs=1e-12), name
        if name in {"p99_abs", "p99_sd", "median_sd", "relative_l2_p99", "kl_p99", "cosine_p1"}:
            bounds -= {None}
        if METRICS[name].bound is Bound.INTERVAL and (name in CERTAIN or METRICS[name].quantile):
            assert all(bound == pytest.approx(ideal, abs=1e-12) for bound in bounds), name
        if METRICS[name].bound is Bound.INTERVAL:
            seen = {m.low_seen, m.high_seen} - {None}
            assert name == "ks" or all(bound == pytest.approx(ideal, abs=1e-12) for bound in seen), name


def test_ranks_of_equal_sides_without_ties_are_ideal() -> None:
    r = np.random.default_rng(0).random(300)
    m = measure(r, r)["spearman"]
    assert (m.value, m.low, m.high) == pytest.approx((1, 1, 1), abs=1e-12)


@pytest.mark.parametrize("grades", [2, 4, 30])
def test_ranks_of_equal_sides_with_ties_are_ideal(grades: int) -> None:
    r = np.random.default_rng(0).integers(0, grades, 300).astype(float)
    m = measure(r, r)["spearman"]
    assert (m.value, m.low, m.high) == pytest.approx((1, 1, 1), abs=1e-12)


def test_equal_probabilities_diverge_by_nothing_at_all() -> None:
    r, _, _ = make_pair(OutputKind.PROBABILITIES, 0, 400)
    m = measure(r, r, OutputKind.PROBABILITIES)["js"]
    assert (m.value, m.high_seen) == (0.0, 0.0)


@pytest.mark.parametrize("n", [50, 400])
def test_shares_of_equal_sides_are_bounded_by_about_the_rule_of_three(n: int) -> None:
    plan = Bootstrap(resamples=2_000)
    r, _, label = make_pair(OutputKind.LOGITS, 1, n)
    found = measure(r, r, OutputKind.LOGITS, label=label, plan=plan)
    exact = 1 - 0.05 ** (1 / n)
    assert 1 - found["top1_agreement"].low == pytest.approx(exact, rel=0.1)
    assert found["accuracy_drop"].high == pytest.approx(exact, rel=0.1)
    assert exact <= found["ks"].high <= 1.12 * exact  # D's bound is by cumulants, on the safe side.


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=SEEDS, n=SIZES)
def test_the_order_of_samples_changes_no_value(kind: OutputKind, seed: int, n: int) -> None:
    r, c, label = make_pair(kind, seed, n)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = measure(r[order], c[order], kind, label=None if label is None else label[order])
    for name, m in measure(r, c, kind, label=label).items():
        assert m.value == pytest.approx(shuffled[name].value, rel=1e-9, abs=1e-10), name
        assert m.n == shuffled[name].n


@settings(max_examples=15)
@given(seed=SEEDS, n=SIZES, power=st.integers(-12, 12), shift=st.integers(-8, 8))
def test_scale_and_shift_of_a_score_do_what_they_should(seed: int, n: int, power: int, shift: int) -> None:
    r, c, label = make_pair(OutputKind.SCORE, seed, n)
    scale = 2.0**power
    plain = values(measure(r, c, label=label))
    scaled = values(measure(r * scale, c * scale, label=label * scale))
    moved = values(measure(r + shift, c + shift, label=label + shift))
    for name in ("mae", "rmse", "max_abs", "p99_abs", "bias", "wasserstein", "mae_drop"):
        assert scaled[name] == pytest.approx(plain[name] * scale, rel=1e-9, abs=1e-9 * scale), name
        assert moved[name] == pytest.approx(plain[name], rel=1e-9, abs=1e-9), name
    unitless = ("pearson", "spearman", "ks", "ks_pvalue", "smd", "kl", "qwk_drop")
    for name in (*unitless, "relative_l2", "cosine"):
        assert scaled[name] == pytest.approx(plain[name], rel=1e-9, abs=1e-9), name
    for name in set(unitless) - {"ks", "ks_pvalue", "kl"}:  # A shift rounds, and parts what was tied.
        assert moved[name] == pytest.approx(plain[name], rel=1e-7, abs=1e-7), name


@settings(max_examples=15)
@given(seed=SEEDS, n=SIZES, shift=st.integers(-40, 40).map(lambda number: number / 8))
def test_a_shift_of_the_candidate_alone_is_bias_and_distance(seed: int, n: int, shift: float) -> None:
    r = np.round(np.random.default_rng(seed).normal(0, 2, n) * 8) / 8
    found = measure(r, r + shift)
    assert (found["bias"].value, found["mae"].value, found["rmse"].value) == pytest.approx(
        (shift, abs(shift), abs(shift))
    )
    assert found["wasserstein"].value == pytest.approx(abs(shift))
    assert found["pearson"].value == pytest.approx(1.0)
    assert found["spearman"].value == pytest.approx(1.0)
    assert found["smd"].value == pytest.approx(shift / r.std(), abs=1e-9)
    assert (found["bias"].low_seen, found["bias"].high_seen) == pytest.approx((shift, shift), abs=1e-9)


@settings(max_examples=10)
@given(seed=SEEDS, n=SIZES)
def test_distances_of_distributions_and_ranks_do_not_see_an_increasing_function(seed: int, n: int) -> None:
    r, c, _ = make_pair(OutputKind.SCORE, seed, n)
    plain, bent = values(measure(r, c)), values(measure(np.exp(r / 4), np.exp(c / 4)))
    for name in ("ks", "ks_pvalue", "spearman"):
        assert bent[name] == pytest.approx(plain[name], abs=1e-12), name


@settings(max_examples=8)
@given(seed=SEEDS, n=SIZES, shift=st.floats(-50, 50))
def test_logits_may_be_shifted_alike(seed: int, n: int, shift: float) -> None:
    r, c, label = make_pair(OutputKind.LOGITS, seed, n)
    plain = values(measure(r, c, OutputKind.LOGITS, label=label))
    moved = values(measure(r, c + shift, OutputKind.LOGITS, label=label))
    for name in ("kl", "kl_p99", "js", "top1_agreement", "top5_agreement", "accuracy_drop", "ece_drop"):
        assert moved[name] == pytest.approx(plain[name], abs=1e-9), name


@settings(max_examples=8)
@given(seed=SEEDS, n=SIZES, scale=st.floats(0.01, 100))
def test_the_length_of_embeddings_is_no_part_of_their_angles(seed: int, n: int, scale: float) -> None:
    r, c, _ = make_pair(OutputKind.EMBEDDING, seed, n)
    plain, scaled = (values(measure(r, side, OutputKind.EMBEDDING)) for side in (c, c * scale))
    for name in ("cosine", "cosine_p1", "retrieval_overlap@10"):
        assert scaled[name] == pytest.approx(plain[name], abs=1e-9), name


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=SEEDS, n=SIZES)
def test_values_stay_in_the_range_that_the_catalogue_declares(kind: OutputKind, seed: int, n: int) -> None:
    r, c, label = make_pair(kind, seed, n)
    opposite = -r if kind is not OutputKind.PROBABILITIES else np.roll(r, 1, axis=-1)
    for side in (c, opposite):
        for name, m in measure(r, side, kind, label=label).items():
            metric = METRICS[name]
            signed = metric.direction is Direction.NEARER_ZERO_IS_BETTER or metric.needs_label
            if metric.worst is not None:
                ends = sorted((metric.ideal, metric.worst))
                least = -abs(metric.worst) if signed else ends[0]
                assert least - 1e-12 <= m.value <= ends[1] + 1e-12, name
            elif not signed:
                assert m.value >= 0, name


def numbers_of(kind: OutputKind, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    r, c, _ = make_pair(kind, 5, 40)
    return r.astype(dtype), c.astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_narrow_numbers_are_measured_as_the_same_numbers_in_float64(kind: OutputKind, dtype: str) -> None:
    r, c = numbers_of(kind, dtype)
    wide: Callable[[np.ndarray], np.ndarray] = lambda side: side.astype(np.float64)  # noqa: E731 - short
    assert values(measure(r, c, kind)) == values(measure(wide(r), wide(c), kind))


def test_a_layout_of_a_score_in_memory_changes_nothing() -> None:
    r, c, label = make_pair(OutputKind.SCORE, 3, 60)
    twice = np.repeat(r, 2)[::2], np.repeat(c, 2)[::2]
    assert run(*twice, label=label) == run(r, c, label=label)
    table = np.stack([r, c, r], axis=1)
    assert run(np.asfortranarray(table), np.asfortranarray(table)) == run(table, table)
