"""Every metric of logits and probabilities against an independent implementation."""

import numpy as np
import pytest
from scipy import special

from tests.validation.cases import measure, values
from tests.validation.independent import classes, errors
from validation import classes as module
from validation.bootstrap import Bootstrap
from validation.classes import ClassAgreement
from validation.metrics import METRICS, metrics_of
from validation.outputs import OutputKind

N, CLASSES = 400, 8


def make_logits(shape: tuple[int, ...] = (N, CLASSES)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    r = rng.normal(0, 2, shape)
    c = r + rng.normal(0, 0.6, shape)
    return r, c, (r + rng.normal(0, 1, shape)).argmax(axis=-1)


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.PROBABILITIES])
def test_every_metric_of_classes_is_that_of_an_independent_implementation(kind: OutputKind) -> None:
    r, c, label = make_logits()
    p, q = special.softmax(r, axis=-1), special.softmax(c, axis=-1)
    sides = (r, c) if kind is OutputKind.LOGITS else (p, q)
    expected = errors(*sides) | classes(p, q, label)
    found = values(measure(*sides, kind, label=label))
    assert set(found) == set(expected) == {metric.name for metric in metrics_of(kind)}
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-6, abs=1e-9), metric
    assert found["accuracy_drop"] > 0
    assert found["top1_agreement"] < found["top5_agreement"] < 1


def test_every_interval_of_classes_holds_its_value() -> None:
    r, c, label = make_logits()
    for m in measure(r, c, OutputKind.LOGITS, label=label).values():
        if m.metric not in {"ks_pvalue", "max_abs"}:
            assert m.low <= m.low_seen <= m.value <= m.high_seen <= m.high, m.metric
            assert m.low < m.high, m.metric


@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_positions_are_averaged_and_what_the_mask_leaves_out_is_not(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    r, c, label = make_logits((60, 5, CLASSES))
    mask = np.random.default_rng(1).random((60, 5)) < 0.6
    mask[:, 0] = True
    damaged = np.where(mask[..., None], c, np.nan)
    found = values(measure(r, damaged, OutputKind.LOGITS, label=label, mask=mask))
    p, q = special.softmax(r[mask], axis=-1), special.softmax(c[mask], axis=-1)
    expected = classes(p, q, label[mask])
    for metric in ("kl", "js", "top1_agreement", "top5_agreement", "accuracy_drop", "ece_drop"):
        assert found[metric] == pytest.approx(expected[metric], rel=1e-6, abs=1e-9), metric
    assert found["mae"] == pytest.approx(errors(r[mask], c[mask])["mae"])
    assert found["cosine"] == pytest.approx(errors(r[mask], c[mask])["cosine"])
    # Of quantiles and distributions a sample is one, with the mean over its positions.
    each = special.rel_entr(special.softmax(r, axis=-1), special.softmax(c, axis=-1)).sum(axis=-1)
    of_sample = np.ma.array(each, mask=~mask).mean(axis=1).filled(0)
    assert found["kl_p99"] == pytest.approx(np.quantile(of_sample, 0.99, method="inverted_cdf"))


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_a_lone_logit_is_one_of_two_classes(shape: tuple[int, ...]) -> None:
    r, c, _ = make_logits((N, 1))
    label = np.random.default_rng(2).integers(0, 2, N)
    p, q = (np.concatenate([1 - special.expit(side), special.expit(side)], axis=1) for side in (r, c))
    found = values(measure(r.reshape(shape), c.reshape(shape), OutputKind.LOGITS, label=label))
    expected = classes_of_two(p, q, label)
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-6, abs=1e-9), metric


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_a_lone_probability_is_one_of_two_classes(shape: tuple[int, ...]) -> None:
    r, c, _ = make_logits((N, 1))
    label = np.random.default_rng(2).integers(0, 2, N)
    p, q = special.expit(r), special.expit(c)
    found = values(measure(p.reshape(shape), q.reshape(shape), OutputKind.PROBABILITIES, label=label))
    expected = classes_of_two(np.concatenate([1 - p, p], axis=1), np.concatenate([1 - q, q], axis=1), label)
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-6, abs=1e-9), metric


def classes_of_two(p: np.ndarray, q: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Two classes padded with ones that nobody takes, which scikit-learn's top-k needs."""
    pad = np.zeros((len(p), 6))
    found = classes(np.concatenate([p, pad], axis=1), np.concatenate([q, pad], axis=1), label)
    return {metric: value for metric, value in found.items() if metric != "top5_agreement"}


def test_rounding_within_a_cluster_of_confidences_moves_no_distribution_and_a_shift_of_the_cluster_does() -> None:
    rng = np.random.default_rng(4)
    r = np.stack([np.where(rng.random(N) < 0.5, 3.0, 5.0), np.zeros(N)], axis=1) + rng.normal(0, 1e-4, (N, 2))
    rounded, shifted = (measure(r, r + np.array([by, 0]), OutputKind.LOGITS) for by in (2e-3, -0.5))
    assert (rounded["ks"].value, rounded["ks_pvalue"].value) == (0, 1)
    assert shifted["ks"].value == (r[:, 0] < 4).mean(), "from 0.953 to 0.924; those at 0.993 went to 0.989"


def test_two_opposite_lone_logits_never_agree() -> None:
    r, _, _ = make_logits((N, 1))
    assert measure(r, -r, OutputKind.LOGITS)["top1_agreement"].value == 0


def test_five_classes_always_agree_among_five_and_so_say_nothing() -> None:
    r, c, _ = make_logits((50, 5))
    m = measure(r, c, OutputKind.LOGITS)["top5_agreement"]
    assert (m.value, m.note) == (None, "undefined: 5 classes are no more than 5")
    assert measure(*make_logits((50, 6))[:2], OutputKind.LOGITS)["top5_agreement"].value is not None


def test_of_equally_likely_classes_the_lowest_counts() -> None:
    r = np.array([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    c = np.array([[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    flat = np.zeros((1, 7))
    last = np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    assert measure(r, r, OutputKind.LOGITS)["top1_agreement"].value == 1
    assert measure(r, c, OutputKind.LOGITS)["top1_agreement"].value == 0
    assert measure(flat, flat, OutputKind.LOGITS)["top5_agreement"].value == 1
    assert measure(last, flat, OutputKind.LOGITS)["top5_agreement"].value == 0


def test_agreement_of_all_is_bounded_by_the_rule_of_three_and_may_be_wholly_unseen() -> None:
    r, _, label = make_logits((300, CLASSES))
    found = measure(r, r, OutputKind.LOGITS, label=label, plan=Bootstrap(resamples=4_000))
    for metric in ("top1_agreement", "top5_agreement"):
        assert (found[metric].value, found[metric].high) == (1.0, 1.0)
        assert 1 - found[metric].low == pytest.approx(3 / 300, rel=0.1)
    assert found["accuracy_drop"].high == pytest.approx(3 / 300, rel=0.1)
    assert found["accuracy_drop"].low == pytest.approx(-3 / 300, rel=0.1)
    assert found["accuracy_drop"].value == 0


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    r = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = measure(r, r[::-1], OutputKind.PROBABILITIES, label=np.array([0, 0]))
    assert found["ece_drop"].value == pytest.approx(0, abs=1e-9)


def test_a_mask_that_leaves_nothing_leaves_no_value() -> None:
    r, c, _ = make_logits((20, 3, CLASSES))
    found = measure(r, c, OutputKind.LOGITS, mask=np.zeros((20, 3)))
    assert {(m.value, m.note) for m in found.values()} == {(None, "undefined: the mask leaves nothing")}


def test_without_a_batch_there_are_no_readings() -> None:
    assert ClassAgreement(logits=True, with_label=False, keeps=True).readings(Bootstrap(), METRICS) == {}
