"""What a conversion quantizes with: a set that passed its check, or one whose findings somebody accepts."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from safetensors.numpy import save_file

from flows.commands.cli import main
from flows.console import Reporter
from flows.conversion import calibration_sets
from flows.conversion.checked_calibration import Calibration, calibrate
from flows.conversion.conversion_flow import prepare
from flows.conversion.conversion_plan import plan_conversion
from flows.session import Session
from flows.settings import Settings
from tasks.artifact import Artifact
from tasks.calibration.report import CalibrationReport, Finding, Resemblance
from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.records import DataArtifact, ExportedModel
from tasks.stages.independence import IndependentSamples
from tasks.store.digests import digest_json
from tasks.store.stage_cache import StageResult
from tests.flows.projects import Project, write_calibration, write_project
from tests.sets import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.calibration.check import Production

INPUTS = {"features": {"dtype": "float32", "shape": ["batch", 16]}}
GAP = "stratum level=6 has 0 samples, production has 17 %"
OLD = "its newest sample is 9 days old; manifest.yaml's max_age_days is 1"
REASON = "the exam of level 6 comes in May"


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str = "") -> None:
        self.said.append(text)

    def step(self, _name: str, work: Any, _describe: Any) -> Any:
        return work(lambda _done, _total: None)


def report_of(*sentences: str) -> CalibrationReport:
    return CalibrationReport(
        name="made",
        digest=digest_json("set"),
        production="validation",
        production_digest=digest_json("production"),
        age_days=0,
        max_age_days=None,
        strata=(),
        resemblance=Resemblance(set_samples=300, production_samples=300, counts={}, production_counts={}),
        findings=tuple(Finding(check="coverage", sentence=sentence) for sentence in sentences),
    )


def artifact(content: str) -> Artifact:
    return Artifact(digest=digest_json(content), files=())


def data(content: str) -> DataArtifact:
    return DataArtifact(inputs=artifact(content), annotations=artifact(content), samples=300, slices=())


def calibrated(*sentences: str, accepted: str | None = None) -> Calibration:
    return Calibration(data("set"), report_of(*sentences), accepted)


def test_a_set_that_passed_is_taken_and_a_reason_given_for_it_is_not_kept() -> None:
    found = calibrated(accepted="never needed")
    assert found.refusal is None
    assert (found.record.findings, found.record.accepted) == ((), None)


def test_a_set_that_failed_is_refused_with_all_that_was_found_and_what_to_do() -> None:
    refusal = calibrated(GAP, OLD).refusal
    assert refusal is not None
    heading, *listed = refusal.splitlines()
    assert heading.startswith(f"calibration set made: {GAP}; nothing is quantized with it.")
    assert "--accept-calibration REASON" in heading
    assert listed == [f"- {OLD}"]


def test_what_somebody_accepts_is_kept_with_the_reason() -> None:
    found = calibrated(GAP, accepted=REASON)
    assert found.refusal is None
    assert (found.record.findings, found.record.accepted) == ((GAP,), REASON)
    assert found.record.production_digest == digest_json("production")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A model whose calibration set is checked by a fake."""
    return write_project(tmp_path / "project", "http://127.0.0.1:9/api")


def fake_calibrate(project: Project, accepted: str | None = None, *sentences: str) -> tuple[Calibration, Production]:
    """Calibrate with a check that finds `sentences`; also what it was asked to compare with."""
    asked: list[Production] = []

    def take(_context: Any, _spec: Any, files: Any, field: str) -> StageResult[DataArtifact]:
        found = data(f"{field} {[path.name for path in files]}")
        return StageResult(found, cached=False, seconds=0.0)

    def check(_context: Any, _manifest: Any, _data: Any, production: Production, *_: Any) -> StageResult[Any]:
        asked.append(production)
        return StageResult(report_of(*sentences), cached=False, seconds=0.0)

    def count(*_: Any) -> StageResult[IndependentSamples]:
        found = IndependentSamples(
            samples=300, independent=290, named=False, labelled=False, near=0, searched=0, groups=None
        )
        return StageResult(found, cached=False, seconds=0.0)

    session = Session(Settings(home=project.home), Silent())  # type: ignore[arg-type]
    directory = read_model_directory(project.model)
    exported = ExportedModel(onnx=artifact("onnx"), opset=17, checks={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_sets, "ingest", take)
        patch.setattr(calibration_sets, "check_calibration", check)
        patch.setattr(calibration_sets, "count_independent", count)
        found = calibrate(session, directory, data("validation"), exported, accepted)
    return found, asked[0]


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_reason_accepts_nothing(project: Project, blank: str) -> None:
    found, _ = fake_calibrate(project, blank, GAP)
    assert found.report.independent == 290, "the check says how many samples of the set are independent"
    assert found.accepted is None
    assert found.refusal is not None


def test_the_set_is_compared_with_the_validation_data_unless_its_manifest_names_a_sample(project: Project) -> None:
    calibration = project.root / "calibration"
    _, production = fake_calibrate(project)
    assert (production.name, production.data) == ("the validation data", data("validation"))
    describe(calibration, INPUTS, resembles="../model/validation.npz")
    assert fake_calibrate(project)[1] == production
    shutil.copy(project.model / "validation.npz", project.root / "traffic.npz")
    describe(calibration, INPUTS, resembles="../traffic.npz")
    _, production = fake_calibrate(project)
    assert (production.name, production.validation) == ("traffic.npz", data("validation"))
    assert production.data != data("validation")


def test_a_sample_that_is_not_there_or_is_the_set_itself_is_refused(project: Project) -> None:
    describe(project.root / "calibration", INPUTS, resembles="../nowhere")
    with pytest.raises(
        InputError,
        match=r"manifest.yaml: resembles: ../nowhere does not exist; correct .*remove the line: it is optional",
    ):
        fake_calibrate(project)
    session = Session(Settings(home=project.home), Reporter())
    with pytest.raises(InputError, match="does not exist"):
        prepare(session, plan_conversion(read_model_directory(project.model)))
    steps = [step.name for step in session.reporter.steps]
    assert steps == ["validation data", "independent samples", "calibration data", "module"], "and no export"
    describe(project.root / "calibration", INPUTS, resembles="set.npz")
    code, document, _ = project.run("calibration", "check", str(project.root / "calibration"))
    assert code == 2
    assert "what is compared with itself always passes" in document["error"]


@pytest.mark.parametrize("reason", ["", "  "])
def test_convert_refuses_a_blank_reason_as_usage(project: Project, reason: str) -> None:
    result = CliRunner().invoke(main, ["convert", str(project.model), "--accept-calibration", reason])
    assert result.exit_code == 2
    assert "'--accept-calibration': is blank" in result.stderr
    assert not project.home.exists()


def drop_level_6(project: Project) -> None:
    """Leave level 6 out of the set, and ask for it in the manifest."""
    path = project.root / "calibration" / "set.npz"
    with np.load(path) as archive:
        kept = archive["slice.level"] != 6
        arrays = {name: archive[name][kept] for name in archive.files}
    np.savez(path, **arrays)
    describe(project.root / "calibration", INPUTS, strata={"level": dict.fromkeys(range(1, 7), 10)})


Refused = tuple[Project, int, dict[str, Any], str]


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory, prefect_url: str, begin_with_store: Callable[[Path], None]
) -> Refused:
    """A conversion to FP32 and INT8 with a set that lacks level 6."""
    project = write_project(tmp_path_factory.mktemp("refused"), prefect_url)
    begin_with_store(project.home)
    drop_level_6(project)
    return project, *project.convert()


def by_precision(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {engine["engine_id"].partition("@")[0].rpartition("-")[2]: engine for engine in document["engines"]}


@pytest.mark.end_to_end
def test_with_a_set_that_fails_nothing_is_quantized_and_the_other_engine_is_registered(refused: Refused) -> None:
    project, code, document, text = refused
    engines = by_precision(document)
    assert code == 3
    assert {name: engine["verdict"] for name, engine in engines.items()} == {"fp32": "pass", "int8": "fail"}
    assert "stratum level=6 has 0 samples, production has" in engines["int8"]["reason"]
    assert "--accept-calibration REASON" in engines["int8"]["reason"]
    assert "✕ verdict int8" in text
    assert not [step["name"] for step in document["steps"] if step["name"].endswith(" int8")]
    assert project.registered() == {engines["fp32"]["engine_id"]}


@pytest.mark.hardship(only=True)
@pytest.mark.end_to_end
def test_what_is_accepted_stands_in_the_registry_and_in_mlflow(refused: Refused) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415 - takes long, and one test needs it

    project = refused[0]
    code, document, text = project.convert("--accept-calibration", REASON)
    assert code == 0, text
    assert f"! accepted: {REASON}" in text.splitlines()
    engine_id = by_precision(document)["int8"]["engine_id"]
    manifests = {engine["engine_id"]: engine for engine in project.run("engines")[1]["engines"]}
    kept = manifests.pop(engine_id)["calibration"]
    (finding,) = kept["findings"]
    assert kept["accepted"] == REASON
    assert by_precision(document)["int8"]["calibration"] == kept
    assert by_precision(document)["int8"]["tries"] == []
    assert finding.startswith("stratum level=6 has 0 samples, production has")
    assert [manifest["calibration"] for manifest in manifests.values()] == [None]

    client = MlflowClient(f"sqlite:///{project.home}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny-scorer").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [
        run
        for run in runs
        if run.data.tags["enginegate.kind"] == "conversion" and "calibration.accepted" in run.data.params
    ]
    (made,) = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        and run.data.tags["enginegate.engine_id"] == engine_id
    ]
    assert (parent.data.params["calibration.accepted"], parent.data.params["calibration.findings"]) == (REASON, "1")
    assert (made.data.params["calibration.accepted"], made.data.params["calibration.findings"]) == (REASON, finding)
    files = {item.path for item in client.list_artifacts(parent.info.run_id, "calibration")}
    assert files == {f"calibration/{name}" for name in ("report.json", "report.md", "drift.png", "ranges.png")}


def rewrite(folder: Path, suffix: str) -> None:
    """Write the set's samples in another format."""
    with np.load(folder / "set.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    (folder / "set.npz").unlink()
    if suffix == "parquet":
        columns = {name: pa.array(array.tolist(), pa.from_numpy_dtype(array.dtype)) for name, array in arrays.items()
                   if array.ndim == 1}  # fmt: skip
        columns["features"] = pa.array(arrays["features"].tolist(), pa.list_(pa.float32()))
        parquet.write_table(pa.table(columns), folder / "set.parquet")
    else:
        save_file(arrays, folder / f"set.{suffix}")
    describe(folder, INPUTS)


@pytest.mark.hardship(only=True)
@pytest.mark.end_to_end
def test_sets_in_other_formats_are_other_versions_with_the_same_verdict_and_no_new_work(
    tmp_path: Path, prefect_url: str, begin_with_store: Callable[[Path], None]
) -> None:
    project = write_project(tmp_path / "formats", prefect_url)
    begin_with_store(project.home)
    found = []
    for suffix in ("npz", "parquet", "safetensors"):
        if suffix != "npz":
            write_calibration(project.root, seed=2)
            rewrite(project.root / "calibration", suffix)
        code, document, text = project.convert("--precision", "int8", "--accept-calibration", "not needed")
        assert code == 0, text
        found.append(document)
        shutil.rmtree(project.root / "calibration")
        (project.root / "calibration").mkdir()
    assert len({document["version"] for document in found}) == 3
    assert found[0]["engines"][0]["rules"] == found[1]["engines"][0]["rules"] == found[2]["engines"][0]["rules"]
    for document in found[1:]:
        done = {step["name"] for step in document["steps"] if not step["cached"]}
        assert not done & {"convert int8", "build int8", "compare int8", "benchmark int8"}, "the samples are the same"
    manifests = project.run("engines")[1]["engines"]
    assert [manifest["calibration"]["accepted"] for manifest in manifests] == [None] * 3


@pytest.mark.end_to_end
def test_a_set_that_grew_old_is_refused_though_all_else_is_in_the_store(refused: Refused, tmp_path: Path) -> None:
    source = refused[0]
    shutil.copytree(source.root, tmp_path / "copy")
    project = Project(tmp_path / "copy", source.environment | {"ENGINEGATE_HOME": str(tmp_path / "copy" / "home")})
    write_calibration(project.root, seed=2)
    today = datetime.now(timezone.utc).date()
    old = (today - timedelta(days=40), today - timedelta(days=35))
    describe(project.root / "calibration", INPUTS, collected=old, max_age_days=30)
    code, document, _ = project.convert("--precision", "int8")
    assert code == 3
    assert "its newest sample is 35 days old; manifest.yaml's max_age_days is 30" in document["engines"][0]["reason"]
