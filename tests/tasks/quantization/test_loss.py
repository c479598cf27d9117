from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.quantization.loss import LOSS_SAMPLES, Loss, LossMeter, LossRequest, loss_in_child, loss_key, take_evenly
from tasks.samples.npz import save_shard
from tasks.specs import OutputDeclaration
from tasks.store.digests import canonical_json
from tests.tasks.tiny import make_features, score, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path


def loss_of(
    exported: Any, quantized: Any, *, inputs: dict[str, Any] | None = None, **declared: Any
) -> tuple[Loss, dict[str, float | None]]:
    """The loss of one output, and that of each rule by its metric."""
    meter = LossMeter({"out": OutputDeclaration.model_validate(declared)})
    meter.update({"out": np.asarray(exported)}, {"out": np.asarray(quantized)}, inputs or {})
    loss = meter.result()
    return loss, {rule.metric: rule.loss for rule in loss.rules}


def test_a_score_moved_by_its_allowed_bias_has_loss_one() -> None:
    exported = np.linspace(0, 1, 100)
    loss, rules = loss_of(exported, exported + 0.0125, kind="score", range=[0, 1])
    assert loss.loss == pytest.approx(1.0)
    assert loss.rules[0].metric == "bias"
    assert rules["mae"] == pytest.approx(0.625)
    assert rules["p99_abs"] == pytest.approx(0.125)
    assert rules["median_sd"] == pytest.approx(0.0125 / exported.std() / 0.05)
    assert rules["p99_sd"] == pytest.approx(0.0125 / exported.std() / 0.5)


def test_of_a_share_the_first_sample_is_free() -> None:
    """6 of 200 samples change their class: 5 are counted, of the 5 that a limit of 97.5 % allows."""
    exported = np.eye(4)[np.arange(200) % 4] * 9
    for changed, expected in ((0, 0.0), (1, 0.0), (6, 1.0), (11, 2.0)):
        quantized = exported.copy()
        quantized[:changed] = np.roll(quantized[:changed], 1, axis=1)
        _, rules = loss_of(exported, quantized, kind="logits")
        assert rules["top1_agreement"] == pytest.approx(expected, abs=1e-9)


def test_the_worst_column_of_a_score_counts() -> None:
    generator = np.random.default_rng(0)
    exported = generator.random((300, 3))
    quantized = exported.copy()
    quantized[:, 1] += 0.05
    loss, rules = loss_of(exported, quantized, kind="score", range=[0, 1])
    assert rules["mae"] == pytest.approx(2.5)
    assert next(rule.value for rule in loss.rules if rule.metric == "mae") == pytest.approx(0.05)


def test_the_same_outputs_have_no_loss() -> None:
    exported = np.random.default_rng(0).standard_normal((64, 8))
    for kind in ("score", "logits", "embedding", "tensor"):
        loss, _ = loss_of(exported, exported, kind=kind)
        assert loss.loss == pytest.approx(0.0, abs=1e-9)
        assert loss.samples == 64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_an_infinite_loss(bad: float) -> None:
    exported = np.random.default_rng(0).random(100)
    quantized = exported.copy()
    quantized[17] = bad
    loss, _ = loss_of(exported, quantized, kind="score", range=[0, 1])
    assert loss.loss is None
    assert loss.rank[0] == math.inf
    assert loss.text.startswith("infinite: out")
    canonical_json(loss.model_dump(mode="json"))


def test_where_a_metric_is_undefined_the_loss_is_infinite() -> None:
    quantized = np.random.default_rng(0).random(100)
    loss, rules = loss_of(np.full(100, 0.5), quantized, kind="score", range=[0, 1])
    assert loss.loss is None
    assert rules["p99_sd"] is None
    assert loss.text == "infinite: out p99_sd is undefined"


def test_an_output_that_is_missing_is_an_infinite_loss() -> None:
    meter = LossMeter({name: OutputDeclaration.model_validate({"kind": "tensor"}) for name in ("a", "b")})
    meter.update({"a": np.ones(9), "b": np.ones(9)}, {"a": np.ones(9)}, {})
    assert meter.result().loss is None


def test_a_rule_that_needs_more_samples_than_there_are_is_left_out() -> None:
    exported = np.eye(8)
    loss, rules = loss_of(exported, exported, kind="embedding")
    assert "retrieval_overlap@10" not in rules
    assert loss.loss == 0


def test_masked_positions_count_for_nothing() -> None:
    exported = np.random.default_rng(0).standard_normal((20, 6, 16))
    quantized, mask = exported.copy(), np.ones((20, 6), np.int64)
    quantized[:, 4:], mask[:, 4:] = -quantized[:, 4:], 0
    assert loss_of(exported, quantized, kind="embedding")[0].rank > (1, 0)
    loss, _ = loss_of(exported, quantized, kind="embedding", mask="mask", inputs={"mask": mask})
    assert loss.loss == pytest.approx(0, abs=1e-9)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    most=st.integers(1, 40),
)
def test_samples_are_taken_evenly_over_all_shards(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    folder, total = tmp_path_factory.mktemp("shards"), sum(sizes)
    ends = np.cumsum(sizes)
    for number, (size, end) in enumerate(zip(sizes, ends.tolist(), strict=True)):
        save_shard(folder, number, {"x": np.arange(end - size, end)})
    taken = np.concatenate([shard["x"] for shard, _, _ in take_evenly(folder, most)])
    assert len(taken) == min(most, total)
    gaps = np.diff(np.append(taken, taken[0] + total))
    assert set(gaps.tolist()) <= {total // len(taken), -(-total // len(taken))}


def request_of(root: Path, body: str, samples: int) -> LossRequest:
    spec = tiny_spec(outputs={"score": {"kind": "score", "range": [0, 1]}})
    (root / "samples").mkdir()
    features = make_features(samples)
    for number, start in enumerate(range(0, samples, 100)):
        save_shard(root / "samples", number, {"features": features[start : start + 100]})
    return LossRequest(
        exported=write_onnx(root / "exported"),
        quantized=write_onnx(root / "quantized", body=body),
        samples=root / "samples",
        spec=spec,
    )


def test_two_graphs_are_run_on_the_same_bounded_number_of_samples(tmp_path: Path) -> None:
    """The second gives the square of the score; expected by numpy."""
    body = "p = Mul(features, w)  t = ReduceSum<keepdims=0>(p, one)  s = Sigmoid(t)  score = Mul(s, s)"
    request = request_of(tmp_path, body, samples=430)
    steps: list[tuple[int, int]] = []
    loss = loss_in_child(request.model_dump(mode="json"), lambda done, total: steps.append((done, total)))
    chosen = score(make_features(430)[np.arange(LOSS_SAMPLES) * 430 // LOSS_SAMPLES])
    error = np.abs(chosen**2 - chosen)
    values = {rule.metric: rule.value for rule in loss.rules}
    assert loss.samples == LOSS_SAMPLES
    assert values["mae"] == pytest.approx(error.mean(), rel=1e-4)
    median = np.quantile(error, 0.5, method="higher") / chosen.std()
    assert values["median_sd"] == pytest.approx(-median, rel=1e-2)
    worst = max(abs(values["median_sd"]) / 0.05, error.mean() / 0.0125)
    assert loss.loss == pytest.approx(worst, rel=1e-4), "the worst rule"
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_the_key_of_a_loss_has_its_limits() -> None:
    narrow, wide = (tiny_spec(outputs={"score": {"kind": "score", "range": [0, top]}}).outputs for top in (1, 2))
    assert ["score", "mae", 0.02] in loss_key(narrow)["limits"]  # type: ignore[operator]
    assert loss_key(narrow) != loss_key(wide)
