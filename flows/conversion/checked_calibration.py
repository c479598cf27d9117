"""What INT8 takes in a conversion: a calibration set that was checked, or whose findings somebody accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.conversion.calibration_sets import judge_set, sample_files, sample_of, take_data, take_set
from tasks.calibration.check import Production
from tasks.calibration.sets import CalibrationSet, read_set
from tasks.model.model_directory import require_calibration
from tasks.records import CalibrationRecord, DataArtifact, ExportedModel

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.calibration.report import CalibrationReport
    from tasks.model.model_directory import ModelDirectory


@dataclass(frozen=True)
class Calibration:
    """A calibration set, what its check found, and why that is accepted, if somebody does."""

    data: DataArtifact
    report: CalibrationReport
    accepted: str | None

    @property
    def refusal(self) -> str | None:
        """Why nothing is quantized with the set; None where it may be."""
        if self.report.passed or self.accepted:
            return None
        first, *others = (finding.sentence for finding in self.report.findings)
        also = "".join(f"\n- {sentence}" for sentence in others)
        return (
            f"calibration set {self.report.name}: {first}; nothing is quantized with it."
            f" Mend the set, or convert with --accept-calibration REASON{f'. Found too:{also}' if also else ''}"
        )

    @property
    def record(self) -> CalibrationRecord:
        """What an engine's manifest keeps of it."""
        return CalibrationRecord(
            name=self.report.name,
            digest=self.report.digest,
            production_digest=self.report.production_digest,
            findings=tuple(finding.sentence for finding in self.report.findings),
            accepted=None if self.report.passed else self.accepted,
        )


def read_calibration(session: Session, directory: ModelDirectory) -> tuple[CalibrationSet, DataArtifact]:
    """The calibration set that a model names, and its data in the store.

    Raises:
        InputError: the model names none, or the set cannot be used, or is not of this model.
        RefusedError: a file has another digest than the manifest says.
    """
    checked = read_set(require_calibration(directory).path, session.downloads)
    return checked, take_set(session, checked, directory.spec)


def calibrate(
    session: Session,
    directory: ModelDirectory,
    validation: DataArtifact,
    exported: ExportedModel,
    accepted: str | None,
) -> Calibration:
    """Check the calibration set of a model against the sample that it must resemble, else the validation data."""
    accepted = (accepted or "").strip() or None  # a blank is no reason
    checked, data = read_calibration(session, directory)
    sample, production = sample_of(checked), validation
    if sample is not None and sample_files(sample) != directory.validation:
        production = take_data(session, "production sample", directory.spec, sample_files(sample), sample.name)
    name = "the validation data" if sample is None or production is validation else sample.name
    against = Production(name, production, validation)
    report = judge_set(session, checked, data, against, directory.spec, exported)
    if not report.passed and accepted:  # otherwise the engine's verdict says it
        for finding in report.findings:
            session.reporter.say(f"! calibration set {report.name}: {finding.sentence}")
        session.reporter.say(f"! accepted: {accepted}")
    return Calibration(data, report, accepted)
