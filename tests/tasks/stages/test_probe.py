from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.samples.npz import load_arrays, shard_paths
from tasks.stages.probe import ProbeError, load_alone, probe_module
from tasks.torch_side import torch_probe
from tests.tasks.models import mlp
from tests.tasks.models.directories import make_features, make_texts, store_shards, write_directory

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess


def test_a_module_is_run_at_every_shape_and_on_samples_and_once_only(here: InProcess, tmp_path: Path) -> None:
    directory = write_directory(tmp_path, "mlp")
    data = store_shards(here.store, [make_features(40), make_features(50, seed=1)])
    first, again = (probe_module(here, directory, data) for _ in range(2))
    assert (first.cached, again.cached) == (False, True)
    found = first.result
    assert found.shapes == ("batch=1", "batch=4", "batch=5", "batch=9")
    assert (found.untried, found.fresh.refused, found.fresh.samples) == ((), (), 96)
    seen = [load_arrays(path) for path in shard_paths(here.store.fetch(found.seen, tmp_path / "seen"))]
    assert [{name: array.shape for name, array in shard.items()} for shard in seen] == [
        {"score": (32,), "traits": (32, 3)}
    ] * 2


@pytest.mark.parametrize(("kind", "settled"), [("tensor", ("level",)), ("score", ()), ("labels", ())])
def test_what_is_declared_is_not_settled_by_what_was_found_when_it_was_left_open(
    here: InProcess, tmp_path: Path, kind: str, settled: tuple[str, ...]
) -> None:
    rest = {"accept": {"kind": "labels"}, "key": {"kind": "labels"}}
    data = store_shards(here.store, [make_features(40)])
    (tmp_path / "before").mkdir()
    before = write_directory(tmp_path / "before", "names", outputs={"level": {"kind": "tensor"}, **rest})
    assert probe_module(here, before, data).result.settled.labels == ("level",)
    (tmp_path / "now").mkdir()
    now = write_directory(tmp_path / "now", "names", outputs={"level": {"kind": kind}, **rest})
    assert probe_module(here, now, data).result.settled.labels == settled


def test_masks_lie_beside_the_outputs_that_they_belong_to(here: InProcess, tmp_path: Path) -> None:
    outputs = {"score": {"kind": "tensor", "mask": "attention_mask"}}
    directory = write_directory(tmp_path, "encoder", outputs=outputs)
    texts = make_texts(6, 20)
    found = probe_module(here, directory, store_shards(here.store, [texts])).result
    (path,) = shard_paths(here.store.fetch(found.seen, tmp_path / "seen"))
    assert (load_arrays(path)["mask.attention_mask"] == texts["attention_mask"]).all()


def test_shapes_that_a_module_does_not_take_are_named_in_one_error_with_what_else_is_wrong(
    here: InProcess, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path, "mlp", build="build_narrow")
    data = store_shards(here.store, [make_features(40)])
    with pytest.raises(ProbeError) as caught:
        probe_module(here, directory, data)
    assert caught.value.seen is not None, "what it gave all the same"
    assert str(caught.value).count("forward raised") == 1
    assert "9 are too many" in str(caught.value)
    assert "on inputs of batch=9;" in str(caught.value)
    assert not list((tmp_path / "store").glob("records/probe/*")), "it is tried anew when it was corrected"


@pytest.mark.parametrize(("build", "dtype"), [("build_cast", "float32"), ("build", "float64")])
def test_a_module_that_mixes_types_is_told_that_it_runs_in_float32(
    here: InProcess, tmp_path: Path, build: str, dtype: str
) -> None:
    inputs = {"features": {"dtype": dtype, "shape": ["batch", 24]}}
    directory = write_directory(tmp_path, "mlp", build=build, inputs=inputs)
    data = store_shards(here.store, [{"features": make_features(40)["features"].astype(dtype)}])
    with pytest.raises(InputError, match=r"run in float32.*cast to the dtype of the module's weights.*as float32"):
        probe_module(here, directory, data)


def test_one_mistake_at_several_shapes_is_told_once_with_all_of_them() -> None:
    raised = {f"batch={n}": f"forward raised ValueError on inputs of batch={n}; narrow dims" for n in (4, 9)}
    told = list(torch_probe._joined({**raised, "fresh inputs": "other"}))  # noqa: SLF001 - the joining alone
    assert told == ["forward raised ValueError on inputs of batch=4 and batch=9; narrow dims", "other"]


def test_shapes_without_time_left_are_told_and_not_run(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_probe, "SHAPES_S", -1.0)
    directory = write_directory(tmp_path, "mlp", build="build_narrow")
    found = probe_module(here, directory, store_shards(here.store, [make_features(40)])).result
    assert (found.shapes, found.untried) == (("batch=1",), ("batch=4", "batch=5", "batch=9"))


def test_without_data_a_module_is_loaded_and_its_weights_and_parameters_are_checked(
    here: InProcess, tmp_path: Path
) -> None:
    state = mlp.build().state_dict()
    load_alone(here, write_directory(tmp_path, "mlp", weights=state))
    (tmp_path / "other").mkdir()
    state["score.bias"] = np.float32(1) * state["score.bias"].repeat(2)
    with pytest.raises(InputError, match=r"misshapen: score.bias \[2\]"):
        load_alone(here, write_directory(tmp_path / "other", "mlp", weights=state))
