from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime as ort
import pytest

from tasks.errors import StageError
from tasks.graphs.level import LEVEL_FILE, is_lowered, lower_level, recorded_level, set_level
from tests.tasks.tiny import put, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.store.local import LocalStore

HIGHEST, EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def level_of(graph: Path) -> ort.GraphOptimizationLevel:
    options = ort.SessionOptions()
    set_level(options, graph)
    return options.graph_optimization_level


def test_a_graph_is_loaded_at_the_highest_level_unless_a_file_beside_it_says_less(tmp_path: Path) -> None:
    graph = write_onnx(tmp_path)
    assert (is_lowered(graph), level_of(graph)) == (False, HIGHEST)
    lower_level(tmp_path)
    assert (is_lowered(graph), level_of(graph)) == (True, EXTENDED)


@pytest.mark.parametrize("content", ["", "[", '{"graph_optimization_level": "all"}', "{}"])
def test_a_file_that_says_anything_else_is_refused_and_not_passed_over(tmp_path: Path, content: str) -> None:
    graph = write_onnx(tmp_path)
    (tmp_path / LEVEL_FILE).write_text(content)
    with pytest.raises(StageError, match=r"session.json (cannot be read|says)"):
        level_of(graph)


def test_the_options_of_an_engine_tell_a_lower_level_and_of_others_nothing(store: LocalStore) -> None:
    def told(*names: str) -> dict[str, str]:
        return recorded_level(put(store, dict.fromkeys(names, b"x")))

    assert told("engine.onnx") == {}
    assert told("engine.onnx", "session.json") == {"loaded_at": "extended"}
