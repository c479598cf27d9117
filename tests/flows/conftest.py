"""One cold conversion of the tiny scorer for the whole run, whose store others begin with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from tasks.tracking.connection import open_client
from tests.flows.projects import Project, project_at, write_project
from tests.shared_servers import shared_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Converted:
    """A project that was converted once, its document, and what people were told."""

    project: Project
    document: dict[str, Any]
    text: str


@pytest.fixture(scope="session")
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Converted:
    """The conversion that this run makes once, whichever of its workers needs it first. Change a copy of it."""
    root = shared_folder(request, tmp_path_factory) / "converted"
    with FileLock(f"{root}.lock"):
        if not (root / "said.json").exists():
            project = write_project(root, prefect_url)
            code, document, text = project.run("convert", str(project.model))
            assert code == 0, text
            (root / "said.json").write_text(json.dumps([document, text]))
    document, text = json.loads((root / "said.json").read_text())
    return Converted(project_at(root, prefect_url), document, text)


@pytest.fixture(scope="session")
def prefect_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prefect_url: str
) -> Path:
    """The database of the run's Prefect server."""
    assert prefect_url
    return shared_folder(request, tmp_path_factory) / "prefect" / "prefect.db"


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store of MLflow's without runs, to be copied: making one takes a second."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def begin_with_store(converted: Converted, empty_mlflow: Path) -> Callable[[Path], None]:
    """Lay a copy of the converted project's artifact store into a home: what a test does not ask about is done."""

    def lay(home: Path) -> None:
        shutil.copytree(converted.project.home / "store", home / "store")
        shutil.copy(empty_mlflow, home)

    return lay
