"""What a backend does: builds engines for its targets, and loads and runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from tasks.specs import BackendIdentity, Dim, InputSpec


class Engine(Protocol):
    """An engine, loaded on its device."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name for one batch. Every named dimension of `feeds` lies within the engine's dims."""


class Backend(Protocol):
    """A runtime on this host."""

    def identity(self) -> BackendIdentity:
        """What an engine built here depends on, beside its ONNX file and options."""

    def options(self) -> dict[str, str]:
        """The builder's options; they are a part of the cache key."""

    def build(self, onnx: Path, plan: Path, inputs: Mapping[str, InputSpec], dims: Mapping[str, Dim]) -> None:
        """Build an engine from a typed ONNX file into the empty folder `plan`.

        Raises:
            StageError: the runtime cannot build it.
        """

    def load(self, plan: Path) -> Engine:
        """Load the engine in folder `plan`, whose digest the caller has checked.

        Raises:
            StageError: the runtime cannot load it.
        """
