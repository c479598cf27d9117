"""The plan of a conversion: what version it makes, and which cells of targets and precisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.console import short_commit
from tasks.backends import CPU
from tasks.errors import EnginegateError, InputError
from tasks.git.call import call_git
from tasks.model.model_directory import read_model_directory
from tasks.model.version import ModelContent, content_of_directory
from tasks.model.version import version_of as version_of_content
from tasks.records import Cell, cells_of
from tasks.sources import outside_of
from tasks.specs import Precision, why_impossible

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.model.policy_floor import OrganisationFloor
    from validation.policy import Policy


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion before it starts: the directory as read, its version, and the cells to make.

    `floor` is what the model's policy may not fall short of, `content` what the version was computed of. `left_out`
    says which cells cannot be, and why.
    """

    directory: ModelDirectory
    version: str
    source_commit: str | None
    cells: tuple[Cell, ...]
    floor: OrganisationFloor | None = None
    content: ModelContent | None = None
    left_out: tuple[str, ...] = ()

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the cells need, once each."""
        return tuple(dict.fromkeys(cell.precision for cell in self.cells))

    @property
    def lines(self) -> tuple[str, ...]:
        """What is going to be made, for people."""
        spec = self.directory.spec
        commit = f", commit {short_commit(self.source_commit)}" if self.source_commit else ""
        count = "1 engine" if len(self.cells) == 1 else f"{len(self.cells)} engines"
        judged = {rule.output for rule in self.policy(self.cells[0].precision).rules}
        unjudged = ", ".join(name for name in spec.outputs if name not in judged)
        return (
            f"{spec.name}, version {self.version}{commit}: {count} to make",
            *(f"  {cell.engine_id}" for cell in self.cells),
            *(f"! {reason}" for reason in self.left_out),
            *self._unmoved(),
            *([f"! the policy has no rule for {unjudged}: measured and logged, but not judged"] if unjudged else []),
            *(f"! the policy floor holds for {change}" for change in self._tightened()),
        )

    def _unmoved(self) -> tuple[str, ...]:
        """Which engines settings of `build` do nothing for, and why."""
        build, on_gpus = self.directory.spec.build, [cell for cell in self.cells if cell.target != CPU]
        told = []
        if build.refit and len(on_gpus) < len(self.cells):
            told.append("! build.refit does nothing for cpu, whose engines are graphs that are made in seconds")
        quantized = dict.fromkeys(cell.precision.value for cell in on_gpus if cell.precision.is_quantized)
        if build.refit and quantized:
            why = "other weights have other scales, which a plan does not take"
            told.append(f"! build.refit does nothing for {', '.join(quantized)}: {why}")
        if build.hardware_compatible and not on_gpus:
            told.append("! build.hardware_compatible does nothing for cpu, whose engines every host loads")
        return tuple(told)

    def policy(self, precision: Precision, slices: Collection[str] | None = None, *, labelled: bool = True) -> Policy:
        """The policy that an engine of `precision` is judged by; see `ModelDirectory.policy`.

        Raises:
            InputError: the model's own policy has a mistake, or names a slice or needs a label that the data lack, or
                an output has no range where the floor is a share of it.
        """
        policy = self.directory.policy(precision, slices, labelled=labelled)
        if self.floor is None:
            return policy
        return self.floor.tighten(policy, self.directory.spec.output_specs()).policy

    def _tightened(self) -> tuple[str, ...]:
        """What the floor makes stricter, by precision where they differ."""
        if self.floor is None:
            return ()
        outputs = self.directory.spec.output_specs()
        by_change: dict[str, list[str]] = {}
        for precision in self.precisions:
            for change in self.floor.tighten(self.directory.policy(precision), outputs).changes:
                by_change.setdefault(change, []).append(precision.value)
        every = len(self.precisions)
        return tuple(change if len(of) == every else f"{', '.join(of)}: {change}" for change, of in by_change.items())


def plan_conversion(
    directory: ModelDirectory,
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[str] = (),
    only: str | None = None,
    floor: OrganisationFloor | None = None,
) -> ConversionPlan:
    """Decide what to make: the model's whole matrix, or what the command line narrows it to, under a policy floor.

    Raises:
        InputError: the narrowing names what the model does not have, or leaves only cells that cannot be.
    """
    content = _content(directory)
    version = version_of_content(content, None if floor is None else floor.digest)
    spec = directory.spec
    wanted = spec.model_copy(
        update={
            "targets": tuple(_narrow("targets", spec.targets, targets)),
            "precisions": tuple(
                map(Precision, _narrow("precisions", [one.value for one in spec.precisions], precisions))
            ),
        }
    )
    cells, left_out = cells_of(wanted, version)
    if not cells:
        raise InputError(f"there is nothing to make: {'; '.join(left_out)}; choose another --target or --precision")
    if only is not None:
        cells, left_out = (_chosen(only, cells),), ()
    commit = source_commit(directory.root)
    return ConversionPlan(directory, version, commit, cells, floor, content, left_out)


def _chosen(only: str, cells: tuple[Cell, ...]) -> Cell:
    wanted = Cell.parse(only)
    if wanted in cells:
        return wanted
    reason = why_impossible(wanted.target, wanted.precision)
    told = f"{reason}; " if reason else ""
    planned = ", ".join(cell.engine_id for cell in cells)
    raise InputError(f"--only {only}: {told}this directory makes {planned}; name one of these")


def _content(directory: ModelDirectory) -> ModelContent:
    return content_of_directory(directory, outside_of(directory))


def refuse_changes(plan: ConversionPlan, shown: str) -> None:
    """Refuse a directory, called `shown`, that is no longer as it was planned: every stage reads its own files of it.

    Raises:
        InputError: naming what changed.
    """
    now = _content(read_model_directory(plan.directory.root))
    changed = () if plan.content is None else now.differences(plan.content)
    if changed:
        raise InputError(
            f"{shown}: {', '.join(changed)} changed while it was converted, and every file there is part of the model;"
            " keep logs and notebooks elsewhere, or under a name that begins with a dot, and run the conversion again"
        )


def _narrow(field: str, declared: Sequence[str], wanted: Sequence[str]) -> list[str]:
    for value in wanted:
        if value not in declared:
            raise InputError(
                f"model.yaml: {field}: has no {value}, only {', '.join(declared)}; add it there or choose one"
            )
    return [value for value in declared if not wanted or value in wanted]


def version_of(directory: ModelDirectory, floor: OrganisationFloor | None = None) -> str:
    """The version that a conversion of this directory makes under a policy floor; see `tasks.model.version`."""
    return version_of_content(_content(directory), None if floor is None else floor.digest)


def source_commit(root: Path) -> str | None:
    """The git commit of the model directory; with `-dirty` where it holds uncommitted changes; None outside git."""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    # A repository's own configuration could name programs to run (fsmonitor, hooks, filters): none of them are.
    filters = _git(root, "config", "--local", "--includes", "--name-only", "--get-regexp", r"^filter\.") or ""
    disarmed = [argument for name in filters.splitlines() for argument in ("-c", f"{name}=")]
    changes = _git(root, *disarmed, "status", "--porcelain", "--ignored", "--", ".")
    clean = changes is not None and all(_is_no_input(line) for line in changes.splitlines())
    return commit if clean else f"{commit}-dirty"


def _is_no_input(status: str) -> bool:
    """Whether a line of `git status` names an ignored file that no stage reads; ignored weights are read."""
    parts = status[3:].strip('"').rstrip("/").split("/")
    return status.startswith("!!") and any(part.startswith(".") or part == "__pycache__" for part in parts)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        return call_git(root, *arguments).text
    except EnginegateError:
        return None
