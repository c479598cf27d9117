"""Logs conversions to MLflow: an experiment a model, a parent run a conversion, a child run an engine.

A run says what it is about in the tag `enginegate.evidence`, and is set to FINISHED last of all. So a run that a killed
process left behind is known by its status, and a conversion that is logged already by its evidence.

MLflow's client is used with every argument given; its fluent API would add the login name and the script's path.
"""

from __future__ import annotations

import json
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests  # noqa: F401 - MLflow's: its import silences a warning, which another thread's catch_warnings can undo

from tasks.errors import StageError
from tasks.tracking.connection import explained_errors, open_client, sqlite_path, without_credentials
from tasks.tracking.run_content import (
    RunContent,
    conversion_evidence,
    conversion_metrics,
    conversion_params,
    conversion_tags,
    engine_evidence,
    engine_params,
    engine_tags,
    metrics,
)
from tasks.tracking.tries import try_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.calibration.report import CalibrationReport
    from tasks.records import EngineOutcome
    from tasks.tracking.interface import ConversionRecord, EngineRecord

_SHOWN_DIGEST = 12  # MLflow takes 36 characters at most and shows them all; the whole digest is in the source
_CALIBRATION_SETS = "calibration sets"  # no model's name has a space
_ENTITIES_A_CALL = 100  # MLflow takes 100 parameters in one call, and more metrics


class MlflowTracker:
    """The `Tracker` that writes to the MLflow at `tracking_uri`; nothing is opened or imported before it is used.

    `artifact_root` is the folder for artifacts, in a folder per model; it counts only where the address is a local
    SQLite file. A server decides itself where artifacts go.

    Raises:
        StageError: from either method, when MLflow cannot be reached or refuses; the message names the address.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None) -> None:
        self._uri = tracking_uri
        self._artifact_root = artifact_root

    @cached_property
    def client(self) -> Any:
        """The `mlflow.MlflowClient`, opened when first used."""
        return open_client(self._uri)

    def connect(self) -> None:
        """Import MLflow and reach its store; a local one is made if need be."""
        with explained_errors(self._uri, "opening it"):
            self.client.search_experiments(max_results=1)

    def find_runs(self, conversion: ConversionRecord, outcomes: Sequence[EngineOutcome]) -> dict[str, str] | None:
        """Run ids by engine id if a FINISHED parent with this evidence has a FINISHED child for each engine."""
        path = sqlite_path(self._uri)
        if path is not None and not path.exists():
            return None
        with explained_errors(self._uri, "looking for an earlier log of this conversion"):
            experiment = self.client.get_experiment_by_name(conversion.model)
            if experiment is None:
                return None
            wanted = {outcome.cell.engine_id: engine_evidence(outcome) for outcome in outcomes}
            for parent in self._parents(experiment.experiment_id, conversion_evidence(conversion, outcomes)):
                runs = self._whole_children(experiment.experiment_id, parent, wanted)
                if runs is not None:
                    return runs
        return None

    def log_conversion(self, conversion: ConversionRecord, engines: Sequence[EngineRecord]) -> dict[str, str]:
        """Log the parent run and its children; return the run id by engine id. What is logged whole stays as it is.

        Unfinished runs with the same evidence are deleted first: the caller's lock on the stage says that no other
        process is writing them.
        """
        outcomes = [record.outcome for record in engines]
        found = self.find_runs(conversion, outcomes)
        if found is not None:
            return found
        evidence = conversion_evidence(conversion, outcomes)
        with explained_errors(self._uri, "opening the experiment"):
            experiment = self._open_experiment(conversion.model)
            self._delete_leftovers(experiment, evidence)
        parent = self._start_parent(experiment, conversion, outcomes, evidence)
        runs = {
            record.outcome.cell.engine_id: self._log_engine(experiment, conversion, record, parent)
            for record in engines
        }
        with explained_errors(self._uri, "finishing the parent run"):
            self.client.set_terminated(parent, "FINISHED")
        return runs

    def _open_experiment(self, model: str) -> str:
        """Id of the model's experiment, made if need be; when another process makes it first, that one is taken."""
        location = None
        if self._artifact_root is not None and sqlite_path(self._uri) is not None:
            location = (Path(self._artifact_root).absolute() / model).as_uri()
        experiment = self.client.get_experiment_by_name(model)
        if experiment is None:
            try:
                return str(self.client.create_experiment(model, artifact_location=location))
            except Exception:
                experiment = self.client.get_experiment_by_name(model)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise StageError(
                f"MLflow at {without_credentials(self._uri)}: the experiment {model!r} was deleted there; bring it back"
                f" with `mlflow experiments restore --experiment-id {experiment.experiment_id}`, or remove it for good"
                " with `mlflow gc`"
            )
        return str(experiment.experiment_id)

    def _parents(self, experiment: str, evidence: str) -> list[Any]:
        return self._search(experiment, **{"enginegate.kind": "conversion", "enginegate.evidence": evidence})

    def _search(self, experiment: str, **tags: str) -> list[Any]:
        filters = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([experiment], filters))

    def _whole_children(self, experiment: str, parent: Any, wanted: Mapping[str, str]) -> dict[str, str] | None:
        if parent.info.status != "FINISHED":
            return None
        runs = {}
        for child in self._search(experiment, **{"mlflow.parentRunId": parent.info.run_id}):
            engine_id = child.data.tags.get("enginegate.engine_id", "")
            evidence = child.data.tags.get("enginegate.evidence")
            if child.info.status == "FINISHED" and wanted.get(engine_id) == evidence:
                runs[engine_id] = child.info.run_id
        return runs if runs.keys() == wanted.keys() else None

    def _delete_leftovers(self, experiment: str, evidence: str) -> None:
        for parent in self._parents(experiment, evidence):
            # Children first: killed in between, the parent is still there to find them by.
            self._delete_below(experiment, parent.info.run_id)
            self.client.delete_run(parent.info.run_id)

    def _delete_below(self, experiment: str, parent: str) -> None:
        for child in self._search(experiment, **{"mlflow.parentRunId": parent}):
            self._delete_below(experiment, child.info.run_id)
            self.client.delete_run(child.info.run_id)

    def _start_parent(
        self, experiment: str, conversion: ConversionRecord, outcomes: Sequence[EngineOutcome], evidence: str
    ) -> str:
        # matplotlib, which `--help` must not pay
        from tasks.tracking.artifacts import summary_list, summary_table  # noqa: PLC0415
        from tasks.tracking.calibration_figures import write_calibration_files  # noqa: PLC0415

        content = RunContent(
            name=f"{conversion.model}@{conversion.version}",
            tags=conversion_tags(conversion, evidence, summary_list(outcomes)),
            params=conversion_params(conversion),
            values=conversion_metrics(outcomes),
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "summary.md").write_text(f"# {content.name}\n\n{summary_table(outcomes)}", encoding="utf-8")
            if conversion.calibration is not None:
                write_calibration_files(conversion.calibration, Path(folder, "calibration"))
            with explained_errors(self._uri, "logging the parent run"):
                return self._log_run(experiment, content, folder, [_dataset_input(conversion)])

    def _log_engine(self, experiment: str, conversion: ConversionRecord, record: EngineRecord, parent: str) -> str:
        from tasks.tracking.artifacts import write_engine_files  # noqa: PLC0415 - as above

        outcome = record.outcome
        values, undefined = metrics(outcome)
        content = RunContent(
            name=outcome.cell.engine_id,
            tags=engine_tags(conversion, outcome, undefined, parent),
            params=engine_params(conversion, outcome),
            values=values,
        )
        with tempfile.TemporaryDirectory() as folder:
            write_engine_files(record, conversion.outputs, Path(folder))
            with explained_errors(self._uri, f"logging {content.name}"):
                run_id = self._log_run(experiment, content, folder, [_dataset_input(conversion)])
                self._log_tries(experiment, outcome, run_id)
                self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def _log_tries(self, experiment: str, outcome: EngineOutcome, parent: str) -> None:
        """A run below the engine's for each try of a precision search."""
        for attempt in outcome.tries:
            run_id = self._log_run(experiment, try_content(outcome, attempt, parent))
            self.client.set_terminated(run_id, "FINISHED")

    def log_calibration(self, report: CalibrationReport) -> str:
        """Log a checked calibration set to an experiment of its own; what is logged whole already stays as it is."""
        from tasks.tracking.calibration_figures import calibration_content, write_calibration_files  # noqa: PLC0415

        content = calibration_content(report)
        with (
            explained_errors(self._uri, "logging the check of a calibration set"),
            tempfile.TemporaryDirectory() as folder,
        ):
            experiment = self._open_experiment(_CALIBRATION_SETS)
            wanted = {name: content.tags[name] for name in ("enginegate.kind", "enginegate.evidence")}
            for run in self._search(experiment, **wanted):
                if run.info.status == "FINISHED":
                    return str(run.info.run_id)
                self.client.delete_run(run.info.run_id)
            write_calibration_files(report, Path(folder, "calibration"))
            run_id = self._log_run(experiment, content, folder)
            self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def _log_run(
        self, experiment: str, content: RunContent, folder: str | None = None, inputs: Sequence[Any] = ()
    ) -> str:
        """Make a run with all its content and the files of `folder`, and leave it RUNNING."""
        from mlflow.entities import Metric, Param  # noqa: PLC0415 - loaded with the client

        run_id = str(self.client.create_run(experiment, run_name=content.name, tags=dict(content.tags)).info.run_id)
        if folder is not None:
            self.client.log_artifacts(run_id, folder)
        now = int(time.time() * 1000)
        measured = [Metric(name, value, now, 0) for name, value in content.values.items()]
        params = [Param(*param) for param in content.params.items()]
        for start in range(0, max(len(measured), len(params)), _ENTITIES_A_CALL):
            part = slice(start, start + _ENTITIES_A_CALL)
            self.client.log_batch(run_id, metrics=measured[part], params=params[part])
        if inputs:
            self.client.log_inputs(run_id, list(inputs))
        return run_id


def _dataset_input(conversion: ConversionRecord) -> Any:
    """The validation data, as MLflow's page shows it beside a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415 - loaded with the client

    dataset = Dataset(
        name=f"{conversion.model}-validation",
        digest=conversion.validation_digest.removeprefix("sha256:")[:_SHOWN_DIGEST],
        source_type="enginegate",
        source=json.dumps({"artifact": conversion.validation_digest}),
        profile=json.dumps({"num_rows": conversion.validation_samples}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "validation")])
