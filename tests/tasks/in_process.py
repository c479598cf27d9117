"""A workbench whose stages call in this process what they run in a child: for tests that do not ask about the child.

Most of what such a child costs is imports: half a second for ONNX Runtime, five for torch's exporter. As there,
requests and replies go through JSON and errors are of the classes that a parent sees. Unlike there, a crash ends the
tests.
"""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, TypeAdapter

from tasks.errors import EnginegateError
from tasks.process.child import ChildFailedError
from tasks.process.context import StageContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Reply = TypeVar("Reply")
# ModelOpt replaces ONNX Runtime's calibrators in the process that imports it.
ALWAYS_IN_CHILDREN = tuple(f"tasks.quantization.{name}:" for name in ("modelopt_int8", "modelopt_fp8", "autocast"))


class InProcess(StageContext):
    """A StageContext with next to no child processes; elsewhere, time and memory have no limit."""

    def call_in_child(
        self,
        entry: str,
        request: BaseModel,
        reply: type[Reply],
        folder: Path,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        runs_model_code: bool = False,
    ) -> Reply:
        """Call `entry` on one request."""
        if entry.startswith(ALWAYS_IN_CHILDREN):
            return super().call_in_child(entry, request, reply, folder, on_progress=on_progress)
        module, _, function = entry.partition(":")
        with forgotten_imports(folder) if runs_model_code else nullcontext():
            try:
                serve = getattr(importlib.import_module(module), function)
                found = serve(json.loads(request.model_dump_json()), on_progress or self.on_progress)
            except EnginegateError:
                raise
            except Exception as error:
                raise ChildFailedError(f"{entry} raised {type(error).__name__}: {error}") from error
        result = found.model_dump(mode="json") if isinstance(found, BaseModel) else found
        return TypeAdapter(reply).validate_python(json.loads(json.dumps(result)))


@contextmanager
def forgotten_imports(folder: Path) -> Iterator[None]:
    """Let a model's code be imported from below a folder, and forget it afterwards."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if folder in Path(getattr(module, "__file__", None) or "/").parents:
                del sys.modules[name]
