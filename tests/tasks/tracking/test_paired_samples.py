"""Reading shards for figures: bounded, deterministic, and forgiving of defects that the comparison has noted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import kstest

from tasks.errors import StageError
from tasks.tracking.paired_samples import PairSample, annotate, sample_pairs
from tests.tasks.tracking.conftest import SHARDS
from validation.outputs import OutputKind, OutputSpec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.tracking.interface import EngineRecord
    from tests.tasks.tracking.conftest import Case


def _fill(limit: int, values: Any, pieces: int) -> PairSample:
    sample = PairSample(limit)
    for piece in np.array_split(values, pieces):
        sample.add(piece, piece + 1)
    return sample


def test_all_pairs_are_kept_in_order_up_to_the_limit() -> None:
    values = np.arange(1000.0)
    sample = _fill(1000, values, 7)
    np.testing.assert_array_equal(sample.reference, values)
    np.testing.assert_array_equal(sample.candidate, values + 1)


def test_beyond_the_limit_a_uniform_part_is_kept_however_the_batches_are_cut() -> None:
    values = np.arange(300_000.0)
    sample = _fill(10_000, values, 11)
    assert 4_000 < sample.reference.size <= 10_000
    assert sample.seen == 300_000
    assert kstest(sample.reference / 300_000, "uniform").pvalue > 0.001
    np.testing.assert_array_equal(_fill(10_000, values, 3).reference, sample.reference)


def test_a_period_in_the_data_is_not_sampled_away() -> None:
    sample = _fill(1_000, np.tile(np.arange(8.0), 10_000), 1)
    share = np.bincount(sample.reference.astype(int), minlength=8) / sample.reference.size
    assert share.min() > 0.08


def test_pairs_that_are_not_finite_are_counted_and_left_out() -> None:
    sample = PairSample(10)
    sample.add(np.array([1.0, 2.0, np.inf]), np.array([np.nan, 2.0, 1.0]))
    assert sample.reference.tolist() == [2.0]
    assert (sample.seen, sample.left_out) == (3, 2)


def test_columns_of_a_score_are_sampled_each_on_its_own(case: Case) -> None:
    record = case.engine("fp16")
    found = sample_pairs(record, case.conversion().outputs)
    assert list(found) == [("score", None), ("traits", 0), ("traits", 1), ("traits", 2)]
    with np.load(record.reference / "00000.npz") as arrays:
        np.testing.assert_allclose(found["traits", 2].reference[: SHARDS[0]], arrays["traits"][:, 2])


def _write(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "00000.npz", **arrays)
    return folder


def _record(case: Case, tmp_path: Path, reference: Any, candidate: Any) -> EngineRecord:
    return replace(
        case.engine("fp16"),
        reference=_write(tmp_path / "r", **reference),
        candidate=_write(tmp_path / "c", **candidate),
    )


@pytest.mark.parametrize(
    ("kind", "values", "confidence"),
    [
        (OutputKind.LOGITS, [[0.0, np.log(3)], [0.0, 0.0]], [0.75, 0.5]),
        (OutputKind.PROBABILITIES, [[0.2, 0.8], [0.6, 0.4]], [0.8, 0.6]),
        (OutputKind.PROBABILITIES, [[0.2], [0.9]], [0.8, 0.9]),
        (OutputKind.LOGITS, [0.0, np.log(3)], [0.5, 0.75]),
    ],
)
def test_classes_are_drawn_by_their_top_confidence(
    case: Case, tmp_path: Path, kind: OutputKind, values: Any, confidence: list[float]
) -> None:
    record = _record(case, tmp_path, {"out": np.array(values)}, {"out": np.array(values)})
    found = sample_pairs(record, {"out": OutputSpec(kind=kind)})
    np.testing.assert_allclose(found["out", None].reference, confidence)


def test_classes_on_another_axis_are_drawn_by_their_top_confidence(case: Case, tmp_path: Path) -> None:
    values = np.array([[[0.2, 0.6], [0.8, 0.4]]])
    record = _record(case, tmp_path, {"out": values}, {"out": values})
    found = sample_pairs(record, {"out": OutputSpec(kind=OutputKind.PROBABILITIES, axis=1)})
    np.testing.assert_allclose(found["out", None].reference, [0.8, 0.6])


def test_a_score_that_is_one_population_is_one_figure(case: Case, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 1, 8, 9))
    record = _record(case, tmp_path, {"out": values}, {"out": values})
    found = sample_pairs(record, {"out": OutputSpec(kind=OutputKind.SCORE)})
    assert list(found) == [("out", None)]
    assert found["out", None].seen == values.size


def test_a_tensor_is_drawn_by_its_elements(case: Case, tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    record = _record(case, tmp_path, {"out": values}, {"out": values})
    found = sample_pairs(record, {"out": OutputSpec(kind=OutputKind.TENSOR)})
    np.testing.assert_array_equal(found["out", None].candidate, values.ravel())


def test_an_output_that_is_missing_or_misshapen_is_left_out(case: Case, tmp_path: Path) -> None:
    good, bad = np.ones(4), np.ones(3)
    spec = OutputSpec(kind=OutputKind.SCORE)
    record = _record(case, tmp_path, {"a": good, "b": good, "c": good}, {"a": good, "b": bad})
    assert list(sample_pairs(record, {"a": spec, "b": spec, "c": spec})) == [("a", None)]


def test_a_damaged_shard_is_named(case: Case, tmp_path: Path) -> None:
    record = _record(case, tmp_path, {"a": np.ones(4)}, {"a": np.ones(4)})
    (record.candidate / "00000.npz").write_bytes(b"damaged")
    with pytest.raises(StageError, match=r"00000\.npz: cannot be read"):
        sample_pairs(record, {"a": OutputSpec(kind=OutputKind.SCORE)})


def test_labels_are_found_by_the_index_over_all_shards(case: Case) -> None:
    record = case.engine("fp16")
    worst = record.outcome.compared.comparison.worst
    notes = annotate(worst, record.annotations)
    levels = np.concatenate([np.load(shard)["slice.level"] for shard in sorted(record.annotations.glob("*.npz"))])
    assert len(notes) > 10
    assert all(note["slice.level"] == levels[index] for index, note in notes.items())
    assert all(note["label"] == pytest.approx(levels[index] / 6) for index, note in notes.items())
