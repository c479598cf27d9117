"""Reads the YAML files that people write, and says of every mistake where it is and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

Document = TypeVar("Document", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error; plain PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise InputError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: it cannot be read, is no YAML, repeats a key, or is no mapping.
    """
    try:
        # _UniqueKeyLoader is a SafeLoader.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name}: cannot be read as YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: must hold keys and values, not {type(content).__name__}")
    return content


def parse(kind: type[Document], content: Mapping[str, Any], origin: str) -> Document:
    """Validate `content` as `kind`; every mistake becomes one line `origin: field: what, why, remedy`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{origin}: {_explain(kind, detail)}" for detail in error.errors())) from None


def _explain(kind: type[BaseModel], detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = _known_keys(kind, detail["loc"][:-1])
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
        return f"{field}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{field}: missing; add it"
    prefix = f"{field}: " if field else ""
    given = f" (given: {detail['input']!r})" if not detail["type"].endswith("value_error") else ""
    return f"{prefix}{message}{given}"


def _known_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        nested = _model_in(annotation)
        if nested is not None:
            kind = nested
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
