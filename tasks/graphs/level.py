"""How far ONNX Runtime optimises a graph while it loads it: all the way, unless a file beside the graph says less.

Some graphs kill release 1.31 at its highest level alone, like FP16 of a CRNN that flattens after a permutation. They
are loaded at the level below, and the file goes with the graph into the engine, under its digest: an engine is built,
compared and served at one level.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime as ort

    from tasks.artifact import Artifact

LEVEL_FILE = "session.json"
LOWERED = {"graph_optimization_level": "extended"}
LOWERED_IN_WORDS = "loaded at ONNX Runtime's optimisation level `extended`"


def lower_level(folder: Path) -> None:
    """Have the graph in `folder` loaded at the lower level from now on."""
    (folder / LEVEL_FILE).write_text(json.dumps(LOWERED) + "\n", encoding="utf-8")


def is_lowered(graph: Path) -> bool:
    """Whether the ONNX file `graph` is to be loaded at the lower level.

    Raises:
        StageError: the file beside it says something else.
    """
    path = graph.parent / LEVEL_FILE
    if not path.exists():
        return False
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(f"{LEVEL_FILE} cannot be read ({error}); convert the model again") from None
    if said != LOWERED:
        raise StageError(f"{LEVEL_FILE} says {said}, and this release knows {LOWERED} alone; use the one that built it")
    return True


def set_level(options: ort.SessionOptions, graph: Path) -> None:
    """Give options the level of the ONNX file `graph`; the highest is ONNX Runtime's default."""
    if is_lowered(graph):
        import onnxruntime as ort  # noqa: PLC0415 - a native library, which only children shall load

        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def recorded_level(plan: Artifact) -> dict[str, str]:
    """What an engine's options say of the level that its plan is loaded at, where that is not the highest."""
    lowered = any(file.path == LEVEL_FILE for file in plan.files)
    return {"loaded_at": LOWERED["graph_optimization_level"]} if lowered else {}
