from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from tasks.calibration.reference_scores import ScoreRequest, join_scores, score_in_child, score_samples, scores_of
from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.records import ExportedModel
from tasks.samples.npz import save_shard
from tasks.specs import OutputDeclaration
from tests.tasks.tiny import make_features, put, put_data, score, tiny_spec, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext

RNG = np.random.default_rng(5)


def scores(values: Any, inputs: dict[str, Any] | None = None, **declared: Any) -> dict[str, Any]:
    kinds = {"out": OutputDeclaration.model_validate(declared)}
    return scores_of({"out": np.asarray(values)}, kinds, inputs or {})


def test_a_score_is_itself_and_its_columns_are_told_apart() -> None:
    values = RNG.random((5, 3)).astype(np.float32)
    assert scores(values[:, 0], kind="score")["out"].tolist() == values[:, 0].tolist()
    assert scores(values[:, :1], kind="score")["out"].tolist() == values[:, 0].tolist()
    found = scores(values, kind="score")
    assert {name: column.tolist() for name, column in found.items()} == {
        f"out[{number}]": values[:, number].tolist() for number in range(3)
    }


def test_of_many_columns_the_first_sixteen_are_taken() -> None:
    assert list(scores(np.zeros((2, 40)), kind="score")) == [f"out[{number}]" for number in range(16)]


def test_logits_give_the_mean_confidence_of_their_first_choice() -> None:
    logits = RNG.normal(0, 3, (4, 6, 5))
    found = scores(logits, kind="logits")["out confidence"]
    assert found == pytest.approx(softmax(logits, axis=-1).max(axis=-1).mean(axis=1))


def test_probabilities_give_theirs() -> None:
    probabilities = RNG.dirichlet(np.ones(4), 7)
    assert scores(probabilities, kind="probabilities")["out confidence"] == pytest.approx(probabilities.max(axis=1))


@pytest.mark.parametrize("axes", [1, 2])
def test_one_class_alone_is_one_of_two(axes: int) -> None:
    logits = RNG.normal(0, 2, (9, 1))[:, 0] if axes == 1 else RNG.normal(0, 2, (9, 1))
    flat = expit(logits.reshape(-1))
    expected = np.maximum(flat, 1 - flat)
    assert scores(logits, kind="logits")["out confidence"] == pytest.approx(expected)
    assert scores(expit(logits), kind="probabilities")["out confidence"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["embedding", "tensor"])
def test_vectors_give_the_root_of_their_mean_square(kind: str) -> None:
    values = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    expected = [np.linalg.norm(row.astype(float)) / np.sqrt(20) for row in values]
    assert scores(values, kind=kind)["out norm"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "embedding", "tensor"])
def test_padding_changes_no_score(kind: str) -> None:
    values = RNG.dirichlet(np.ones(3), (4, 6))
    garbage = np.concatenate([values, RNG.random((4, 10, 3)) * 100], axis=1)
    masks = {"mask": np.ones((4, 6)), "wide": np.repeat([[1] * 6 + [0] * 10], 4, axis=0)}
    (short,) = scores(values, masks, kind=kind, mask="mask").values()
    (padded,) = scores(garbage, masks, kind=kind, mask="wide").values()
    assert padded == pytest.approx(short)
    assert scores(garbage, kind=kind).popitem()[1] != pytest.approx(short)


def test_a_sample_that_is_padding_from_end_to_end_has_a_number() -> None:
    masks = {"mask": np.zeros((2, 3), dtype=np.int64)}
    for kind in ("logits", "tensor"):
        assert scores(np.full((2, 3, 4), np.nan), masks, kind=kind, mask="mask").popitem()[1].tolist() == [0, 0]


def test_a_mask_of_another_shape_is_named() -> None:
    with pytest.raises(StageError, match=r"outputs\.out\.mask: mask has shape \[2, 9\], the reference's out \[2, 3\]"):
        scores(np.zeros((2, 3)), {"mask": np.ones((2, 9))}, kind="tensor", mask="mask")


def test_huge_logits_have_a_confidence() -> None:
    assert scores([[1e30, -1e30]], kind="logits")["out confidence"].tolist() == [1.0]


def test_scores_that_are_no_numbers_are_counted_and_named() -> None:
    parts = [{"out": np.array([1.0, np.nan])}, {"out": np.array([2.0, np.inf, 3.0])}]
    with pytest.raises(StageError, match=r"out is NaN or Inf for 2 of the 5 samples of the sample .*\(first: 1, 3\)"):
        join_scores(parts, "the sample")


def test_columns_that_differ_between_batches_are_refused() -> None:
    with pytest.raises(StageError, match=r"out\[0\], out\[1\] for some samples of the set and out\[0\] for others"):
        join_scores([{"out[0]": np.zeros(2), "out[1]": np.zeros(2)}, {"out[0]": np.zeros(2)}], "the set")


def test_a_sample_is_scored_in_the_order_of_its_files(context: StageContext, tmp_path: Path) -> None:
    shards = [make_features(11, seed=1), make_features(3, seed=2)]
    onnx = put(context.store, {"model.onnx": write_onnx(tmp_path / "onnx").read_bytes()})
    data = put_data(context.store, [{"features": shard} for shard in shards])
    spec = tiny_spec(dims={"batch": {"min": 4, "opt": 8, "max": 16}})
    found = score_samples(context, ExportedModel(onnx=onnx, opset=20, checks={}), spec, data)
    assert found == pytest.approx(score(np.concatenate(shards)), abs=1e-6)


def test_a_reference_that_cannot_be_run_is_an_error_that_says_on_what(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    save_shard(tmp_path / "inputs", 0, {"features": np.zeros((5, 7), np.float32)})
    request = ScoreRequest(
        onnx=write_onnx(tmp_path / "onnx"),
        inputs=tmp_path / "inputs",
        output=tmp_path / "scores.npy",
        batch=tiny_spec().dims["batch"],
        outputs=tiny_spec().outputs,
    )
    with pytest.raises(StageError, match=r"cannot run the reference on features \[5, 7\]"):
        score_in_child(request.model_dump(mode="json"), ignore_progress)
