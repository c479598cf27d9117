"""Every metric of embeddings and tensors against an independent implementation."""

import numpy as np
import pytest

from tests.validation.cases import measure, values
from tests.validation.independent import embeddings, errors, relative_quantile
from validation import vectors
from validation.bootstrap import Bootstrap
from validation.metrics import METRICS, metrics_of
from validation.outputs import OutputKind
from validation.vectors import EmbeddingAgreement, TensorErrors


def make_vectors(*shape: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    r = rng.normal(size=shape)
    return r, r + rng.normal(0, noise, shape)


def test_every_metric_of_an_embedding_is_that_of_an_independent_implementation() -> None:
    r, c = make_vectors(300, 16)
    found, expected = values(measure(r, c, OutputKind.EMBEDDING)), embeddings(r, c)
    assert set(found) == set(expected) == {metric.name for metric in metrics_of(OutputKind.EMBEDDING)}
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-9), metric
    assert 0.3 < found["retrieval_overlap@10"] < 0.95


@pytest.mark.parametrize("shape", [(300,), (300, 7), (50, 3, 4, 5)])
def test_every_metric_of_a_tensor_is_that_of_an_independent_implementation(shape: tuple[int, ...]) -> None:
    r, c = make_vectors(*shape)
    found = values(measure(r, c, OutputKind.TENSOR))
    expected = errors(r, c) | {"relative_l2_p99": relative_quantile(r, c)}
    assert set(found) == set(expected) == {metric.name for metric in metrics_of(OutputKind.TENSOR)}
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-9), metric


def test_every_interval_holds_its_value() -> None:
    for kind in (OutputKind.EMBEDDING, OutputKind.TENSOR):
        for m in measure(*make_vectors(400, 16), kind).values():
            if m.metric != "max_abs":
                assert m.low <= m.low_seen <= m.value <= m.high_seen <= m.high, m.metric
                assert m.low < m.high, m.metric


def test_metrics_count_samples_and_not_elements() -> None:
    for kind in (OutputKind.EMBEDDING, OutputKind.TENSOR):
        assert {m.n for m in measure(*make_vectors(20, 3, 40), kind).values()} == {20}


def test_the_cosine_of_an_embedding_is_the_mean_over_vectors_that_the_mask_leaves() -> None:
    r, c = make_vectors(40, 5, 8)
    mask = np.random.default_rng(0).random((40, 5)) < 0.6
    mask[:, 0] = True
    found = measure(np.where(mask[..., None], r, np.inf), c, OutputKind.EMBEDDING, mask=mask)
    each = (r * c).sum(-1) / np.sqrt((r * r).sum(-1) * (c * c).sum(-1))
    assert found["cosine"].value == pytest.approx(each[mask].mean())
    of_sample = np.ma.array(each, mask=~mask).mean(axis=1).filled(0)
    assert found["cosine_p1"].value == pytest.approx(np.quantile(of_sample, 0.01, method="inverted_cdf"))
    assert found["mae"].value == pytest.approx(np.abs(r - c)[mask].mean())
    pooled = [np.stack([side[i][mask[i]].mean(axis=0) for i in range(40)]) for side in (r, c)]
    expected = embeddings(*pooled)["retrieval_overlap@10"]
    assert found["retrieval_overlap@10"].value == pytest.approx(expected)


def test_a_tensor_s_mask_leaves_padding_out() -> None:
    r, c = make_vectors(40, 5, 8)
    mask = np.random.default_rng(0).random((40, 5)) < 0.6
    found = measure(r, np.where(mask[..., None], c, 99), OutputKind.TENSOR, mask=mask.astype(np.int64))
    for metric in ("mae", "rmse", "max_abs", "relative_l2", "cosine"):
        assert found[metric].value == pytest.approx(errors(r[mask], c[mask])[metric]), metric


def test_zero_vectors_agree_with_zero_vectors_alone() -> None:
    r, c = make_vectors(4, 3)
    r[0] = c[0] = r[1] = c[2] = 0
    expected = (1 + 0 + 0 + (r[3] * c[3]).sum() / np.linalg.norm(r[3]) / np.linalg.norm(c[3])) / 4
    assert measure(r, c, OutputKind.EMBEDDING)["cosine"].value == pytest.approx(expected)


def test_tensors_that_are_zero_have_an_angle_only_if_both_are() -> None:
    zero, one = np.zeros((5, 3)), np.ones((5, 3))
    both = measure(zero, zero, OutputKind.TENSOR)
    assert (both["cosine"].value, both["cosine"].low, both["relative_l2"].value, both["relative_l2"].high) == (
        1,
        1,
        0,
        0,
    )
    assert both["cosine"].note == "both sides are zero everywhere"
    assert measure(one, zero, OutputKind.TENSOR)["cosine"].note == "undefined: a side is zero throughout"
    assert measure(one, zero, OutputKind.TENSOR)["relative_l2"].value == 1
    assert measure(zero, one, OutputKind.TENSOR)["relative_l2"].note == "undefined: the reference is zero throughout"
    assert measure(zero, one, OutputKind.TENSOR)["relative_l2"].value is None


@pytest.mark.parametrize("kind", [OutputKind.EMBEDDING, OutputKind.TENSOR])
def test_a_mask_that_leaves_nothing_leaves_no_value(kind: OutputKind) -> None:
    found = measure(*make_vectors(20, 3, 4), kind, mask=np.zeros((20, 3)))
    assert {(m.value, m.note) for m in found.values()} == {(None, "undefined: the mask leaves nothing")}


def test_eleven_samples_are_too_few_for_ten_neighbours_to_tell() -> None:
    m = measure(*make_vectors(11, 4), OutputKind.EMBEDDING)["retrieval_overlap@10"]
    assert m.value is None
    assert measure(*make_vectors(12, 4), OutputKind.EMBEDDING)["retrieval_overlap@10"].value is not None


def test_neighbours_are_searched_among_a_part_of_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_SEARCHED", 64)
    m = measure(*make_vectors(300, 8), OutputKind.EMBEDDING)["retrieval_overlap@10"]
    assert 16 <= m.n <= 64
    assert m.note == f"of {m.n} samples drawn at random"


def test_unrelated_embeddings_share_few_neighbours() -> None:
    rng = np.random.default_rng(0)
    found = measure(rng.normal(size=(400, 8)), rng.normal(size=(400, 8)), OutputKind.EMBEDDING)
    assert found["retrieval_overlap@10"].value == pytest.approx(10 / 399, abs=0.01)
    assert found["cosine"].high < 0.1


def test_without_a_batch_there_are_no_readings() -> None:
    assert EmbeddingAgreement(keeps=True).readings(Bootstrap(), METRICS) == {}
    assert TensorErrors(keeps=True).readings(Bootstrap(), METRICS) == {}
