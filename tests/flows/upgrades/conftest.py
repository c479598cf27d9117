"""The converted tiny scorer with an engine in production, and hosts with other toolchains."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tasks.backends.ort import OnnxRuntimeBackend
from tests.flows.projects import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.flows.conftest import Converted

CHANNELS = ("candidate", "staging", "canary", "production")


@pytest.fixture
def serving(converted: Converted, tmp_path: Path) -> Project:
    """A copy of the converted project, its candidate promoted to production."""
    source = converted.project
    shutil.copytree(source.root, tmp_path / "copy")
    environment = source.environment | {"ENGINEGATE_HOME": str(tmp_path / "copy" / "home"), "ENGINEGATE_ACTOR": "ann"}
    project = Project(tmp_path / "copy", environment)
    for channel in CHANNELS[1:]:
        code, _, text = project.run("promote", "tiny-scorer", "--target", "cpu", "--to", channel, "--yes")
        assert code == 0, text
    return project


@pytest.fixture
def elsewhere(serving: Project, tmp_path: Path) -> Project:
    """Another host: a home of its own, with nothing but the same registry."""
    environment = serving.environment | {
        "ENGINEGATE_HOME": str(tmp_path / "elsewhere"),
        "ENGINEGATE_REGISTRY": str(serving.home / "registry"),
    }
    return Project(serving.root, environment)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this host have another release of ONNX Runtime."""
    real = OnnxRuntimeBackend.identity

    def change(version: str) -> None:
        monkeypatch.setattr(
            OnnxRuntimeBackend, "identity", lambda self: real(self).model_copy(update={"version": version})
        )

    return change
