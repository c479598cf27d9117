"""Object stores of every kind, empty: in memory, a folder, moto's S3 and Debian's radosgw."""

from __future__ import annotations

import sys
import uuid
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tasks.objects.folder import LocalObjects
from tasks.objects.s3 import S3Objects
from tests.s3_servers import BUCKET, aws_settings
from tests.shared_servers import CannotStartError, shared_server
from tests.tasks.memory_objects import MemoryObjects

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.objects.interface import ObjectStore


@dataclass(frozen=True)
class Place:
    """Where an object store lies; it is opened anew in every process, but for the one in memory."""

    kind: str
    folder: Path
    endpoint: str = ""
    prefix: str = field(default_factory=lambda: f"registry/{uuid.uuid4().hex}")
    memory: MemoryObjects = field(default_factory=MemoryObjects)

    def open(self, **options: Any) -> ObjectStore:
        """The store; options are those of S3Objects."""
        if self.kind == "memory":
            return self.memory
        return S3Objects(BUCKET, self.prefix, **options) if self.endpoint else LocalObjects(self.folder)


@pytest.fixture(scope="session")
def moto(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The endpoint of moto's S3."""
    return shared_server("moto", request, tmp_path_factory)


@pytest.fixture(scope="session")
def radosgw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The endpoint of radosgw; loud where there is none."""
    try:
        return shared_server("radosgw", request, tmp_path_factory)
    except CannotStartError as error:
        line = "!" * 100
        sys.__stderr__.write(f"\n{line}\nNOT TESTED ON A REAL S3 SERVER: {error}\n{line}\n")  # type: ignore[union-attr]
        warnings.warn(f"not tested on a real S3 server: {error}", stacklevel=1)
        pytest.skip(str(error))


def place_at(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of a kind, to which the environment leads."""
    endpoint = "" if kind in {"memory", "local"} else request.getfixturevalue(kind)
    patch = request.getfixturevalue("monkeypatch")
    for name, value in aws_settings(endpoint).items() if endpoint else ():
        patch.setenv(name, value)
    return Place(kind, tmp_path / "objects", endpoint)


@pytest.fixture(params=["memory", "local", "moto", "radosgw"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind."""
    return place_at(request.param, request, tmp_path)


@pytest.fixture(params=["local", "moto", "radosgw"])
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind that processes share: one in memory is each process's own."""
    return place_at(request.param, request, tmp_path)


@pytest.fixture(params=["moto", "radosgw"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store on each S3 server."""
    return place_at(request.param, request, tmp_path)


@pytest.fixture
def objects(place: Place) -> ObjectStore:
    """An open empty store of each kind."""
    return place.open()
