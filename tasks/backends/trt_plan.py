"""The index in an engine's folder, and part of it: what it takes and gives, its plans, and how to run them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from tasks.backends.profiles import PROFILE_RULE
from tasks.declared import Frozen, InputSpec
from tasks.errors import StageError
from tasks.records import EngineProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.backends.interface import BuildJob

INDEX_FILE = "engine.json"
PLUGIN_FOLDER = "plugins"
ATTENTION_LIBRARY = "libenginegate_attention.so"
"""In that folder, the library of `attention_plugin`: beside a model's own, and made for the GPU."""
BY_PLUGIN = "plugin"
"""How the option `attention` begins of an engine that has it."""


class PlanIndex(Frozen):
    """`engine.json`. The axes of an output are names of dimensions where they vary, else extents."""

    schema_version: int = 1
    inputs: dict[str, InputSpec]
    outputs: dict[str, tuple[str | int, ...]]
    profiles: tuple[EngineProfile, ...]
    profile_rule: str
    plugins: tuple[str, ...]
    cuda_graph: bool

    @classmethod
    def describe(
        cls, job: BuildJob, profiles: Sequence[EngineProfile], outputs: Mapping[str, tuple[str | int, ...]]
    ) -> PlanIndex:
        """The index of what `job` builds."""
        return cls(
            inputs=dict(job.inputs),
            outputs=dict(outputs),
            profiles=tuple(profiles),
            profile_rule=PROFILE_RULE,
            plugins=tuple(f"{PLUGIN_FOLDER}/{path.name}" for path in job.plugins),
            cuda_graph=job.settings.cuda_graph,
        )

    def write(self, plan: Path, plugins: Sequence[Path] = ()) -> None:
        """Write the index into the engine's folder, and copies of the plugin libraries beside it."""
        (plan / INDEX_FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")
        if plugins:
            (plan / PLUGIN_FOLDER).mkdir()
        for library in plugins:
            shutil.copyfile(library, plan / PLUGIN_FOLDER / library.name)

    @classmethod
    def read(cls, plan: Path) -> PlanIndex:
        """Read the index of an engine's folder.

        Raises:
            StageError: there is none, or it is damaged.
        """
        try:
            return cls.model_validate_json((plan / INDEX_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise StageError(f"TensorRT cannot load the engine: {INDEX_FILE} cannot be read ({error})") from None
