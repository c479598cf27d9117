"""An entry for test_user_modules: it compiles the product's wrapper around a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tasks.sources.interface import ModuleRequest
from tasks.torch_side.torch_module import load_module
from tests.tasks.child_entries import Answer

if TYPE_CHECKING:
    from collections.abc import Callable


def compile_wrapper(request: dict[str, Any], _progress: Callable[[int, int], None]) -> Answer:
    """Compile the whole of it, or raise; answer with how many graphs that took."""
    module = load_module(ModuleRequest.model_validate(request))
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    features = torch.ones(4, 24)
    found = torch.compile(module, backend=backend, fullgraph=True)(features)
    assert torch.equal(found[0], module(features)[0])
    return Answer(text=str(len(graphs)))
