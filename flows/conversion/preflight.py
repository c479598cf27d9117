"""What `enginegate check` does, and every conversion begins with: all that would stop or spoil it, before long work.

The stages that it asks are those of the conversion, so that what they made is found again there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from flows.console import FAILED, PASSED
from flows.conversion.calibration_sets import count_groups, sample_of, take_data
from flows.conversion.checked_calibration import read_calibration
from flows.conversion.conversion_plan import ConversionPlan, plan_conversion
from flows.conversion.publication import require_registry
from flows.prefect_api import set_prefect_defaults
from flows.stage import run_stage
from tasks.backends import CPU
from tasks.checks.accuracy_checks import check_accuracy
from tasks.checks.calibration_checks import check_set_cheaply
from tasks.checks.folder_checks import check_folder
from tasks.checks.output_checks import check_outputs
from tasks.checks.policy_checks import check_policies
from tasks.checks.precision_checks import check_precisions, check_trained_in_bfloat16
from tasks.checks.remarks import Level, Remark, good, stops_of, warning
from tasks.errors import EnginegateError, ExitCode, InputError, RefusedError, StageError, worst_of
from tasks.model.model_directory import survey_model_directory
from tasks.model.settled import with_settled
from tasks.samples.data_spec import LABEL
from tasks.samples.npz import load_arrays, shard_paths
from tasks.specs import Precision
from tasks.stages.independence import independence_in_words
from tasks.stages.probe import ProbedModule, ProbeError, load_alone, probe_module
from tasks.torch_side.torch_python import torch_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from flows.session import Session
    from tasks.artifact import Artifact
    from tasks.model.model_directory import ModelDirectory
    from tasks.records import DataArtifact
    from tasks.stages.independence import IndependentSamples
    from validation.policy import Policy

Found = TypeVar("Found")
MARKS = {Level.GOOD: PASSED, Level.WARNING: "!", Level.STOP: FAILED}
KINDS = {ExitCode.BAD_INPUT: InputError, ExitCode.REFUSED: RefusedError, ExitCode.UNEXPECTED: StageError}
CLOSE = 0.05
"""Share of samples that nearly repeat another from which on it is said."""


class Preflight:
    """Looks at one model directory; `remarks` are what was found so far, and `plan` what would be made of it."""

    def __init__(self, session: Session, plan: ConversionPlan) -> None:
        self._session, self.plan = session, plan
        self.remarks: list[Remark] = []

    @classmethod
    def begin(
        cls, session: Session, path: Path, *, targets: Sequence[str], precisions: Sequence[str], only: str | None
    ) -> Preflight:
        """Read the directory at `path`, plan its conversion, and look at its files and targets.

        Raises:
            InputError: model.yaml itself cannot be read, or the narrowing names what the model does not have.
        """
        directory, problems = survey_model_directory(path)
        floor = session.policy_floor
        try:
            plan = plan_conversion(directory, targets=targets, precisions=precisions, only=only, floor=floor)
        except InputError as error:
            raise InputError("\n".join((*problems, str(error)))) from None
        begun = cls(session, plan)
        if problems:
            begun.remarks += stops_of("model.yaml", InputError("\n".join(problems)))
        begun._add("files", lambda: check_folder(directory))
        begun._add("targets", begun._targets)
        return begun

    @property
    def stops(self) -> list[Remark]:
        """What keeps a conversion from being begun, each once."""
        return list(dict.fromkeys(remark for remark in self.remarks if remark.level is Level.STOP))

    def examine(self) -> None:
        """Look at all else: data, module, outputs, policy, calibration set, converters and registry."""
        session, plan = self._session, self.plan
        directory, spec = plan.directory, plan.directory.spec
        self._try("registry", lambda: require_registry(session, plan))
        self._add("precisions", lambda: check_precisions(spec, plan.precisions))
        if Precision.BF16 in plan.precisions:
            self._add("precisions", lambda: check_trained_in_bfloat16(directory))
        data = self._try("data", lambda: self._data(directory)) if directory.validation else None
        counted = None
        if data is not None:
            counted = self._try("data", lambda: count_groups(session, "samples", spec, data))
        if any(precision.is_quantized for precision in plan.precisions):
            self._add("calibration", lambda: self._calibration(data))
        seen = self._try("module", lambda: self._module(directory, data))
        if data is not None:
            self._judge(data, counted, seen)

    def refuse(self) -> None:
        """Raise what stops the conversion, if anything does.

        Raises:
            EnginegateError: all of it in one message, of the class with the worst exit code.
        """
        stops = self.stops
        if not stops:
            return
        kind = KINDS[worst_of(remark.code for remark in stops)]
        if len(stops) == 1:
            raise kind(stops[0].text)
        told = "".join(f"\n{FAILED} {remark.text}" for remark in stops)
        raise kind(f"{len(stops)} things stop this conversion:{told}")

    def tell_warnings(self) -> None:
        """Print what spoils the conversion without stopping it, but what its plan says already."""
        for remark in self.remarks:
            if remark.level is Level.WARNING and remark.text not in self.plan.left_out:
                self._session.reporter.say(f"! {remark.subject}: {remark.text}")

    def _try(self, subject: str, work: Callable[[], Found]) -> Found | None:
        """What `work` gives; None where it fails, which is remarked."""
        try:
            return work()
        except EnginegateError as error:
            self.remarks += stops_of(subject, error)
            return None

    def _add(self, subject: str, look: Callable[[], Iterable[Remark]]) -> None:
        self.remarks += self._try(subject, lambda: list(look())) or []

    def _targets(self) -> Iterable[Remark]:
        targets = list(dict.fromkeys(cell.target for cell in self.plan.cells))
        elsewhere: set[str] = set()
        if targets != [CPU]:
            set_prefect_defaults()

            from flows.runners.dispatch import targets_elsewhere  # noqa: PLC0415 - imports Prefect, which takes seconds

            elsewhere = targets_elsewhere(self.plan.cells)
        if elsewhere != set(targets) and self._session.settings.torch_python is not None:
            torch_versions(self._session.settings.torch_python)
        for target in targets:
            yield good("targets", f"{target}: {'made by a runner' if target in elsewhere else 'made on this host'}")
        for reason in self.plan.left_out:
            yield warning("targets", reason)

    def _data(self, directory: ModelDirectory) -> DataArtifact:
        return take_data(self._session, "validation data", directory.spec, directory.validation, "validation.data")

    def _module(self, directory: ModelDirectory, data: DataArtifact | None) -> Artifact | None:
        """The module's outputs on some samples, where it gave any."""
        if directory.weights is None and directory.spec.weights is not None:
            return None  # they are missing, which was remarked
        if data is None:
            load_alone(self._session.stage_context(), directory)
            self.remarks.append(warning("module", "it loads; without data it is not run"))
            return None
        try:
            probed = run_stage(self._session, "module", probe_module, describe_probe, directory, data)
        except ProbeError as error:
            self.remarks += stops_of("module", error)
            return error.seen
        self._remark_on_module(probed)
        self.plan = settle_kinds(self.plan, probed)
        return probed.seen

    def _judge(self, data: DataArtifact, counted: IndependentSamples | None, seen: Artifact | None) -> None:
        """Remark on the data, the outputs and the policy."""
        if counted is not None:
            few = counted.near > CLOSE * counted.searched or (not counted.named and counted.groups is not None)
            self.remarks.append((warning if few else good)("data", independence_in_words(counted)))
        if seen is not None:
            self._add("outputs", lambda: self._outputs(seen))
            if counted is not None and counted.labelled:
                self._add("outputs", lambda: self._accuracy(seen, data))
        if counted is None:
            return
        policies = self._try("policy", lambda: policies_of(self.plan, data, counted))
        if policies is not None and seen is not None and not any(stop.subject == "outputs" for stop in self.stops):
            context, spec = self._session.stage_context(), self.plan.directory.spec
            self._add("policy", lambda: check_policies(context, spec, policies, data, counted.groups, seen))

    def _remark_on_module(self, probed: ProbedModule) -> None:
        self.remarks.append(good("module", describe_probe(probed)))
        if probed.untried:
            text = f"not tried for want of time: {', '.join(probed.untried)}; the export tries them"
            self.remarks.append(warning("module", text))
        for name in probed.settled.last:
            text = f"outputs.{name}: classes on the last axis, as the module's configuration has it; write axis: -1"
            self.remarks.append(warning("outputs", text))
        for name in probed.settled.labels:
            text = f"outputs.{name}: holds whole numbers, or true and false: compared exactly; write kind: labels"
            self.remarks.append(warning("outputs", text))
        for reason in probed.fresh.refused:
            self.remarks.append(warning("module", f"left out of what engines are tried on: {reason}"))

    def _outputs(self, seen: Artifact) -> Iterable[Remark]:
        with self._session.store.scratch() as folder:
            paths = shard_paths(self._session.store.fetch(seen, folder / "seen"))
            yield from check_outputs(self.plan.directory.spec.outputs, [load_arrays(path) for path in paths])

    def _accuracy(self, seen: Artifact, data: DataArtifact) -> Iterable[Remark]:
        with self._session.store.scratch() as folder:
            paths = shard_paths(self._session.store.fetch(seen, folder / "seen"))
            beside = self._session.store.fetch(data.annotations, folder / "beside")
            labels = [load_arrays(beside / path.name)[LABEL] for path in paths]
            yield from check_accuracy(self.plan.directory.spec.outputs, [load_arrays(path) for path in paths], labels)

    def _calibration(self, validation: DataArtifact | None) -> Iterable[Remark]:
        directory = self.plan.directory
        checked, data = read_calibration(self._session, directory)
        sample_of(checked)  # one that is not there shows before the long work
        yield from check_set_cheaply(self._session.stage_context(), directory.spec, checked, data, validation)


def describe_probe(probed: ProbedModule) -> str:
    """At how many shapes the module ran, in words."""
    return f"runs at {len(probed.shapes)} shapes of dims, and gives the same when called again"


def settle_kinds(plan: ConversionPlan, probed: ProbedModule) -> ConversionPlan:
    """The plan with outputs declared as what they are, where model.yaml leaves that open."""
    return replace(plan, directory=with_settled(plan.directory, probed.settled))


def policies_of(plan: ConversionPlan, data: DataArtifact, counted: IndependentSamples) -> dict[Precision, Policy]:
    """The policy of each precision, on data whose slices and labels are known.

    Raises:
        InputError: a policy names a slice or needs a label that is not there.
    """
    return {precision: plan.policy(precision, data.slices, labelled=counted.labelled) for precision in plan.precisions}
