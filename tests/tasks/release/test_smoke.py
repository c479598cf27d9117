from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.declared import Dim
from tasks.errors import StageError
from tasks.process.child import ignore_progress
from tasks.release.smoke import SmokeError, SmokeReport, SmokeRequest, SmokeSource, run_in_child, run_smoke, take_smoke
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tests.tasks.tiny import WEIGHTS, make_features, put_shards, score, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.samples.npz import Arrays
    from tasks.store.local import LocalStore

BATCH = Dim(min=1, opt=8, max=16)


class Scripted:
    """A backend whose engine gives what a function makes of the features, and remembers how many it got."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.sizes: list[int] = []

    def load(self, plan: Path) -> Scripted:
        assert plan.is_dir()
        return self

    def run(self, feeds: Arrays) -> Arrays:
        self.sizes.append(len(feeds["features"]))
        found = self.function(feeds["features"])
        return found if isinstance(found, dict) else {"score": found}


def write(folder: Path, reference: list[Any], candidate: list[Any] | None = None) -> Path:
    """Smoke data of shards with so many outputs each, and features to go with them."""
    for name, shards in (("reference", reference), ("candidate", candidate or reference)):
        (folder / name).mkdir(parents=True)
        for number, values in enumerate(shards):
            outputs = values if isinstance(values, dict) else {"score": np.asarray(values, np.float32)}
            save_shard(folder / name, number, outputs)
    (folder / "inputs").mkdir()
    for number, values in enumerate(reference):
        rows = len(next(iter(values.values()))) if isinstance(values, dict) else len(values)
        save_shard(folder / "inputs", number, {"features": make_features(rows, seed=number)})
    (folder / "plan").mkdir()
    return folder


def request_of(folder: Path, batch: Dim = BATCH) -> SmokeRequest:
    return SmokeRequest(runtime="onnxruntime", plan=folder / "plan", smoke=folder, batch=batch)


def run(folder: Path, batch: Dim = BATCH) -> SmokeReport:
    return run_in_child(request_of(folder, batch).model_dump(mode="json"), ignore_progress)


def run_with(monkeypatch: pytest.MonkeyPatch, folder: Path, function: Any, batch: Dim = BATCH) -> SmokeReport:
    backend = Scripted(function)
    monkeypatch.setattr("tasks.release.smoke.backend_of", lambda _runtime: backend)
    return run(folder, batch)


def always(values: Any) -> Any:
    """An engine that gives these values, however many samples it gets."""
    return lambda batch: np.asarray(values, np.float32)[: len(batch)]


# Taken


def test_the_first_samples_of_shards_from_first_to_last_are_taken_from_all_three_alike(
    store: LocalStore, tmp_path: Path
) -> None:
    rows = [np.arange(10 * number, 10 * number + 6) for number in range(9)]
    inputs = put_shards(store, [{"features": row.astype(np.float32)} for row in rows])
    reference = put_shards(store, [{"score": row * 2.0} for row in rows])
    candidate = put_shards(store, [{"score": row * 3.0} for row in rows])
    smoke = take_smoke(store, SmokeSource(inputs, reference, candidate))
    assert smoke.samples == 16
    expected = [[0, 1, 2, 3], [30, 31, 32, 33], [50, 51, 52, 53], [80, 81, 82, 83]]
    for name, artifact, factor in (
        ("features", smoke.inputs, 1),
        ("score", smoke.reference, 2),
        ("score", smoke.candidate, 3),
    ):
        shards = shard_paths(store.fetch(artifact, tmp_path / f"{name}-{factor}"))
        found = [(load_arrays(path)[name] / factor).tolist() for path in shards]
        assert found == expected


@pytest.mark.parametrize(("shards", "rows", "samples"), [(1, 1, 1), (1, 9, 4), (2, 3, 6), (3, 4, 12), (4, 2, 8)])
def test_of_little_data_all_is_taken_that_there_is(store: LocalStore, shards: int, rows: int, samples: int) -> None:
    data = put_shards(store, [{"score": np.zeros(rows)} for _ in range(shards)])
    smoke = take_smoke(store, SmokeSource(data, data, data))
    assert smoke.samples == samples
    assert len(smoke.inputs.files) == shards


# Run


def test_a_real_engine_in_a_child_agrees_with_numpy(tmp_path: Path) -> None:
    features = make_features(4)
    smoke = write(tmp_path / "smoke", [score(features)])
    (smoke / "inputs" / "00000.npz").unlink()
    save_shard(smoke / "inputs", 0, {"features": features})
    write_onnx(smoke / "plan").rename(smoke / "plan" / "engine.onnx")
    (tmp_path / "scratch").mkdir()
    report = run_smoke(request_of(smoke), tmp_path / "scratch", 60)
    assert report.ok
    assert report.faults == ()
    assert report.samples == 4
    (error,) = report.errors
    independent = 1 / (1 + np.exp(-(features.astype(np.float64) @ WEIGHTS.astype(np.float64))))
    assert error.here is not None
    assert error.here <= 2 * np.abs(independent - score(features)).max() + 1e-6
    assert report.first_ms > 0
    assert report.warm_ms > 0


def test_an_engine_that_is_no_engine_is_a_failed_stage(tmp_path: Path) -> None:
    smoke = write(tmp_path / "smoke", [[0.5]])
    (smoke / "plan" / "engine.onnx").write_bytes(b"no engine")
    with pytest.raises(StageError, match="ONNX Runtime cannot load the engine"):
        run(smoke)


@pytest.mark.parametrize(
    ("found", "here", "ok"),
    [
        ([0.5, -8.0], 0.0, True),
        ([0.75, -8.0], 0.25, True),  # it was 0.25 when it was compared
        ([0.5, -8.5], 0.5, True),  # twice that is allowed
        ([1.5, -8.0], 1.0, False),
        ([0.5, -7.25], 0.75, False),
        ([np.nan, -8.0], None, False),
        ([np.inf, -8.0], None, False),
        ([[0.5], [-8.0]], None, False),
        ({"scores": np.zeros(2)}, None, False),
    ],
)
def test_an_error_is_held_against_the_one_when_it_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Any, here: float | None, ok: bool
) -> None:
    smoke = write(tmp_path / "smoke", [[0.5, -8.0]], [[0.75, -8.0]])
    function = (lambda _batch: found) if isinstance(found, dict) else always(found)
    report = run_with(monkeypatch, smoke, function)
    assert report.errors == (SmokeError(output="score", here=here, compared=0.25, allowed=0.5),)
    assert report.ok is ok
    assert len(report.faults) == (not ok)


def test_where_the_engine_was_exact_a_thousandth_of_the_largest_value_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = write(tmp_path / "smoke", [[1.0], [-500.0]])
    (error,) = run_with(monkeypatch, smoke, lambda _batch: np.array([1.25], np.float32)).errors
    assert error.allowed == pytest.approx(0.5)
    assert error.here == pytest.approx(501.25)
    assert error.sentence == "score: largest error 501 (was 0 when compared; 0.5 is allowed)"


def test_an_infinite_reference_allows_nothing_more_and_must_be_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = write(tmp_path / "smoke", [[np.inf, np.nan, 2.0, -np.inf]])
    same = run_with(monkeypatch, smoke, always([np.inf, np.nan, 2.0, -np.inf]))
    assert same.errors == (SmokeError(output="score", here=0.0, compared=0.0, allowed=0.002),)
    assert not run_with(monkeypatch, smoke, always([np.inf, np.nan, 3.0, -np.inf])).ok
    assert not run_with(monkeypatch, smoke, always([-np.inf, np.nan, 2.0, -np.inf])).ok


def test_an_engine_that_was_not_finite_when_it_was_compared_is_never_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = write(tmp_path / "smoke", [[1.0, 2.0]], [[1.0, np.nan]])
    report = run_with(monkeypatch, smoke, always([1.0, 2.0]))
    assert not report.ok
    assert report.faults[0].startswith("score: missing, not finite or of another shape")


def test_every_output_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"score": np.ones(2), "states": np.ones((2, 3))}
    smoke = write(tmp_path / "smoke", [outputs])
    report = run_with(monkeypatch, smoke, lambda _batch: outputs | {"states": np.zeros((2, 3))})
    assert [(error.output, error.ok) for error in report.errors] == [("score", True), ("states", False)]
    assert not report.ok


def test_without_an_output_nothing_is_right() -> None:
    report = SmokeReport(samples=4, errors=(), first_ms=1, warm_ms=1)
    assert not report.ok
    assert report.faults == ("the smoke data holds no output to compare with",)


@pytest.mark.parametrize("lacking", ["inputs", "reference", "candidate"])
def test_parts_of_different_numbers_of_shards_are_refused_before_the_engine_is_loaded(
    tmp_path: Path, lacking: str
) -> None:
    smoke = write(tmp_path / "smoke", [[0.5], [0.5]])
    (smoke / lacking / "00001.npz").unlink()
    with pytest.raises(StageError, match=r"the smoke data has .* which should be as many"):
        run(smoke)


def test_each_bucket_of_the_batch_is_tried_and_the_first_calls_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Scripted(lambda batch: np.zeros(len(batch), np.float32))
    monkeypatch.setattr("tasks.release.smoke.backend_of", lambda _runtime: backend)
    assert run(write(tmp_path / "smoke", [np.zeros(4), np.zeros(4)]), Dim(min=1, opt=4, max=4, buckets=(1, 4))).ok
    assert backend.sizes == [4, 4, 1, 3, 1, 3]


# Names


def test_labels_are_right_or_wrong_whatever_their_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = np.array([[3, 90_000, 17, 5]] * 4)
    folder = write(tmp_path, [{"label": right}])
    assert run_with(monkeypatch, folder, lambda batch: {"label": right[: len(batch)]}).ok
    (error,) = run_with(monkeypatch, folder, lambda batch: {"label": right[: len(batch)] + (right[:1] == 17)}).errors
    assert (error.here, error.compared, error.allowed, error.ok) == (0.25, 0.0, 0.001, False)


def test_true_and_false_are_tried_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path, [{"accept": np.array([True, False])}])
    assert run_with(monkeypatch, folder, lambda batch: {"accept": np.array([True, False])[: len(batch)]}).ok
    assert not run_with(monkeypatch, folder, lambda batch: {"accept": np.array([True, True])[: len(batch)]}).ok
