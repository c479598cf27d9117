"""Near repeats are found among all kinds of inputs, and other samples are not taken for them."""

import numpy as np
import pytest

from validation.near_repeats import NearRepeats

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.random((200, 3, 16, 16)).astype(np.float32)
SOUNDS = np.cumsum(RANDOM.standard_normal((200, 4_000)), axis=1)


def count(inputs: dict[str, np.ndarray], keys: np.ndarray | None = None, cuts: tuple[int, ...] = ()) -> int:
    found, samples = NearRepeats(), len(next(iter(inputs.values())))
    for part in np.split(np.arange(samples), cuts):
        found.add(
            {name: array[part] for name, array in inputs.items()},
            (np.zeros(samples, np.uint64) if keys is None else keys)[part],
        )
    return found.count


@pytest.mark.parametrize("samples", [IMAGES, SOUNDS, SOUNDS + 1e4, RANDOM.standard_normal((200, 8))])
def test_different_samples_are_not_near(samples: np.ndarray) -> None:
    assert count({"x": samples}) == 0


@pytest.mark.parametrize("samples", [IMAGES, SOUNDS])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_copies_with_a_little_noise_are_near(samples: np.ndarray, noise: float) -> None:
    copies = samples[:60] + noise * np.ptp(samples) * RANDOM.standard_normal(samples[:60].shape)
    assert count({"x": np.concatenate([samples, copies])}, cuts=(7, 230)) == 60


def test_one_sample_with_a_little_noise_is_near_itself_throughout() -> None:
    one = np.repeat(SOUNDS[:1], 50, axis=0)
    assert count({"x": one + 1e-5 * np.ptp(one) * RANDOM.standard_normal(one.shape)}) == 49


def test_samples_that_differ_in_another_input_are_not_near() -> None:
    twice = np.concatenate([IMAGES[:50], IMAGES[:50]])
    other = RANDOM.random((100, 2))
    assert count({"x": twice}) == 50
    assert count({"x": twice, "other": other}) == 0
    assert count({"x": twice}, keys=np.arange(100).astype(np.uint64)) == 0


def test_a_few_numbers_are_near_each_other_by_chance_and_are_not_looked_at() -> None:
    assert count({"x": RANDOM.random((3_000, 1))}) == 0


def test_columns_of_a_table_count_alike_however_large_their_numbers_are() -> None:
    table = RANDOM.random((300, 12))
    table[:, 0] = np.repeat([0, 1e6, 3e6], 100)
    assert count({"x": table}, cuts=(130,)) == 0, "the other columns differ"
    assert count({"x": np.concatenate([table, table[:20] + 1e-6 * RANDOM.random((20, 12))])}) == 20
    assert count({"x": np.concatenate([table, table[:20] + np.append(0, np.full(11, 0.05))])}) == 0
