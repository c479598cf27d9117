"""Modules out of archives behind a plain one. Runs in child processes only: it imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.specs import ModelSpec


class ArchivedModule(nn.Module):
    """Called by keyword. What it holds was saved in the mode that it runs in, and cannot be given another.

    `taken` are its inputs in its own order. `scripted` is this module where it holds TorchScript, which one exporter
    alone takes, and only as it is.
    """

    def __init__(self, held: Any, taken: Sequence[str], *, scripted: bool) -> None:
        super().__init__()
        self.held, self.taken = held, tuple(taken)
        self._is_scripted = scripted

    @property
    def scripted(self) -> ArchivedModule | None:
        """Itself, where it holds TorchScript."""
        return self if self._is_scripted else None

    def train(self, mode: bool = True) -> ArchivedModule:  # noqa: ARG002 - torch's own signature
        """Leave it as it was saved."""
        return self

    def forward(self, **inputs: Tensor) -> Any:
        """Whatever was saved returns."""
        return self.held(**inputs)


def refuse_other_inputs(taken: Sequence[str], spec: ModelSpec, origin: str) -> None:
    """Refuse an archive whose inputs, in its own order, are not those of model.yaml.

    Raises:
        InputError: naming the first that only one has.
    """
    listed = ", ".join(taken) or "nothing"
    for name in spec.inputs:
        if name not in taken:
            raise InputError(f"{SPEC_FILE}: inputs.{name}: {origin} takes {listed}; rename it")
    for name in taken:
        if name not in spec.inputs:
            raise InputError(f"{SPEC_FILE}: inputs: {origin} also takes {name}; declare it, or save it without")
