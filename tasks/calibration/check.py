"""Checks a calibration set before INT8 is made with it: is it covered, fresh, and like production?

Whether its files are whole is known when it is read (`sets.read_set`), and what they hold when it is taken in
(`tasks.stages.ingest`). Here the set is measured against a sample of production, which is remembered, and judged, which
is not: a set grows old.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING

from tasks.calibration.findings import FEWEST, count_strata, find_age, find_differences, find_gaps
from tasks.calibration.measure import DataSet, MeasureRequest
from tasks.calibration.report import CalibrationReport, Resemblance
from tasks.errors import InputError
from tasks.graphs import onnx_files
from tasks.model.set_manifest import MANIFEST_FILE, age_days
from tasks.specs import ModelSpec
from tasks.store.digests import digest_json, statistics_digest
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from tasks.model.set_manifest import CalibrationManifest
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, ExportedModel
    from tasks.samples.data_spec import DataSpec
    from tasks.specs import InputSpec

RECIPE = 3


@dataclass(frozen=True)
class Production:
    """The sample of production that a set must resemble, what it is called, and what the model is validated on.

    No sample of the set may be in `validation`; None where no model is known.
    """

    name: str
    data: DataArtifact
    validation: DataArtifact | None


def require_inputs(manifest: CalibrationManifest, inputs: Mapping[str, InputSpec]) -> None:
    """Raise InputError where the manifest's inputs are not the model's."""
    where = f"calibration set {manifest.name}: {MANIFEST_FILE}: inputs"
    for name in sorted(manifest.inputs.keys() ^ inputs.keys()):
        side = "which model.yaml has" if name in inputs else "which model.yaml does not have"
        raise InputError(f"{where}: {name}, {side}; the set is of another model, or its manifest must be mended")
    for name, wanted in inputs.items():
        found = manifest.inputs[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise InputError(
                f"{where}.{name}: {found.dtype} {list(found.shape)}, model.yaml says {wanted.dtype}"
                f" {list(wanted.shape)}; convert the set, or correct the one that is wrong"
            )


def check_calibration(
    context: StageContext,
    manifest: CalibrationManifest,
    data: DataArtifact,
    production: Production,
    spec: DataSpec | ModelSpec,
    exported: ExportedModel | None,
    today: date | None = None,
) -> StageResult[CalibrationReport]:
    """Compare a set with production, and say what is wrong with it.

    Without `exported`, the reference is not run: inputs are compared, but neither ranges nor scores.

    Raises:
        InputError: a sample is in both the set and the validation data, or one side has too few samples to compare.
        StageError: the reference cannot be run.
    """
    _require_samples(manifest.name, data, production)
    strata = tuple(manifest.strata)
    measured = _measure(context, data, production, spec, exported, strata)
    found = measured.result
    age = age_days(manifest, today or datetime.now(timezone.utc).date())
    counted = count_strata(manifest.strata, found)
    report = CalibrationReport(
        name=manifest.name,
        digest=set_digest(data),
        production=production.name,
        production_digest=set_digest(production.data),
        age_days=age,
        max_age_days=manifest.max_age_days,
        strata=counted,
        resemblance=found,
        findings=(*find_gaps(counted), *find_age(age, manifest.max_age_days), *find_differences(found)),
    )
    return StageResult(report, cached=measured.cached, seconds=measured.seconds)


def _require_samples(name: str, data: DataArtifact, production: Production) -> None:
    sides = {f"calibration set {name}": data.samples, f"production sample {production.name}": production.data.samples}
    for side, samples in sides.items():
        if samples < FEWEST:
            raise InputError(
                f"{side}: holds {samples} samples, and fewer than {FEWEST} show nothing; add {FEWEST - samples} or more"
            )


def set_digest(data: DataArtifact) -> str:
    """`sha256:…` of a data set, inputs and annotations."""
    return digest_json([data.inputs.digest, data.annotations.digest])


def _measure(
    context: StageContext,
    data: DataArtifact,
    production: Production,
    spec: DataSpec | ModelSpec,
    exported: ExportedModel | None,
    strata: tuple[str, ...],
) -> StageResult[Resemblance]:
    outputs = spec.outputs if isinstance(spec, ModelSpec) else {}
    if not outputs:
        exported = None  # nothing says what its outputs mean
    parts = (data, production.data, production.validation)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "statistics": statistics_digest(),
        "onnxruntime": metadata.version("onnxruntime"),
        "data": [None if part is None else set_digest(part) for part in parts],
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "batch": spec.dims[spec.batch_dim].model_dump(),
        "outputs": {name: output.model_dump(mode="json") for name, output in outputs.items()},
        "onnx": None if exported is None else exported.onnx.digest,
        "strata": list(strata),
    }

    def produce() -> Resemblance:
        with context.store.scratch() as folder:
            onnx = None
            if exported is not None:
                onnx = str(onnx_files.fetched_model(context.store.fetch(exported.onnx, folder / "onnx")))
            request = MeasureRequest(
                calibration=_laid_out(context, data, folder / "set"),
                production=_laid_out(context, production.data, folder / "production"),
                validation=None
                if production.validation is None
                else str(context.store.fetch(production.validation.inputs, folder / "validation")),
                inputs=dict(spec.inputs),
                batch_dim=spec.batch_dim,
                batch=spec.dims[spec.batch_dim],
                outputs=outputs,
                onnx=onnx,
                strata=strata,
            )
            return context.call_in_child("tasks.calibration.measure:measure_in_child", request, Resemblance, folder)

    return run_cached(context.store, "check", key, Resemblance, produce)


def _laid_out(context: StageContext, data: DataArtifact, folder: Path) -> DataSet:
    return DataSet(
        inputs=str(context.store.fetch(data.inputs, folder / "inputs")),
        annotations=str(context.store.fetch(data.annotations, folder / "annotations")),
        samples=data.samples,
    )
