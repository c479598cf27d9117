"""Spoken words as log-mel frames, drawn without sound: phones with formants, speakers, rooms and streets.

A word is two to four phones, each with two formants and a loudness. Speakers differ in their vocal tract and tempo.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.whisper_encoder.model import MELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

NOISES = ("quiet", "street")
FRAMES = (48, 64, 96)
"""Frames of the shards; a clip goes into the shortest that holds it, with silence at its end."""
WORDS = 24
FLOOR = -1.0
"""What Whisper's extractor gives for silence."""
STEP = 0.125
"""Features come in these steps, so that files are small."""
PHONES = np.array([(8, 44), (12, 40), (20, 34), (24, 30), (14, 28), (10, 22), (5, 36), (28, 46), (50, 66), (58, 74)])
"""Mel bands of two formants; the last two hiss."""


def _dictionary() -> list[list[int]]:
    generator = np.random.default_rng(7)
    found: list[list[int]] = []
    while len(found) < WORDS:
        word = generator.integers(len(PHONES), size=int(generator.integers(2, 5))).tolist()
        if word not in found and all(a != b for a, b in pairwise(word)):
            found.append(word)
    return found


DICTIONARY = _dictionary()
"""The phones of each word."""


def say(generator: Generator, word: int, noise: str) -> NDArray[np.float32]:
    """Return a word as one speaker says it, float32 [80, frames]."""
    tract, tempo = generator.normal(1, 0.05), generator.uniform(0.75, 1.2)
    paths = []
    for phone in DICTIONARY[word]:
        frames = max(6, round(float(generator.normal(15, 2)) * tempo))
        target = PHONES[phone] * tract + generator.normal(0, 0.6, 2)
        paths.append(np.repeat(target[None], frames, 0))
    formants = np.concatenate(paths)
    # Formants glide from one phone to the next.
    padded = np.pad(formants, ((3, 3), (0, 0)), mode="edge")
    formants = np.stack([np.convolve(padded[:, axis], np.full(7, 1 / 7), "valid") for axis in (0, 1)], 1)
    bands = np.arange(MELS)[:, None]
    energy = sum(
        strength * np.exp(-(((bands - formants[None, :, axis]) / 4.0) ** 2)) for axis, strength in ((0, 2.0), (1, 1.5))
    )
    edge = np.minimum(1.0, np.minimum(np.arange(energy.shape[1]), np.arange(energy.shape[1])[::-1]) / 4 + 0.25)
    clip = FLOOR + energy * edge * generator.uniform(0.8, 1.1)
    if noise == "street":
        rumble = FLOOR + generator.uniform(0.3, 0.9) * np.exp(-bands / generator.uniform(10, 30))
        clip = np.maximum(clip, rumble + generator.normal(0, 0.06, clip.shape))
    return np.asarray(np.rint(np.clip(clip, FLOOR, 1.5) / STEP) * STEP, dtype=np.float32)


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``input_features`` float32 [80, frames], ``slice.noise``, and the word, which is not shipped."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        noise = NOISES[number % len(NOISES)]
        word = int(generator.integers(WORDS))
        clip = say(generator, word, noise)[:, : FRAMES[-1]]
        frames = next(frames for frames in FRAMES if frames >= clip.shape[1])
        features = np.pad(clip, ((0, 0), (0, frames - clip.shape[1])), constant_values=FLOOR)
        samples.append({"input_features": features, "_word": np.int64(word), "slice.noise": noise})
    return samples
