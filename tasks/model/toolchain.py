"""Which releases of the tools are installed here: what an engine, and so its version, depends on."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from tasks.errors import StageError
from tasks.specs import Precision

# An engine made by another release of one of these is another engine, and so another version.
TOOLCHAIN = (
    "enginegate", "torch", "safetensors", "numpy", "scipy", "onnx", "onnx-ir", "onnxscript", "onnxslim", "onnxruntime",
    "onnxconverter-common", "onnx-graphsurgeon", "nvidia-modelopt",
)  # fmt: skip
RECIPES = {Precision.FP32: 2, Precision.FP16: 3, Precision.BF16: 1, Precision.INT8: 3, Precision.FP8: 1}
"""How graphs are converted to each precision: another number makes other engines of the same tools and model."""
UNSAID_RECIPE = 2
"""That of the versions which say nothing of it."""
EXTRAS = {"transformers": "huggingface"}
"""The extra of pyproject.toml that a package is in, where that is not `export`."""


def toolchain() -> dict[str, str | None]:
    """Releases of the tools that make engines, as installed here; None for one that is not."""
    return {name: release_of(name) for name in TOOLCHAIN} | {"python": platform.python_version()}


@cache
def release_of(package: str) -> str | None:
    """The release that is installed here; None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def how_to_install(package: str) -> str:
    """The command that brings a package of an extra."""
    return f"pip install '.[{EXTRAS.get(package, 'export')}]'"


def package_versions(*packages: str) -> dict[str, str]:
    """Installed versions by package, and Python's own, without importing any of them.

    Raises:
        StageError: one is not installed.
    """
    try:
        versions = {name: metadata.version(name) for name in packages}
    except metadata.PackageNotFoundError as error:
        raise StageError(f"{error.name} is not installed here; {how_to_install(error.name or '')} brings it") from None
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}
