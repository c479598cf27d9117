"""What the engines of a model depend on, and the version that follows; the same from a folder and from a commit.

A version holds the releases of the tools, as they are installed where it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.model.toolchain import RECIPES, UNSAID_RECIPE, toolchain
from tasks.store.digests import digest_json, digest_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory
    from tasks.specs import ModelSpec

VERSION_DIGITS = 12


@dataclass(frozen=True)
class ModelContent:
    """What the engines of a model depend on: model.yaml as it was read, and `sha256:…` of every file that counts.

    `source` holds digests by relative path, `files` by role. `calibration` is SHA-256, in hexadecimal, of the files of
    the calibration set, as its manifest has them. `outside` is what the source names beyond the directory: digests and
    releases by what they are of.
    """

    spec: ModelSpec
    source: Mapping[str, str]
    files: Mapping[str, tuple[str, ...]]
    calibration: tuple[str, ...]
    outside: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """Everything by the word that people have for it."""
        spec = self.spec
        return {
            # The order of outputs names what the module returns.
            "model.yaml": [spec.model_dump(mode="json"), list(spec.outputs)],
            "source": dict(self.source),
            **self.files,
            "calibration set": self.calibration,
            **{f"source, {what}": mark for what, mark in self.outside.items()},
        }

    def differences(self, older: ModelContent) -> tuple[str, ...]:
        """What is not as it was in `older`; of the source, the files."""
        old, new = older.parts(), self.parts()
        words = [part for part in {**new, **old} if part != "source" and new.get(part) != old.get(part)]
        files = {**self.source, **older.source}
        words += sorted(path for path in files if self.source.get(path) != older.source.get(path))
        return tuple(words)


def version_of(content: ModelContent, policy_floor: str | None = None) -> str:
    """Twelve hexadecimal digits over everything that the engines depend on: the model's content, and the toolchain.

    `policy_floor` is the digest of the floor that their policies are under; without one, nothing is said of it.
    """
    named: dict[str, Any] = {
        "spec": content.spec.model_dump(mode="json"),
        "outputs": list(content.spec.outputs),  # their order names what the module returns
        "source": dict(content.source),
        "files": {role: list(digests) for role, digests in content.files.items()},
        "calibration": list(content.calibration),
        "toolchain": toolchain(),
    }
    if content.outside:
        named["outside"] = dict(content.outside)
    recipes = {one.value: RECIPES[one] for one in content.spec.precisions if RECIPES[one] != UNSAID_RECIPE}
    if recipes:
        named["recipes"] = recipes
    if policy_floor is not None:
        named["policy floor"] = policy_floor
    return digest_json(named).removeprefix("sha256:")[:VERSION_DIGITS]


def content_of_directory(directory: ModelDirectory, outside: Mapping[str, str] | None = None) -> ModelContent:
    """The content of a model directory on disk, with what its source names `outside` of it.

    Raises:
        InputError: a file of it leads out of it.
    """
    return read_content(directory, digest_once, outside)


def read_content(
    directory: ModelDirectory, digest: Callable[[Path], str], outside: Mapping[str, str] | None = None
) -> ModelContent:
    """The content of a directory, with `digest` saying what a file holds."""
    roles = {
        "weights": [directory.weights] if directory.weights else [],
        "policy": [directory.policy_file] if directory.policy_file else [],
        "validation": directory.validation,
        "plugins": directory.plugins,
    }
    if directory.onnxruntime_plugins:  # not said where there are none: what was made before keeps its version
        roles["plugins for ONNX Runtime"] = directory.onnxruntime_plugins
    calibration = directory.calibration
    return ModelContent(
        spec=directory.spec,
        source={name: digest(path) for name, path in directory.source_paths().items()},
        files={role: tuple(digest(path) for path in paths) for role, paths in roles.items()},
        calibration=() if calibration is None else tuple(file.sha256 for file in calibration.manifest.files),
        outside=dict(outside or {}),
    )
