"""A model.yaml in the making: what was guessed, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = "batch"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Guess:
    """A value of model.yaml as plain YAML data, and the reason for it in a sentence without a full stop."""

    value: Any
    why: str


@dataclass(frozen=True)
class Draft:
    """model.yaml: its fields in the order of its reference; a field with several entries has a guess for each."""

    name: str
    source: Guess
    weights: Guess | None
    inputs: Mapping[str, Guess]
    dims: Mapping[str, Guess]
    outputs: Mapping[str, Guess]
    targets: Guess
    precisions: Guess
    calibration: Guess | None
    validation: Guess
    head: tuple[str, ...] = field(default=())
    """Sentences above all of it."""
