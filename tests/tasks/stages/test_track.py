from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tasks.errors import StageError
from tasks.model.model_directory import read_model_directory
from tasks.rebuild_records import TACTICS_FILE, MiscompiledBuild
from tasks.records import EngineOutcome, ExportedModel
from tasks.stages.track import describe_conversion, track_conversion
from tests.tasks.tiny import VERSION, cell, make_features, make_outcome, put, put_data, put_reference
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from tasks.tracking.interface import ConversionRecord, EngineRecord


@dataclass
class FakeTracker:
    """Keeps what it is given, and reads the folders while they are there."""

    known: dict[str, str] | None = None
    error: StageError | None = None
    logged: list[tuple[ConversionRecord, Sequence[EngineRecord]]] = field(default_factory=list)
    files: list[dict[str, list[str] | None]] = field(default_factory=list)

    def log_conversion(self, conversion: ConversionRecord, engines: Sequence[EngineRecord]) -> dict[str, str]:
        if self.error is not None:
            raise self.error
        self.logged.append((conversion, engines))
        for engine in engines:
            folders = {"reference": engine.reference, "candidate": engine.candidate, "annotations": engine.annotations}
            self.files.append(
                {name: folder and sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()}
            )
        return {engine.outcome.cell.engine_id: f"run {number}" for number, engine in enumerate(engines)}

    def find_runs(self, _conversion: ConversionRecord, _outcomes: Sequence[EngineOutcome]) -> dict[str, str] | None:
        return self.known


@pytest.fixture
def data(context: StageContext) -> DataArtifact:
    return put_data(context.store, [{"features": make_features(3)}])


@pytest.fixture
def conversion(context: StageContext, data: DataArtifact, write_model: Callable[..., Path]) -> ConversionRecord:
    directory = read_model_directory(write_model(calibration={"set": "../calibration", "method": "minmax"}))
    exported = ExportedModel(onnx=put(context.store, {"model.onnx": b"graph"}), opset=20, checks={})
    return describe_conversion(directory, VERSION, "c" * 40, data, exported)


def test_a_conversion_is_described_by_what_it_was_made_of(
    conversion: ConversionRecord, data: DataArtifact, tmp_path: Path
) -> None:
    assert (conversion.model, conversion.version, conversion.source_commit) == ("tiny", VERSION, "c" * 40)
    assert (conversion.validation_digest, conversion.validation_samples) == (data.inputs.digest, 3)
    parameters = dict(conversion.parameters)
    assert parameters.pop("onnx").startswith("sha256:")
    assert parameters.pop("annotations") == data.annotations.digest
    assert parameters == {
        "source": "model.py:build",
        "exporter": "dynamo",
        "opset": "20",
        "onnx_size_bytes": "5",
        "calibration.method": "minmax",
    }
    assert str(tmp_path) not in repr(conversion)


def test_every_engine_is_logged_with_its_files_and_one_that_is_none_without(
    context: StageContext, conversion: ConversionRecord, data: DataArtifact, tmp_path: Path
) -> None:
    failed = EngineOutcome(cell=cell("int8"), outcome=Outcome.FAIL, reason="the converter crashed")
    outcomes = [make_outcome(context.store), failed]
    tracker = FakeTracker()
    runs = track_conversion(context, tracker, conversion, outcomes, data, put_reference(context.store))
    assert runs == {outcomes[0].cell.engine_id: "run 0", failed.cell.engine_id: "run 1"}
    assert tracker.logged[0][0] is conversion
    assert [record.outcome for record in tracker.logged[0][1]] == outcomes
    shards = ["00000.npz"]
    assert tracker.files == [
        {"reference": shards, "candidate": shards, "annotations": shards},
        {"reference": shards, "candidate": None, "annotations": shards},
    ]
    assert list((tmp_path / "store" / "scratch").glob("*")) == []


def test_a_conversion_that_is_logged_already_is_not_logged_again(
    context: StageContext, conversion: ConversionRecord, data: DataArtifact
) -> None:
    tracker = FakeTracker(known={"tiny-cpu-fp32@0123456789ab": "run 7"})
    outcomes = [make_outcome(context.store)]
    assert track_conversion(context, tracker, conversion, outcomes, data, put_reference(context.store)) == tracker.known
    assert tracker.logged == []


def test_a_tracker_that_cannot_be_reached_leaves_nothing_behind(
    context: StageContext, conversion: ConversionRecord, data: DataArtifact, tmp_path: Path
) -> None:
    tracker = FakeTracker(error=StageError("MLflow does not answer"))
    with pytest.raises(StageError, match="does not answer"):
        track_conversion(
            context, tracker, conversion, [make_outcome(context.store)], data, put_reference(context.store)
        )
    assert list((tmp_path / "store" / "scratch").glob("*")) == []


def test_the_tactics_of_an_engine_and_of_miscompiled_builds_before_it_are_logged(
    context: StageContext, conversion: ConversionRecord, data: DataArtifact
) -> None:
    class Reading(FakeTracker):
        def log_conversion(self, conversion: ConversionRecord, engines: Sequence[EngineRecord]) -> dict[str, str]:
            self.tactics = [{name: path.read_text() for name, path in one.tactics.items()} for one in engines]
            return super().log_conversion(conversion, engines)

    own, wrong = (put(context.store, {TACTICS_FILE: text, "timing.cache": b"timings"}) for text in (b"own", b"wrong"))
    made = make_outcome(context.store)
    assert made.engine
    build = MiscompiledBuild(plan=made.engine.plan.digest, witness="onnxruntime 1", sentence="mae", tactics=wrong)
    unknown = build.model_copy(update={"tactics": None})
    engine = made.engine.model_copy(update={"tactics": own})
    outcome = made.model_copy(update={"engine": engine, "miscompiled": (unknown, build)})
    tracker = Reading()
    track_conversion(context, tracker, conversion, [outcome, made], data, put_reference(context.store))
    assert tracker.tactics == [{"miscompiled-2": "wrong", "engine": "own"}, {}]
