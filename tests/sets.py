"""Writes the manifest of a calibration set that a test made."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from tasks.declared import InputSpec
from tasks.model.set_manifest import make_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def describe(folder: Path, inputs: Mapping[str, Any], **fields: Any) -> None:
    """Write manifest.yaml for the data files in `folder`, of a model with `inputs` as model.yaml has them."""
    day = dt.datetime.now(dt.timezone.utc).date()
    manifest = make_manifest(
        folder,
        **{
            "name": "made",
            "inputs": {name: InputSpec.model_validate(spec) for name, spec in inputs.items()},
            "source": "a test",
            "collected": (day, day),
            **fields,
        },
    )
    write_manifest(folder, manifest)
