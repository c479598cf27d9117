"""What `enginegate calibration` does, and what a conversion does with a calibration set before INT8."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.stage import run_stage
from tasks.calibration.check import Production, check_calibration, require_inputs
from tasks.calibration.draw import draw_set, refuse_request
from tasks.calibration.features import sample_digests
from tasks.calibration.reference_scores import score_samples
from tasks.calibration.sets import CalibrationSet, count_strata, read_set
from tasks.errors import InputError, StageError
from tasks.model.model_directory import SPEC_FILE, ModelDirectory, read_model_directory
from tasks.model.set_manifest import CalibrationManifest, data_files_in
from tasks.objects.location import open_objects
from tasks.release.sample_upload import fetched_samples
from tasks.samples.data_spec import SLICE, BareSpec, DataSpec
from tasks.samples.formats import DATA_SUFFIXES, read_arrays
from tasks.stages.export import export_onnx
from tasks.stages.independence import IndependentSamples, count_independent, independence_in_words
from tasks.stages.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from flows.session import Session
    from tasks.calibration.report import CalibrationReport
    from tasks.records import DataArtifact, ExportedModel

NEAREST_FOLDERS = 3
"""So many folders above a sample may hold the model.yaml that it belongs to."""
LONGEST_NAME = 64
"""Characters of a set's name that a manifest takes."""


@contextmanager
def local_sample(session: Session, sample: Path | str) -> Iterator[Path]:
    """A sample as a file or folder here: what lies at an address in S3 is fetched for as long as this is open.

    Raises:
        InputError, RefusedError, StageError: see `fetched_samples`.
    """
    if isinstance(sample, str):
        with fetched_samples(open_objects(sample), session.downloads) as folder:
            yield folder
    else:
        yield sample


def check_and_log(session: Session, folder: Path, against: Path | None, model: Path | None) -> CalibrationReport:
    """Check a calibration set as `check_set` does, and log the report to MLflow, which is opened meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(session.tracker.connect)
        report = check_set(session, folder, against, model)
        try:
            connecting.result()
            run = session.tracker.log_calibration(report)
        except StageError as error:  # the verdict stands without MLflow
            session.reporter.say(f"! not logged: {error}")
        else:
            session.reporter.say(f"logged to MLflow as run {run} of experiment `calibration sets`")
    return report


def check_set(session: Session, folder: Path, against: Path | None, model: Path | None) -> CalibrationReport:
    """Check the calibration set in `folder` against a sample: `against`, or what its manifest must resemble.

    The model is the one in `model`, or around the sample; without one, the reference is not run.

    Raises:
        InputError: the set or the sample cannot be used, or they do not fit the model.
        RefusedError: a file of the set has another digest than its manifest says.
    """
    checked = read_set(folder, session.downloads)
    sample = _sample_of(checked, against)
    directory = model_around(model, sample)
    spec: DataSpec = BareSpec(checked.manifest.inputs) if directory is None else directory.spec
    files = sample_files(sample)
    data = take_set(session, checked, spec)
    if directory is None:
        production = take_data(session, "production sample", spec, files, sample.name)
        session.reporter.say("! no model.yaml near the sample: the reference is not run; name it with --model")
        return judge_set(session, checked, data, Production(sample.name, production, None), spec, None)
    validation = take_data(session, "validation data", spec, directory.validation, "validation.data")
    production = validation
    if files != directory.validation:
        production = take_data(session, "production sample", spec, files, sample.name)
    exported = run_stage(session, "export", export_onnx, lambda _: "the reference as ONNX", directory, validation)
    return judge_set(session, checked, data, Production(sample.name, production, validation), directory.spec, exported)


def take_set(session: Session, checked: CalibrationSet, spec: DataSpec) -> DataArtifact:
    """Take a set's files into the store, checked against the model and against the manifest."""
    require_inputs(checked.manifest, spec.inputs)
    count_strata(checked, (read_arrays(path) for path in checked.files))
    return take_data(session, "calibration data", spec, checked.files, f"calibration set {checked.manifest.name}")


def take_data(session: Session, name: str, spec: DataSpec, files: Sequence[Path], field: str) -> DataArtifact:
    """Take files of samples into the store."""
    return run_stage(session, name, ingest, lambda found: f"{found.samples:,} samples", spec, files, field)


def count_groups(session: Session, name: str, spec: DataSpec, data: DataArtifact) -> IndependentSamples:
    """Say how many independent samples data hold, and remember which belong together."""
    return run_stage(session, f"independent {name}", count_independent, independence_in_words, spec, data)


def judge_set(
    session: Session,
    checked: CalibrationSet,
    data: DataArtifact,
    production: Production,
    spec: DataSpec,
    exported: ExportedModel | None,
) -> CalibrationReport:
    """Compare a set that was taken in with production, and say what is wrong with it.

    Raises:
        InputError: production is the set itself, or a sample of the set is in the validation data.
    """
    if data.inputs.digest == production.data.inputs.digest:
        raise InputError(
            f"calibration set {checked.manifest.name}: {production.name} holds the set's own {data.samples:,} samples,"
            " and what is compared with itself always passes; name a sample of production"
        )
    counted = count_groups(session, "calibration samples", spec, data)
    report = run_stage(
        session,
        "check calibration",
        check_calibration,
        count_findings,
        checked.manifest,
        data,
        production,
        spec,
        exported,
    )
    return report.model_copy(update={"independent": counted.independent})


def count_findings(report: CalibrationReport) -> str:
    """How many findings a report has, in words."""
    number = len(report.findings)
    return "nothing found" if number == 0 else f"{number} finding{'' if number == 1 else 's'}"


def sample_of(checked: CalibrationSet) -> Path | None:
    """The sample that a set's manifest says it must resemble; None where it says nothing.

    Raises:
        InputError: there is no such file or folder.
    """
    if checked.manifest.resembles is None:
        return None
    path = (checked.folder / checked.manifest.resembles).resolve()
    if not path.exists():
        raise InputError(
            f"calibration set {checked.manifest.name}: manifest.yaml: resembles: {checked.manifest.resembles} does not"
            f" exist; correct the path, which is relative to {checked.folder}, or remove the line: it is optional, and"
            " without it the set is compared with the validation data, or with what `calibration check --against` names"
        )
    return path


def sample_files(sample: Path) -> tuple[Path, ...]:
    """The files of a sample: itself, or the data files in the folder and below.

    Raises:
        InputError: there is none, or it is a model directory.
    """
    if (sample / SPEC_FILE).is_file():
        raise InputError(f"{sample}: is a model directory, and no sample; name the validation data in it, or others")
    files = tuple(data_files_in(sample)) if sample.is_dir() else (sample,)
    if not files or not files[0].exists():
        raise InputError(f"{sample}: holds no data; name a file or a folder of {', '.join(DATA_SUFFIXES)}")
    return files


def _sample_of(checked: CalibrationSet, against: Path | None) -> Path:
    sample = against.resolve() if against is not None else sample_of(checked)
    if sample is None:
        raise InputError(
            f"calibration set {checked.manifest.name}: manifest.yaml names no sample under `resembles`; name one with"
            " --against"
        )
    return sample


def model_around(model: Path | None, sample: Path) -> ModelDirectory | None:
    """The model directory that was named, or the one that a sample lies in; None where there is none."""
    if model is not None:
        return read_model_directory(model)
    near = next((folder for folder in list(sample.parents)[:NEAREST_FOLDERS] if (folder / SPEC_FILE).is_file()), None)
    return None if near is None else read_model_directory(near)


def draw_from(
    session: Session,
    sample: Path,
    out: Path,
    *,
    size: int,
    by: Sequence[str],
    seed: int,
    source: str | None,
    collected: tuple[date, date] | None,
    model: Path | None,
    fetched_from: str | None = None,
) -> CalibrationManifest:
    """Draw a calibration set for a model from a sample of production, and write it to the folder `out`.

    `fetched_from` is where the sample was fetched from, which the set then names as its source.

    Raises:
        InputError: the sample cannot be used, or no model is known whose validation samples are to be left out.
    """
    refuse_request(out, size, seed)  # before the reference is run
    files = sample_files(sample.resolve())
    directory = model_around(model, sample.resolve())
    if directory is None:
        raise InputError(f"{sample}: no model.yaml near it; name the model with --model, whose samples these are")
    spec = directory.spec
    data = take_data(session, "production sample", spec, files, sample.name)
    _refuse_unknown_strata(sample.name, by, data.slices)  # before the reference is run
    validation = take_data(session, "validation data", spec, directory.validation, "validation.data")
    exported = run_stage(session, "export", export_onnx, lambda _: "the reference as ONNX", directory, validation)
    return draw_set(
        files,
        out,
        size=size,
        by=by,
        inputs=spec.inputs,
        batch_dim=spec.batch_dim,
        validation_digests=_digests(directory),
        scores=session.reporter.step(
            "scores",
            lambda progress: score_samples(session.stage_context(progress), exported, spec, data),
            lambda scores: f"of {scores.size:,} samples, {scores.min():.3g} to {scores.max():.3g}",
        ),
        seed=seed,
        name=_set_name(out),
        source=source or f"Drawn from {fetched_from or sample.name}",
        resembles=None if fetched_from else os.path.relpath(sample.resolve(), out.resolve()),
        collected=collected,
    )


def _refuse_unknown_strata(sample: str, by: Sequence[str], slices: Sequence[str]) -> None:
    there = ", ".join(f"{SLICE}{name}" for name in slices) or "no slice"
    for stratum in by:
        if stratum not in slices:
            raise InputError(
                f"{sample}: has no {SLICE}{stratum} to draw by ({there} found); add the array, or leave out --by"
            )


def _set_name(out: Path) -> str:
    """The name of a set in the folder `out`, as a manifest takes it."""
    name = re.sub(r"[^a-z0-9]+", lambda gap: "_" if gap[0] == "_" else "-", out.resolve().name.lower())
    return name.strip("-_")[:LONGEST_NAME].rstrip("-_") or "drawn"


def _digests(directory: ModelDirectory) -> set[str]:
    inputs = directory.spec.inputs
    return {
        digest
        for path in directory.validation
        for digest in sample_digests(
            {name: array for name, array in read_arrays(path).items() if name in inputs},
            inputs,
            directory.spec.batch_dim,
        )
    }
