"""Writes a draft of model.yaml, with the reason of every guess above it, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.imports.draft import Draft, Guess

WIDTH = 80


def render(draft: Draft) -> str:
    """The text of model.yaml."""
    lines: list[str] = []
    for sentence in draft.head:
        lines += _comment(sentence, "")
    lines.append(f"name: {draft.name}")
    lines += _field("source", draft.source)
    if draft.weights is not None:
        lines += _field("weights", draft.weights)
    for name, entries in (("inputs", draft.inputs), ("dims", draft.dims), ("outputs", draft.outputs)):
        lines += _entries(name, entries)
    lines += _field("targets", draft.targets)
    lines += _field("precisions", draft.precisions)
    if draft.calibration is not None:
        lines += _field("calibration", draft.calibration)
    lines += _field("validation", draft.validation)
    return "\n".join(lines) + "\n"


def _field(name: str, guess: Guess) -> Iterator[str]:
    yield from _comment(guess.why, "")
    yield f"{name}: {_flow(guess.value)}"


def _entries(name: str, entries: Mapping[str, Guess]) -> Iterator[str]:
    yield f"{name}:"
    for key, guess in entries.items():
        yield from _comment(guess.why, "  ")
        yield f"  {key}: {_flow(guess.value)}"


def _comment(text: str, indent: str) -> list[str]:
    """A comment, without what would end its line."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    begin = f"{indent}# "
    return textwrap.wrap(plain, WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False)


def _flow(value: Any) -> str:
    """A value on one line, as YAML's flow style has it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")
