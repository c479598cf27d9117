"""Frozen models of inputs that are in no file, and of how an engine does on them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.artifact import Artifact
from tasks.declared import Frozen


class FreshArtifact(Frozen):
    """Inputs that are in no file, and the reference's outputs on them, sharded alike and finite throughout.

    `draws` says how each shard was made, `refused` why others were left out, and `difference` how far the exported
    graph is from the reference on them at most, in the outputs' own units.
    """

    inputs: Artifact
    outputs: Artifact
    draws: tuple[str, ...]
    samples: Annotated[int, Field(ge=1)]
    refused: tuple[str, ...]
    difference: float


class FreshFigure(Frozen):
    """How far an engine is from the reference on fresh inputs that were made in one way, and how far it may be.

    `against` is what it was compared with, where that is not the reference. `measure` names what `value` and `limit`
    are; `value` is None where the engine gave NaN, Inf or another shape.
    """

    output: str
    draw: str
    samples: int
    measure: str
    value: float | None
    limit: float
    against: str = "PyTorch"

    @property
    def ok(self) -> bool:
        """Whether that is agreement."""
        return self.value is not None and self.value <= self.limit


class FreshAgreement(Frozen):
    """An engine's outputs on inputs that are in no file, and how they agree with the reference."""

    outputs: Artifact
    figures: tuple[FreshFigure, ...]
