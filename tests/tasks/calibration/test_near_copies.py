from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.calibration.near_copies import NEAR, find_near_copies
from tasks.declared import InputSpec
from tasks.samples.npz import save_shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.calibration.near_copies import NearCopies
    from tasks.samples.npz import Arrays

VECTORS = {"x": {"dtype": "float32", "shape": ["batch", 16]}}
SPEECH = {
    "mel": {"dtype": "float32", "shape": ["batch", "frames", 8]},
    "mask": {"dtype": "float32", "shape": ["batch", "frames"]},
}
MARKED = VECTORS | {"ids": {"dtype": "int64", "shape": ["batch", "length"]}}


def find(folder: Path, ours: Sequence[Arrays], theirs: Sequence[Arrays], inputs: dict[str, Any]) -> NearCopies:
    for name, shards in {"ours": ours, "theirs": theirs}.items():
        (folder / name).mkdir()
        for number, shard in enumerate(shards):
            save_shard(folder / name, number, shard)
    specs = {name: InputSpec.model_validate(spec) for name, spec in inputs.items()}
    return find_near_copies(folder / "ours", folder / "theirs", specs, "batch")


def normal(count: int, seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def noisy(array: np.ndarray[Any, Any], size: float) -> np.ndarray[Any, Any]:
    return (array + np.random.default_rng(9).normal(0, size, array.shape)).astype(np.float32)


def speech(count: int, seed: int, frames: int) -> Arrays:
    rng = np.random.default_rng(seed)
    mask = (np.arange(frames) < rng.integers(frames // 2, frames + 1, count)[:, None]).astype(np.float32)
    return {"mel": (rng.normal(-4, 2, (count, frames, 8)) * mask[..., None]).astype(np.float32), "mask": mask}


@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4])
def test_validation_samples_with_a_little_noise_are_found_in_both_directions(tmp_path: Path, noise: float) -> None:
    theirs = normal(400, 1, 16)
    copies = noisy(theirs[[7, 300, 300]], noise)
    ours = np.concatenate([normal(30, 2, 16), copies])
    found = find(tmp_path, [{"x": ours[:20]}, {"x": ours[20:]}], [{"x": theirs[:150]}, {"x": theirs[150:]}], VECTORS)
    assert (found.ours, found.theirs) == ((30, 31, 32), (7, 300))
    assert found.within <= NEAR


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_samples_of_the_same_distribution_are_no_copies_however_few_numbers_they_are(
    tmp_path: Path, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = {"x": {"dtype": "float32", "shape": ["batch", width]}}
    for number, draw in enumerate((rng.normal, rng.exponential, rng.standard_cauchy, rng.lognormal)):
        theirs, ours = (draw(size=(count, width)).astype(np.float32) for count in (1000, 200))
        (tmp_path / str(number)).mkdir()
        assert find(tmp_path / str(number), [{"x": ours}], [{"x": theirs}], inputs).ours == ()


def test_a_copy_is_found_in_a_shard_of_another_length_with_noise_in_its_padding_and_mask(tmp_path: Path) -> None:
    theirs = [speech(40, 1, 30), speech(40, 2, 50)]
    copies = {
        name: np.pad(array[:5], [(0, 0), (0, 12), *[(0, 0)] * (array.ndim - 2)]) for name, array in theirs[0].items()
    }
    ours = [speech(40, 3, 40), {name: noisy(array, 1e-5) for name, array in copies.items()}]
    found = find(tmp_path, ours, theirs, SPEECH)
    assert (found.ours, found.theirs) == (tuple(range(40, 45)), tuple(range(5)))


def test_pixels_that_never_vary_hide_no_copy(tmp_path: Path) -> None:
    theirs = normal(200, 1, 16)
    theirs[:, :10] = 3.0
    found = find(tmp_path, [{"x": noisy(theirs[:4], 1e-5)}], [{"x": theirs}], VECTORS)
    assert found.ours == (0, 1, 2, 3)


def test_whole_numbers_must_be_the_same(tmp_path: Path) -> None:
    theirs = {"x": normal(100, 1, 16), "ids": np.random.default_rng(1).integers(0, 50, (100, 6))}
    ours = {"x": noisy(theirs["x"][:4], 1e-5), "ids": theirs["ids"][:4].copy()}
    ours["ids"][2, 3] += 1
    assert find(tmp_path, [ours], [theirs], MARKED).ours == (0, 1, 3)


def test_without_floats_there_is_nothing_to_look_for(tmp_path: Path) -> None:
    ids = {"ids": np.arange(12).reshape(4, 3)}
    assert find(tmp_path, [ids], [ids], {"ids": MARKED["ids"]}).ours == ()
