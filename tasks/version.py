"""What the engines of a model depend on, and the version that follows; the same from a folder and from a commit.

A version holds the releases of the tools, as they are installed where it is computed.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tasks.digests import digest_file, digest_json
from tasks.model_directory import read_model_directory
from tasks.repository.skeleton import skeleton_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.model_directory import ModelDirectory
    from tasks.repository.models import Commit
    from tasks.specs import ModelSpec

VERSION_DIGITS = 12
# An engine made by another release of one of these is another engine, and so another version.
TOOLCHAIN = (
    "enginegate", "torch", "safetensors", "numpy", "scipy", "onnx", "onnx-ir", "onnxscript", "onnxslim", "onnxruntime",
    "onnxconverter-common", "onnx-graphsurgeon", "nvidia-modelopt",
)  # fmt: skip


@dataclass(frozen=True)
class ModelContent:
    """What the engines of a model depend on: model.yaml as it was read, and `sha256:…` of every file that counts.

    `source` holds digests by relative path, `files` by role. `calibration` is SHA-256, in hexadecimal, of the files of
    the calibration set, as its manifest has them.
    """

    spec: ModelSpec
    source: Mapping[str, str]
    files: Mapping[str, tuple[str, ...]]
    calibration: tuple[str, ...]

    def parts(self) -> dict[str, Any]:
        """Everything by the word that people have for it."""
        spec = self.spec
        return {
            # The order of outputs names what the module returns.
            "model.yaml": [spec.model_dump(mode="json"), list(spec.outputs)],
            "source": dict(self.source),
            **self.files,
            "calibration set": self.calibration,
        }

    def differences(self, older: ModelContent) -> tuple[str, ...]:
        """What is not as it was in `older`; of the source, the files."""
        old, new = older.parts(), self.parts()
        words = [part for part in new if part != "source" and new[part] != old[part]]
        files = {**self.source, **older.source}
        words += sorted(path for path in files if self.source.get(path) != older.source.get(path))
        return tuple(words)


def version_of(content: ModelContent) -> str:
    """Twelve hexadecimal digits over everything that the engines depend on: the model's content, and the toolchain."""
    named = {
        "spec": content.spec.model_dump(mode="json"),
        "outputs": list(content.spec.outputs),  # their order names what the module returns
        "source": dict(content.source),
        "files": {role: list(digests) for role, digests in content.files.items()},
        "calibration": list(content.calibration),
        "toolchain": toolchain(),
    }
    return digest_json(named).removeprefix("sha256:")[:VERSION_DIGITS]


def toolchain() -> dict[str, str | None]:
    """Releases of the tools that make engines, as installed here; None for one that is not."""
    return {name: _installed(name) for name in TOOLCHAIN} | {"python": platform.python_version()}


@cache
def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def content_of_directory(directory: ModelDirectory) -> ModelContent:
    """The content of a model directory on disk.

    Raises:
        InputError: a file of it leads out of it.
    """
    return _content(directory, lambda path: digest_file(path)[0])


def content_at(commit: Commit, directory: str) -> ModelContent:
    """The content of a model directory of a commit, from git's objects. A pointer of git LFS counts as its file.

    Raises:
        InputError: model.yaml, or what it names, has a mistake, or an object is missing.
    """
    with skeleton_of(commit, directory) as root:

        def digest(path: Path) -> str:
            return commit.repository.digest(commit.tree.entries[path.resolve().relative_to(root).as_posix()].oid)

        return _content(read_model_directory(root / directory), digest)


def _content(directory: ModelDirectory, digest: Callable[[Path], str]) -> ModelContent:
    roles = {
        "weights": [directory.weights] if directory.weights else [],
        "policy": [directory.policy_file] if directory.policy_file else [],
        "validation": directory.validation,
        "plugins": directory.plugins,
    }
    calibration = directory.calibration
    return ModelContent(
        spec=directory.spec,
        source={name: digest(path) for name, path in directory.source_paths().items()},
        files={role: tuple(digest(path) for path in paths) for role, paths in roles.items()},
        calibration=() if calibration is None else tuple(file.sha256 for file in calibration.manifest.files),
    )
