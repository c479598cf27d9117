"""YAML that a stranger wrote: its size, depth and expansion are bounded before anything takes it apart."""

from __future__ import annotations

from typing import Any

import yaml

from tasks.errors import InputError

MOST_BYTES = 1 << 20
MOST_NODES = 200_000
"""More than a calibration set's manifest of 20,000 files has."""
MOST_DEPTH = 50
# libyaml where PyYAML was built with it: a repository has hundreds of such files.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def refuse_bombs(text: str, origin: str) -> None:
    """Raise InputError for YAML that is nested too deep or becomes too large once its aliases are followed.

    Only events are read: libyaml's loader ends the process at 10,000 open brackets, and errors would print what nine
    aliases of nine aliases … stand for.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
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


def checked_text(content: bytes | None, origin: str) -> str:
    """The text of a document, which is then safe to be read as YAML.

    Raises:
        InputError: it is too large (None), no UTF-8, no YAML, or a trap.
    """
    if content is None:
        raise InputError(f"{origin}: has more than {MOST_BYTES >> 20} MiB; no such document is that large")
    try:
        text = content.decode()
        refuse_bombs(text, origin)
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: is no UTF-8 ({error}); save it as such") from None
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: cannot be read as YAML: {error}") from None
    return text


def read_leniently(text: str) -> dict[str, Any]:
    """What a checked text holds, whatever else is wrong with it: empty where it is no mapping."""
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, with or without libyaml
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
