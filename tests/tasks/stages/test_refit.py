"""That versions of a model share a structure, as the exporter and the converters leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tasks.graphs.structure import structure_digest
from tasks.specs import Precision
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tests.tasks.models import encoder, mlp
from tests.tasks.models.directories import make_features, make_texts, store_shards, write_directory

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import TypedModel
    from tests.tasks.in_process import InProcess

MODULES = {"mlp": mlp, "encoder": encoder}


def converted(here: InProcess, folder: Path, model: str, seed: int) -> dict[str, TypedModel]:
    """A version of a model with weights of its own, in FP32 and FP16."""
    folder.mkdir()
    torch.manual_seed(seed)
    before = MODULES[model].build().state_dict()
    weights = {name: (value + 0.05 * torch.randn_like(value)).contiguous() for name, value in before.items()}
    directory = write_directory(folder, model, weights=weights)
    data = store_shards(here.store, [make_features() if model == "mlp" else make_texts(6, 20)])
    exported = export_onnx(here, directory, data).result
    return {
        name: convert_precision(here, exported, Precision(name), directory.spec, None).result
        for name in ("fp32", "fp16")
    }


@pytest.mark.parametrize("model", ["mlp", pytest.param("encoder", marks=pytest.mark.hardship(only=True))])
def test_two_versions_of_a_model_differ_by_the_values_of_their_weights_alone(
    here: InProcess, tmp_path: Path, model: str
) -> None:
    versions = [converted(here, tmp_path / f"version{seed}", model, seed) for seed in (1, 2)]
    for precision in ("fp32", "fp16"):
        one, other = (version[precision].onnx for version in versions)
        assert one.digest != other.digest
        digests = [
            structure_digest(next(here.store.fetch(artifact, tmp_path / artifact.digest[-8:]).glob("*.onnx")))
            for artifact in (one, other)
        ]
        assert digests[0] == digests[1], precision
