"""Checks a calibration set before INT8 is made with it: is it covered, fresh, and like production?

Whether its files are whole is known when it is read (`sets.read_set`), and what they hold when it is taken in
(`tasks.stages.ingest`). Here the set is measured against a sample of production, which is remembered, and judged, which
is not: a set grows old.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING

from tasks.calibration.findings import FEWEST, count_strata, find_age, find_differences, find_gaps
from tasks.calibration.interface import DataSet, MeasureRequest
from tasks.calibration.report import CalibrationReport, Resemblance
from tasks.errors import InputError
from tasks.graphs import onnx_files
from tasks.model.set_manifest import MANIFEST_FILE, CalibrationManifest, age_days
from tasks.specs import ModelSpec, OutputDeclaration
from tasks.store.digests import digest_json, statistics_digest
from tasks.store.stage_cache import StageResult, run_cached

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.declared import InputSpec
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, ExportedModel
    from tasks.samples.data_spec import DataSpec

RECIPE = 4  # near copies are refused; a report of before did not look for them


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
    measurement = _Measurement(context, data, production, spec, exported, tuple(manifest.strata))
    measured = run_cached(context.store, "check", measurement.key(), Resemblance, measurement.run)
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


@dataclass(frozen=True)
class _Measurement:
    """What `check_calibration` measures. Where nothing says what outputs mean, no reference is run."""

    context: StageContext
    data: DataArtifact
    production: Production
    spec: DataSpec | ModelSpec
    exported: ExportedModel | None
    strata: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, OutputDeclaration]:
        return self.spec.outputs if isinstance(self.spec, ModelSpec) else {}

    def key(self) -> dict[str, object]:
        spec, parts = self.spec, (self.data, self.production.data, self.production.validation)
        return {
            "recipe": RECIPE,
            "statistics": statistics_digest(),
            "onnxruntime": metadata.version("onnxruntime"),
            "data": [None if part is None else set_digest(part) for part in parts],
            "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
            "batch": spec.dims[spec.batch_dim].model_dump(),
            "outputs": {name: output.model_dump(mode="json") for name, output in self.outputs.items()},
            "onnx": self.exported.onnx.digest if self.exported is not None and self.outputs else None,
            "strata": list(self.strata),
        }

    def run(self, folder: Path) -> Resemblance:
        fetch, spec, held_out = self.context.store.fetch, self.spec, self.production.validation
        onnx = None
        if self.exported is not None and self.outputs:
            onnx = onnx_files.fetched_model(fetch(self.exported.onnx, folder / "onnx"))
        request = MeasureRequest(
            calibration=_laid_out(self.context, self.data, folder / "set"),
            production=_laid_out(self.context, self.production.data, folder / "production"),
            validation=None if held_out is None else fetch(held_out.inputs, folder / "validation"),
            inputs=dict(spec.inputs),
            batch_dim=spec.batch_dim,
            batch=spec.dims[spec.batch_dim],
            outputs=self.outputs,
            onnx=onnx,
            strata=self.strata,
        )
        entry = "tasks.calibration.measure:measure_in_child"
        return self.context.call_in_child(entry, request, Resemblance, folder)


def _laid_out(context: StageContext, data: DataArtifact, folder: Path) -> DataSet:
    return DataSet(
        inputs=context.store.fetch(data.inputs, folder / "inputs"),
        annotations=context.store.fetch(data.annotations, folder / "annotations"),
        samples=data.samples,
    )
