"""What a tracker does: keeps every conversion and engine where data scientists look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.calibration.report import CalibrationReport
    from tasks.declared import Dim
    from tasks.records import EngineOutcome
    from validation.outputs import OutputSpec


@dataclass(frozen=True, kw_only=True)
class ConversionRecord:
    """One conversion of one version of a model: the parent run.

    `validation_digest` (`sha256:…`) names the data, `outputs` and `dims` are the model's declarations. `calibration`
    identifies nothing, since a set grows older: what it found is in the engines' outcomes.
    """

    model: str
    version: str
    source_commit: str | None
    parameters: Mapping[str, str]
    validation_digest: str
    validation_samples: int
    outputs: Mapping[str, OutputSpec]
    dims: Mapping[str, Dim]
    calibration: CalibrationReport | None = None


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """One engine of a conversion: a child run.

    The folders hold shards `{index:05d}.npz`, alike in number and order: the reference's outputs, the candidate's
    (None where none were made), and the annotations (`label`, `slice.<name>`), one array per name, first axis samples.
    `layers` is the file of the engine's layers with their times, where the runtime tells them, and `tactics` are the
    files of what was chosen for each layer, by name: of this build, and of those before it that were miscompiled.
    """

    outcome: EngineOutcome
    reference: Path
    candidate: Path | None
    annotations: Path
    layers: Path | None = None
    tactics: Mapping[str, Path] = field(default_factory=dict)


class Tracker(Protocol):
    """Logs conversions. Logging the same record twice leaves one run."""

    def connect(self) -> None:
        """Open the connection now, rather than on first use.

        Raises:
            StageError: the tracker cannot be reached.
        """

    def log_conversion(self, conversion: ConversionRecord, engines: Sequence[EngineRecord]) -> dict[str, str]:
        """Log the parent run and its children; return the run id by engine id."""

    def log_calibration(self, report: CalibrationReport) -> str:
        """Log a calibration set that was checked on its own; return the run id."""

    def find_runs(self, conversion: ConversionRecord, outcomes: Sequence[EngineOutcome]) -> dict[str, str] | None:
        """Run ids by engine id if this very conversion, with these outcomes, is logged whole already; else None."""
