from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.serving.route import Route
from tasks.serving.triton_repository import TritonRepository

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"config.pbtxt": b"name", "1/model.py": b"code"}
ENGINE = "tiny--1-0123abcd"


def route(move: int = 1) -> Route:
    return Route(
        model="tiny",
        move=move,
        engine_id="tiny-cpu-fp32@111111111111",
        manifest="sha256:" + "0" * 64,
        batch="batch",
        inputs={},
        outputs={},
        plans=(),
    )


@pytest.fixture
def repository(tmp_path: Path) -> TritonRepository:
    """An empty one, of model `tiny`."""
    (tmp_path / "repository").mkdir()
    return TritonRepository(tmp_path / "repository", "tiny")


def test_a_model_is_written_once_and_again_where_a_file_of_it_is_wrong(repository: TritonRepository) -> None:
    plan = repository.root / "plan"
    plan.write_bytes(b"plan")
    files = {**FILES, "1/model.plan": plan}
    assert repository.put_engine(ENGINE, files)
    assert (repository.root / ENGINE / "1" / "model.plan").samefile(plan)
    assert not repository.put_engine(ENGINE, files)
    (repository.root / ENGINE / "1" / "__pycache__").mkdir()
    (repository.root / ENGINE / "1" / "__pycache__" / "model.pyc").write_bytes(b"")
    assert not repository.put_engine(ENGINE, files)
    (repository.root / ENGINE / "1" / "model.py").write_bytes(b"half")
    assert repository.put_engine(ENGINE, files)
    assert (repository.root / ENGINE / "1" / "model.py").read_bytes() == b"code"


def test_only_models_of_this_name_are_its_own(repository: TritonRepository) -> None:
    for name in (ENGINE, "tiny", "tiny-two--1-0123abcd", "tiny--notes", "tiny--2-0123abcd--engine-batch8"):
        (repository.root / name).mkdir()
    assert repository.engines() == (ENGINE, "tiny--2-0123abcd--engine-batch8")


def test_the_router_keeps_its_folder_while_its_files_and_its_route_are_replaced(repository: TritonRepository) -> None:
    assert repository.put_router(FILES, route(1))
    inode = repository.router.stat().st_ino
    assert not repository.put_router(FILES, route(2))
    assert repository.read_route() == route(1)
    assert repository.put_route(route(2))
    assert not repository.put_route(route(2))
    assert repository.put_router({"config.pbtxt": b"other"}, route(2))
    assert repository.router_files() == {"config.pbtxt": b"other"}
    assert repository.read_route() == route(2)
    assert repository.router.stat().st_ino == inode


def test_a_place_that_is_taken_is_refused(repository: TritonRepository) -> None:
    repository.require_own()
    repository.router.mkdir()
    with pytest.raises(InputError, match="was not made by enginegate"):
        repository.require_own()
    repository.router.rmdir()
    (repository.root / "state.json").touch()
    with pytest.raises(InputError, match="pull without --layout triton"):
        repository.require_own()
