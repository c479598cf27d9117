"""Libraries of custom operations for ONNX Runtime: they lie beside a graph, and whatever loads it loads them first.

So they are a part of the artifact: an exported graph, a typed one and an engine each hold the very libraries that they
were checked with, under one digest, and a key that names the graph names them. Loading one runs its code, which only
children do.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tasks.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnxruntime as ort

FOLDER = "plugins"
# Those of ONNX, and those that are in ONNX Runtime itself.
KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft", "com.ms")


def libraries_beside(graph: Path) -> list[Path]:
    """The libraries that the ONNX file `graph` is to be loaded with, by name; most have none."""
    return sorted((graph.parent / FOLDER).glob("*"))


def custom_operations(model: onnx.ModelProto) -> list[str]:
    """The types of the operations of a graph that a library must hold, by name."""
    functions = {(function.domain, function.name) for function in model.functions}
    return sorted(
        {
            node.op_type
            for node in model.graph.node
            if not any(
                node.domain == known or node.domain.startswith(f"{known or 'ai.onnx'}.") for known in KNOWN_DOMAINS
            )
            and (node.domain, node.op_type) not in functions
        }
    )


def refuse_libraries(graph: Path, converter: str) -> None:
    """Raise StageError where the ONNX file `graph` is to be loaded with libraries, which `converter` would not do."""
    if libraries_beside(graph):
        names = ", ".join(library.name for library in libraries_beside(graph))
        raise StageError(f"{converter} cannot load the operations of build.onnxruntime_plugins ({names})")


def copy_libraries(graph: Path, folder: Path) -> None:
    """Copy the libraries of the ONNX file `graph` to where another one in `folder` finds them."""
    for library in libraries_beside(graph):
        (folder / FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(library, folder / FOLDER / library.name)


def register_libraries(options: ort.SessionOptions, graph: Path) -> None:
    """Have a session with these options know the operations that the ONNX file `graph` needs.

    Raises:
        StageError: a library cannot be loaded here, or is none for ONNX Runtime.
    """
    for library in libraries_beside(graph):
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class but this one
            reason = str(error).replace(str(library), library.name)
            raise StageError(
                f"build.onnxruntime_plugins: {library.name} cannot be loaded: {reason}; compile it for this processor"
                " and release of ONNX Runtime, with a function RegisterCustomOps"
            ) from None
