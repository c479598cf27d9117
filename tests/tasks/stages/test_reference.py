from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tasks.errors import InputError
from tasks.process.context import StageContext
from tasks.stages.reference import run_reference
from tests.tasks.models import encoder, mlp
from tests.tasks.models.directories import make_features, make_texts, store_shards, write_directory

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.in_process import InProcess


def test_outputs_are_those_of_the_module_shard_by_shard(tmp_path: Path, context: StageContext) -> None:
    torch.manual_seed(5)
    module = encoder.build().eval()
    directory = write_directory(tmp_path, "encoder", weights=module.state_dict())
    shards = [make_texts(6, 20), make_texts(3, 9, seed=1)]
    steps: list[tuple[int, int]] = []
    context = StageContext(context.store, on_progress=lambda done, total: steps.append((done, total)))
    found = run_reference(context, directory, store_shards(context.store, shards)).result
    folder = context.store.fetch(found.outputs, tmp_path / "out")
    for number, shard in enumerate(shards):
        with np.load(folder / f"{number:05d}.npz") as outputs, torch.no_grad():
            expected = module(**{name: torch.from_numpy(array) for name, array in shard.items()}).numpy()
            assert outputs["score"].dtype == np.float32
            np.testing.assert_allclose(outputs["score"], expected, atol=1e-5)
    assert steps == [(0, 2), (1, 2), (2, 2)]


def test_a_second_run_is_found_and_another_sample_is_not(tmp_path: Path, here: InProcess) -> None:
    directory = write_directory(tmp_path, "mlp", weights=mlp.build().state_dict())
    data = store_shards(here.store, [make_features()])
    first = run_reference(here, directory, data)
    again = run_reference(here, directory, data)
    assert (first.cached, again.cached) == (False, True)
    assert again.result == first.result
    other = make_features()
    other["features"][0, 0] += 1e-3
    assert not run_reference(here, directory, store_shards(here.store, [other])).cached


def test_a_batch_below_the_least_is_filled_up_and_cut(tmp_path: Path, here: InProcess) -> None:
    dims = {"batch": {"min": 8, "opt": 8, "max": 8}}
    directory = write_directory(tmp_path, "mlp", dims=dims)
    found = run_reference(here, directory, store_shards(here.store, [make_features(samples=11)])).result
    with np.load(here.store.fetch(found.outputs, tmp_path / "out") / "00000.npz") as outputs:
        assert {name: outputs[name].shape for name in outputs.files} == {"score": (11,), "traits": (11, 3)}


def test_nan_in_the_reference_names_output_shard_and_sample(tmp_path: Path, here: InProcess) -> None:
    directory = write_directory(tmp_path, "broken", build="build_not_a_number")
    good, bad = make_features(), make_features()
    good["features"], bad["features"] = np.abs(good["features"]), np.abs(bad["features"])
    bad["features"][7] *= -1
    data = store_shards(here.store, [good, bad])
    with pytest.raises(InputError, match=r"outputs.score: .*NaN or Inf for 1 samples of shard 00001, first sample 7"):
        run_reference(here, directory, data)
    assert not list((tmp_path / "store").glob("records/reference/*"))


def test_whole_numbers_and_booleans_keep_their_dtype(tmp_path: Path, here: InProcess) -> None:
    directory, features = write_directory(tmp_path, "names"), make_features()
    found = run_reference(here, directory, store_shards(here.store, [features])).result
    with np.load(here.store.fetch(found.outputs, tmp_path / "out") / "00000.npz") as outputs:
        assert {name: outputs[name].dtype.name for name in outputs.files} == {
            "level": "int64",
            "accept": "bool",
            "key": "int64",
        }
        expected = (features["features"][:, :2] * np.float32(100)).astype(np.int64) + 2**40
        np.testing.assert_array_equal(outputs["key"], expected)


@pytest.mark.parametrize("kind", ["embedding", "logits"])
def test_whole_numbers_of_another_kind_are_refused_in_words_that_say_what_to_write(
    tmp_path: Path, here: InProcess, kind: str
) -> None:
    outputs = {"level": {"kind": kind}, "accept": {"kind": "labels"}, "key": {"kind": "labels"}}
    directory = write_directory(tmp_path, "names", outputs=outputs)
    with pytest.raises(InputError, match=r"model.yaml: outputs.level: holds int64, .* write kind: labels"):
        run_reference(here, directory, store_shards(here.store, [make_features()]))


def test_whole_numbers_may_be_a_score(tmp_path: Path, here: InProcess) -> None:
    outputs = {"level": {"kind": "score", "range": [0, 23]}, "accept": {"kind": "labels"}, "key": {"kind": "labels"}}
    directory = write_directory(tmp_path, "names", outputs=outputs)
    assert run_reference(here, directory, store_shards(here.store, [make_features()])).result.outputs.files


def test_classes_whose_axis_is_not_said_are_refused_where_the_reference_is_known_too(
    tmp_path: Path, here: InProcess
) -> None:
    data = store_shards(here.store, [make_features()])

    def reference(name: str, **output: object) -> bool:
        (tmp_path / name).mkdir()
        directory = write_directory(tmp_path / name, "names", build="build_classes", outputs={"logits": output})
        return run_reference(here, directory, data).cached

    assert not reference("before", kind="tensor")
    with pytest.raises(InputError, match=r"outputs.logits: has 4 axes \[n, 4, 2, 3\].* write axis: 1 where"):
        reference("unsaid", kind="logits")
    assert reference("said", kind="logits", axis=1)
