from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import StageError
from tasks.serving.python_models import ENGINE_FILES
from tests.triton_stand_in import Server, TritonModelException, ask, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Runner:
    """Doubles its input, and refuses negative ones."""

    def load(self, plan: Path) -> Runner:
        if not plan.is_dir():
            raise StageError("cannot load the engine: it is gone")
        return self

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        if feeds["x"].min() < 0:
            raise RuntimeError("negative")
        return {"y": feeds["x"] * 2, "unasked": feeds["x"]}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("tasks.backends.backend_of", lambda _: Runner())
    return load(monkeypatch, tmp_path / "engine", Server(), ENGINE_FILES)


def arguments(plan: Path) -> dict[str, str]:
    parameters = {"runtime": {"string_value": "onnxruntime"}, "plan": {"string_value": str(plan)}}
    config = {"parameters": parameters, "input": [{"name": "x"}], "output": [{"name": "y"}]}
    return {"model_config": json.dumps(config)}


def test_the_projects_own_runner_runs_each_request_and_one_that_fails_fails_alone(module: Any, tmp_path: Path) -> None:
    engine = module.TritonPythonModel()
    engine.initialize(arguments(tmp_path))
    good, bad = engine.execute([ask(x=np.ones((1, 2), np.float32)), ask(x=-np.ones((1, 2), np.float32))])
    assert {name: array.tolist() for name, array in good.arrays().items()} == {"y": [[2, 2]]}
    assert bad.error().message() == "negative"


def test_an_engine_that_cannot_be_loaded_says_why(module: Any, tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match="cannot load the engine: it is gone"):
        module.TritonPythonModel().initialize(arguments(tmp_path / "gone"))


def test_a_server_whose_python_lacks_the_runner_says_what_to_install(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(_: str) -> Runner:
        raise ModuleNotFoundError("No module named 'onnxruntime'")

    monkeypatch.setattr("tasks.backends.backend_of", lacking)
    with pytest.raises(TritonModelException, match=r"runner of onnxruntime \(No module.*install Enginegate"):
        module.TritonPythonModel().initialize(arguments(tmp_path))
