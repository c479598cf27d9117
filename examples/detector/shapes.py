"""Pictures with up to four discs, squares and triangles on a floor, by day or at dusk, and the boxes around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from examples.detector.model import CLASSES, SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

LIGHTS = ("day", "dusk")
MOST = 4
"""Objects in a picture, at most."""
STEPS = 15
"""Light comes in so many steps, so that files are small."""
OVERSAMPLING = 2
SMALLEST, LARGEST = 10, 26
"""Pixels of an object's sides."""


def _corners(generator: Generator, taken: Sequence[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """A free place for an object, or None: its centre is in no other and in no other's cell."""
    width, height = generator.uniform(SMALLEST, LARGEST, 2)
    left, top = generator.uniform(0, SIDE - width), generator.uniform(0, SIDE - height)
    box = np.array([left, top, left + width, top + height])
    for other in taken:
        low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
        if np.all(high - low > 2):  # noqa: PLR2004  # pixels that two objects may share
            return None
    return box


def _paint(canvas: ImageDraw.ImageDraw, name: str, box: NDArray[np.float64], colour: tuple[int, ...]) -> None:
    left, top, right, bottom = (box * OVERSAMPLING).tolist()
    if name == "disc":
        canvas.ellipse((left, top, right, bottom), fill=colour)
    elif name == "square":
        canvas.rectangle((left, top, right, bottom), fill=colour)
    else:
        canvas.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


def take_picture(generator: Generator, light: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a picture, float32 [3, 64, 64] in [0, 1], and its objects, float32 [4, 5] filled up with class -1."""
    floor = generator.integers(90, 190, 3)
    picture = Image.new("RGB", (SIDE * OVERSAMPLING,) * 2, tuple(floor.tolist()))
    canvas = ImageDraw.Draw(picture)
    label = np.full((MOST, 5), -1, dtype=np.float32)
    taken: list[NDArray[np.float64]] = []
    for _ in range(int(generator.integers(1, MOST + 1))):
        box = _corners(generator, taken)
        if box is None:
            continue
        number = int(generator.integers(len(CLASSES)))
        # Far from the floor's colour in at least one channel, or nobody could see it.
        darker = generator.random(3) < 0.5  # noqa: PLR2004  # each channel by the toss of a coin
        colour = np.where(darker, floor - generator.integers(60, 90), floor + generator.integers(40, 65))
        _paint(canvas, CLASSES[number], box, tuple(np.clip(colour, 0, 255).tolist()))
        label[len(taken)] = [*box, number]
        taken.append(box)
    light_of = generator.uniform(0.75, 1.0) if light == "day" else generator.uniform(0.35, 0.55)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255 * light_of
    pixels += generator.normal(0, 0.01 if light == "day" else 0.02, (SIDE, SIDE, 1))
    return (np.rint(np.clip(pixels, 0, 1) * STEPS) / STEPS).astype(np.float32).transpose(2, 0, 1), label


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``image`` float32 [3, 64, 64], ``label`` float32 [4, 5], ``slice.light``."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        light = LIGHTS[number % len(LIGHTS)]
        image, label = take_picture(generator, light)
        samples.append({"image": image, "label": label, "slice.light": light})
    return samples
