"""Read what record.py has written down."""

from __future__ import annotations

import ast
import functools
import inspect
import json
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings"
RTX = "rtx-1.7.1"
RELEASES = sorted(
    (path.stem for path in RECORDINGS.glob("[0-9]*.json")), key=lambda name: [int(n) for n in name.split(".")]
)


@functools.cache
def read_recording(release: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads((RECORDINGS / f"{release}.json").read_text())
    return recording


@functools.cache
def parse_signature(text: str) -> inspect.Signature:
    """A recorded signature, its annotations left as text."""
    function = ast.parse(f"def f{text}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    named = [(item, inspect.Parameter.POSITIONAL_ONLY) for item in arguments.posonlyargs]
    named += [(item, inspect.Parameter.POSITIONAL_OR_KEYWORD) for item in arguments.args]
    defaults = [inspect.Parameter.empty] * (len(named) - len(arguments.defaults)) + [
        None if isinstance(item, ast.Constant) and item.value is None else ast.unparse(item)
        for item in arguments.defaults
    ]
    parameters = [
        inspect.Parameter(
            item.arg, kind, default=default, annotation=ast.unparse(item.annotation) if item.annotation else "object"
        )
        for (item, kind), default in zip(named, defaults, strict=True)
    ]
    assert function.returns
    return inspect.Signature(parameters, return_annotation=ast.unparse(function.returns))


def split_type(annotation: str) -> tuple[str, list[str]]:
    """`tuple[bool, list[int]]` as `tuple` and what stands in its brackets."""
    node = ast.parse(annotation, mode="eval").body
    if not isinstance(node, ast.Subscript):
        return annotation, []
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ast.unparse(node.value), [ast.unparse(item) for item in inner]
