"""What a push changed in effect: which models have another version than before, and which of their cells need work.

Two trees are compared, whatever lies between them, so a forced push is planned as any other. Only models whose own
files or calibration set differ are read in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.git.commit_models import CommitModels
from tasks.git.tree import Tree
from tasks.records import Cell, cells_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.git.commit import Outline
    from tasks.git.repository import Repository
    from tasks.model.version import ModelContent

    Known = Callable[[Cell], str | None]

TOP = "."
"""What the top folder of a repository is called where people read it."""


class ChangeKind(str, Enum):
    """What became of a model: `same` was touched, but by nothing that its engines depend on; `moved` neither."""

    NEW = "new"
    CHANGED = "changed"
    MOVED = "moved"
    SAME = "same"
    REMOVED = "removed"
    BROKEN = "broken"


@dataclass(frozen=True)
class CellWork:
    """An engine of the new version: whether it needs to be made, and why or why not."""

    cell: Cell
    needed: bool
    reason: str


@dataclass(frozen=True)
class ModelChange:
    """A model that a push touched. `directory` is relative to the repository, `paths` are the changed files of it.

    `name` and `version` are None where model.yaml cannot be read; `broken` says why a model cannot be converted, and
    `left_out` which of its cells cannot be.
    """

    kind: ChangeKind
    directory: str
    name: str | None
    version: str | None
    cells: tuple[CellWork, ...]
    reason: str
    broken: str | None = None
    paths: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def needs_work(self) -> bool:
        """Whether there is an engine to make."""
        return any(cell.needed for cell in self.cells)


@dataclass(frozen=True)
class PushPlan:
    """What a push from `old` (None: there was nothing) to `new` needs; full ids of commits.

    `without_effect` are the changed paths that no engine depends on. `forced` says that `new` does not build on `old`.
    """

    old: str | None
    new: str
    forced: bool
    models: tuple[ModelChange, ...]
    unchanged: int
    without_effect: tuple[str, ...]


def is_zero(revision: str) -> bool:
    """Whether a revision is the one of zeros that git sends where a branch had no commit before."""
    return len(revision) in {40, 64} and set(revision) == {"0"}


def plan_push(
    repository: Repository, old: str | None, new: str, known: Known, policy_floor: str | None = None
) -> PushPlan:
    """Plan a push.

    Args:
        repository: that holds both commits.
        old: full id of the commit before; None for a new branch: all of its models are new.
        new: full id of the pushed commit.
        known: says of a cell of this very version why it needs no work, or None where it does.
        policy_floor: digest of the floor under the models' policies here, which is part of their versions.

    Raises:
        InputError: a commit cannot be read. A model that cannot is part of the plan.
    """
    outlines: dict[str, Outline] = {}  # most model.yaml are the same on both sides
    before = CommitModels(repository, Tree({}) if old is None else repository.tree(old), outlines, policy_floor)
    after = CommitModels(repository, repository.tree(new), outlines, policy_floor)
    touched = [directory for directory in after.directories if _is_touched(directory, before, after)]
    models = [_change(directory, before, after, known) for directory in touched]
    models += _with_namesakes(models, after)
    models += [_removed(directory, before) for directory in before.directories if _is_gone(directory, before, after)]
    used = {path for model in models if model.kind is not ChangeKind.SAME for path in _used(model, before, after)}
    return PushPlan(
        old=old,
        new=new,
        forced=old is not None and not repository.is_ancestor(old, new),
        models=tuple(sorted(models, key=lambda model: model.directory)),
        unchanged=len(after.directories) - sum(model.kind is not ChangeKind.REMOVED for model in models),
        without_effect=tuple(path for path in changed_paths(before.tree, after.tree) if path not in used),
    )


def changed_paths(before: Tree, after: Tree) -> list[str]:
    """Every path that is new, gone, or of other content, mode or kind; sorted."""
    both = {**before.entries, **after.entries}
    return sorted(path for path in both if before.entries.get(path) != after.entries.get(path))


def _is_touched(directory: str, before: CommitModels, after: CommitModels) -> bool:
    if directory not in before.directories:
        return True
    # A name that two directories had was no model's; it is now the one's that is left.
    freed = len(before.namesakes(directory)) > 1 and len(after.namesakes(directory)) == 1
    return freed or before.footprint(directory) != after.footprint(directory)


def _change(directory: str, before: CommitModels, after: CommitModels, known: Known) -> ModelChange:
    name = after.outline(directory).name
    paths = _paths_of(directory, before, after)
    namesakes = after.namesakes(directory)
    if len(namesakes) > 1:
        return _broken(directory, name, _says_namesakes(name, namesakes), paths)
    try:
        content = after.content(directory)
    except InputError as error:
        return _broken(directory, name, str(error), paths)
    version = after.version_of(content)
    kind, reason = _compare(directory, content, version, before)
    if kind not in {ChangeKind.NEW, ChangeKind.CHANGED}:
        return ModelChange(kind, directory, content.spec.name, version, (), reason, paths=paths)
    cells, left_out = cells_of(content.spec, version)
    work = tuple(_work(cell, known(cell)) for cell in cells)
    return ModelChange(kind, directory, content.spec.name, version, work, reason, paths=paths, left_out=left_out)


def _compare(directory: str, content: ModelContent, version: str, before: CommitModels) -> tuple[ChangeKind, str]:
    """What became of a model that can be read, and why."""
    homes = before.homes(content.spec.name)
    if not homes:
        former = before.outline(directory).name
        return ChangeKind.NEW, f"its name was {former}" if former else "no model had this name before"
    if len(homes) > 1:
        return ChangeKind.NEW, f"{', '.join(home or TOP for home in homes)} shared this name before"
    try:
        older = before.content(homes[0])
    except InputError as error:
        return ChangeKind.CHANGED, f"could not be read before ({str(error).partition(chr(10))[0]})"
    moved = homes[0] != directory
    if before.version_of(older) == version:
        reason = f"was at {homes[0] or TOP}, and is the same" if moved else "nothing that its engines depend on"
        return (ChangeKind.MOVED if moved else ChangeKind.SAME), reason
    what = ", ".join(content.differences(older))
    return ChangeKind.CHANGED, f"was at {homes[0] or TOP}; changed: {what}" if moved else f"changed: {what}"


def _work(cell: Cell, held: str | None) -> CellWork:
    return CellWork(cell, held is None, held or "new version")


def _with_namesakes(models: list[ModelChange], after: CommitModels) -> list[ModelChange]:
    """The untouched directories that share their names with touched ones."""
    planned = {model.directory for model in models}
    others = {home for model in models if model.broken for home in after.namesakes(model.directory)} - planned
    return [
        _broken(home, after.outline(home).name, _says_namesakes(after.outline(home).name, after.namesakes(home)), ())
        for home in sorted(others)
    ]


def _says_namesakes(name: str | None, homes: list[str]) -> str:
    return f"model.yaml: name: {name} is that of {' and '.join(home or TOP for home in homes)}; rename all but one"


def _broken(directory: str, name: str | None, why: str, paths: tuple[str, ...]) -> ModelChange:
    return ModelChange(ChangeKind.BROKEN, directory, name, None, (), "cannot be converted", why, paths)


def _is_gone(directory: str, before: CommitModels, after: CommitModels) -> bool:
    return directory not in after.directories and not after.homes(before.outline(directory).name)


def _removed(directory: str, before: CommitModels) -> ModelChange:
    name = before.outline(directory).name
    reason = "is no longer in the repository; its engines stay registered"
    return ModelChange(ChangeKind.REMOVED, directory, name, None, (), reason)


def _paths_of(directory: str, before: CommitModels, after: CommitModels) -> tuple[str, ...]:
    old, new = before.entries_of(directory), after.entries_of(directory)
    return tuple(sorted(path for path in {**old, **new} if old.get(path) != new.get(path)))


def _used(model: ModelChange, before: CommitModels, after: CommitModels) -> set[str]:
    """Paths that a model that changed, came, moved or went needs, or needed."""
    homes = {model.directory} | set(before.homes(model.name) if model.name else ())
    return {path for home in homes for side in (before, after) for path in side.entries_of(home)}
