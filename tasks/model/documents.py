"""Reads the YAML files that people write, and says of every mistake where it is and what to do.

One reader for all of them: model.yaml, policies, manifests of calibration sets, from a folder or from a commit. Numbers
and words are those of YAML 1.2: `1e-3` is a number, `1:30` and `on` are texts. Size, depth and what aliases expand to
are bounded before anything takes a document apart: its writer may be a stranger.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import InputError
from validation.rules import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

Document = TypeVar("Document", bound=BaseModel)

MOST_BYTES = 1 << 20
MOST_NODES = 200_000
"""More than a calibration set's manifest of 20,000 files has."""
MOST_DEPTH = 50
# YAML 1.2's core schema (its section 10.3.2), by the first characters that a value of each kind can have.
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("timestamp", r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "0123456789"),  # days alone, beyond the core schema
)
# libyaml where PyYAML was built with it: a repository has hundreds of such files.
_FastLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):  # type: ignore[valid-type,misc]
    """Safe YAML 1.2 in which a key given twice is an error; plain PyYAML reads 1.1 and silently keeps the last."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise InputError(f"line {key_node.start_mark.line + 1}: key {shown(key)} is given twice; remove one")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in {"0o", "0x"} else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.2 would take for something else, beside those of PyYAML's 1.1."""


for _kind, _pattern, _first in _CORE_SCHEMA:
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        InputError: it cannot be read, is too large, no YAML, a trap, repeats a key, or is no mapping.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path.name}: is not a regular file; replace it with one")
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read: {error.strerror}; correct it") from None
    text = checked_text(content if len(content) <= MOST_BYTES else None, path.name)
    try:
        document = _load(text)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path.name}: cannot be read as YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path.name}: must hold keys and values, not {type(document).__name__}")
    return document


def write_yaml(document: Mapping[str, Any]) -> str:
    """The text of a document, which `read_yaml` reads as it was."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def checked_text(content: bytes | None, origin: str) -> str:
    """The text of a document, which is then safe to be read as YAML.

    Raises:
        InputError: it is too large (None), no UTF-8, no YAML, or a trap.
    """
    if content is None:
        raise InputError(f"{origin}: has more than {MOST_BYTES >> 20} MiB; no such document is that large")
    try:
        text = content.decode()
        _refuse_bombs(text, origin)
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: is no UTF-8 ({error}); save it as such") from None
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: cannot be read as YAML: {error}") from None
    return text


def read_leniently(text: str) -> dict[str, Any]:
    """What a checked text holds, whatever else is wrong with it: empty where it is no mapping."""
    try:
        content = _load(text)
    except (InputError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _load(text: str) -> object:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _refuse_bombs(text: str, origin: str) -> None:
    """Raise InputError for YAML that is nested too deep or becomes too large once its aliases are followed.

    Only events are read: libyaml's loader ends the process at 10,000 open brackets, and errors would print what nine
    aliases of nine aliases … stand for.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_FastLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor or ""] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += _size_of(sizes, event.anchor or "", origin)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
        total += 1
        if len(open_nodes) > MOST_DEPTH or total > MOST_NODES:
            raise InputError(f"{origin}: is nested too deep, or too large with its aliases; write it plainly")


def _size_of(sizes: dict[str, int], anchor: str, origin: str) -> int:
    if anchor not in sizes:
        raise InputError(f"{origin}: the alias *{anchor} names nothing, or what it lies in itself; write it out")
    return sizes[anchor]


def parse(kind: type[Document], content: Mapping[str, Any], origin: str) -> Document:
    """Validate `content` as `kind`; every mistake becomes one line `origin: field: what, why, remedy`."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{origin}: {_explain(kind, detail)}" for detail in error.errors())) from None


def _explain(kind: type[BaseModel], detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"] if not str(part).startswith("="))
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = _known_keys(kind, detail["loc"][:-1])
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
        return f"{field}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{field}: missing; add it"
    prefix = f"{field}: " if field else ""
    given = f" (given: {shown(detail['input'])})" if not detail["type"].endswith("value_error") else ""
    return f"{prefix}{message}{given}{_nearest_choice(detail)}"


def _nearest_choice(detail: ErrorDetails) -> str:
    """The nearest of the words that a field takes, where it takes some and was given another."""
    choices = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    nearest = difflib.get_close_matches(str(detail["input"])[:80], choices, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


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
