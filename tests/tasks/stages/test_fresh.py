from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tasks.errors import InputError, StageError
from tasks.samples.fresh_inputs import Draw
from tasks.samples.npz import load_arrays, shard_paths
from tasks.stages.export import export_onnx
from tasks.stages.fresh import run_fresh
from tasks.stages.reference import run_reference
from tests.tasks.models import encoder, mlp, rote
from tests.tasks.models.directories import make_features, make_texts, store_shards, write_directory

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fresh_records import FreshArtifact
    from tasks.model.model_directory import ModelDirectory
    from tasks.records import DataArtifact
    from tasks.store.stage_cache import StageResult
    from tests.tasks.in_process import InProcess

TORCHSCRIPT = {"exporter": "torchscript", "opset": 17}


@dataclass(frozen=True)
class Learnt:
    """A model that knows its validation samples by heart, and those."""

    directory: ModelDirectory
    data: DataArtifact


def by_heart(here: InProcess, folder: Path, build: str, exporter: str = "torchscript") -> Learnt:
    features = make_features(40)
    torch.manual_seed(1)
    state = getattr(rote, build)().state_dict()
    if "table" in state:
        state["table"] = torch.from_numpy(features["features"])
    export = {"exporter": exporter, "opset": 17 if exporter == "torchscript" else 20}
    directory = write_directory(folder, "rote", build=build, weights=state, export=export)
    return Learnt(directory, store_shards(here.store, [features]))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_table_of_the_validation_samples_passes_the_check_on_them_and_fails_on_fresh_inputs(
    here: InProcess, tmp_path: Path, exporter: str
) -> None:
    learnt = by_heart(here, tmp_path, "build_rote", exporter)
    exported = export_onnx(here, learnt.directory, learnt.data).result
    assert max(exported.checks.values()) < 1e-5, "the samples themselves show nothing"
    with pytest.raises(StageError, match=r"on the validation samples, and not on .* no file.*output score"):
        run_fresh(here, learnt.directory, learnt.data, exported)
    assert not list((tmp_path / "store").glob("records/fresh/*"))


def test_an_honest_module_agrees_and_nothing_is_done_twice(here: InProcess, tmp_path: Path) -> None:
    directory = write_directory(tmp_path, "mlp", weights=mlp.build().state_dict(), export=TORCHSCRIPT)
    data = store_shards(here.store, [make_features(40)])
    exported = export_onnx(here, directory, data).result
    first, again = (run_fresh(here, directory, data, exported) for _ in range(2))
    assert (first.cached, again.cached) == (False, True)
    assert again.result == first.result
    assert first.result.difference < 1e-5
    assert first.result.refused == ()
    assert (first.result.samples, len(first.result.draws)) == (96, 3)


def test_fresh_texts_are_of_several_lengths_with_their_padding_last(here: InProcess, tmp_path: Path) -> None:
    torch.manual_seed(5)
    directory = write_directory(tmp_path, "encoder", weights=encoder.build().state_dict(), export={"opset": 20})
    data = store_shards(here.store, [make_texts(6, 20), make_texts(3, 9, seed=1)])
    exported = export_onnx(here, directory, data).result
    found = run_fresh(here, directory, data, exported).result
    assert found.refused == ()
    shards = [load_arrays(path) for path in shard_paths(here.store.fetch(found.inputs, tmp_path / "fresh"))]
    assert {shard["input_ids"].shape[1] for shard in shards} == {4, 16, 23, 40}
    for shard in shards:
        mask = shard["attention_mask"]
        assert set(np.unique(mask)) <= {0, 1}
        assert (np.diff(mask, axis=1) <= 0).all(), "ones first"
        assert (mask[:, 0] == 1).all()
        assert (shard["input_ids"][mask == 0] == 0).all()
        assert shard["input_ids"].max() < 64


@pytest.mark.parametrize(
    ("build", "cause"), [("build_forgetful", "draws random numbers"), ("build_counting", r"keeps .*\(calls changed\)")]
)
def test_a_module_that_is_no_function_of_its_inputs_is_refused_with_the_cause_in_every_stage(
    here: InProcess, tmp_path: Path, build: str, cause: str
) -> None:
    learnt = by_heart(here, tmp_path, build)
    said = rf"rote.py:.* is not a function of its inputs: .*output score differs by .*{cause}"
    with pytest.raises(InputError, match=said):
        export_onnx(here, learnt.directory, learnt.data)
    with pytest.raises(InputError, match=said):
        run_reference(here, learnt.directory, learnt.data)


def test_a_module_that_changes_its_inputs_changes_a_copy(here: InProcess, tmp_path: Path) -> None:
    learnt = by_heart(here, tmp_path, "build_careless")
    exported = export_onnx(here, learnt.directory, learnt.data).result
    assert run_fresh(here, learnt.directory, learnt.data, exported).result.difference < 1e-5


def test_outputs_in_bfloat16_are_those_of_float32_in_the_graph(here: InProcess, tmp_path: Path) -> None:
    directory = write_directory(tmp_path, "mlp", build="build_brief", export=TORCHSCRIPT)
    data = store_shards(here.store, [make_features(40)])
    exported = export_onnx(here, directory, data).result
    assert run_fresh(here, directory, data, exported).result.refused == ()


def alike(here: InProcess, folder: Path, build: str) -> StageResult[FreshArtifact]:
    """Fresh inputs for a picky module, from samples of equal values; a module that is not picky was exported."""
    (folder / "exported").mkdir()
    state = rote.build().state_dict()
    exported = export_onnx(here, write_directory(folder / "exported", "rote", weights=state, export=TORCHSCRIPT)).result
    data = store_shards(here.store, [{"features": np.repeat(make_features(40)["features"][:, :1], 24, axis=1)}])
    return run_fresh(here, write_directory(folder, "rote", build=build, weights=state), data, exported)


def test_inputs_that_the_module_does_not_take_are_left_out_and_told(here: InProcess, tmp_path: Path) -> None:
    found = alike(here, tmp_path, "build_picky").result
    assert found.draws == (Draw.PERTURBED.value,)
    assert len(found.refused) == 2
    assert all("values must be alike" in reason for reason in found.refused)


def test_a_module_that_takes_nothing_but_its_validation_samples_is_refused(here: InProcess, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes no inputs but those of validation.data.*values must be alike"):
        alike(here, tmp_path, "build_pickiest")
