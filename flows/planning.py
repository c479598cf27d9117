"""The plan of a conversion: what version it makes, and which cells of targets and precisions."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from tasks.digests import digest_file, digest_json
from tasks.errors import InputError
from tasks.records import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.model_directory import ModelDirectory
    from tasks.specs import Precision

VERSION_DIGITS = 12
OF_ANOTHER_REPOSITORY = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"})
# An engine made by another release of one of these is another engine, and so another version.
TOOLCHAIN = (
    "enginegate", "torch", "safetensors", "numpy", "scipy", "onnx", "onnx-ir", "onnxscript", "onnxslim", "onnxruntime",
    "onnxconverter-common", "onnx-graphsurgeon", "nvidia-modelopt",
)  # fmt: skip


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion before it starts: the directory as read, its version, and the cells to make."""

    directory: ModelDirectory
    version: str
    source_commit: str | None
    cells: tuple[Cell, ...]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the cells need, once each."""
        return tuple(dict.fromkeys(cell.precision for cell in self.cells))


def plan_conversion(
    directory: ModelDirectory,
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[str] = (),
    only: str | None = None,
) -> ConversionPlan:
    """Decide what to make: the model's whole matrix, or what the command line narrows it to.

    Raises:
        InputError: the narrowing names what the model does not have.
    """
    version = version_of(directory)
    spec = directory.spec
    cells = tuple(
        Cell(model=spec.name, target=target, precision=precision, version=version)
        for target in _narrow("targets", spec.targets, targets)
        for precision in _narrow("precisions", [p.value for p in spec.precisions], precisions)
    )
    if only is not None:
        wanted = Cell.parse(only)
        if wanted not in cells:
            planned = ", ".join(cell.engine_id for cell in cells)
            raise InputError(f"--only {only}: this directory makes {planned}; name one of these")
        cells = (wanted,)
    return ConversionPlan(
        directory=directory, version=version, source_commit=source_commit(directory.root), cells=cells
    )


def _narrow(field: str, declared: Sequence[str], wanted: Sequence[str]) -> list[str]:
    for value in wanted:
        if value not in declared:
            raise InputError(
                f"model.yaml: {field}: has no {value}, only {', '.join(declared)}; add it there or choose one"
            )
    return [value for value in declared if not wanted or value in wanted]


def version_of(directory: ModelDirectory) -> str:
    """Twelve hexadecimal digits over everything that the engines depend on: all of the directory, and the toolchain."""
    roles = {
        "weights": [directory.weights] if directory.weights else [],
        "policy": [directory.policy_file] if directory.policy_file else [],
        "validation": directory.validation,
        "plugins": directory.plugins,
    }
    calibration = directory.calibration
    content = {
        "spec": directory.spec.model_dump(mode="json"),
        "outputs": list(directory.spec.outputs),  # their order names what the module returns
        "source": directory.source_files(),
        "files": {role: [digest_file(path)[0] for path in paths] for role, paths in roles.items()},
        "calibration": [] if calibration is None else [file.sha256 for file in calibration.manifest.files],
        "toolchain": {name: _installed(name) for name in TOOLCHAIN} | {"python": platform.python_version()},
    }
    return digest_json(content).removeprefix("sha256:")[:VERSION_DIGITS]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *arguments]
    # Inside a git hook these name the hook's repository, which need not be the model's.
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY}
    environment = {**inherited, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
