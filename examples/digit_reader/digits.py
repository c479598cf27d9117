"""Pictures of digits: scikit-learn's handwriting and digits set in type, each as a camera would see it.

Ink comes first, as the share of each pixel that it covers; then paper, light, lens and sensor make a picture of it.
Print is taken as a book under a desk lamp: much ink, little light. Handwriting is taken as homework in daylight: any
pen from a pencil on, and light that may come to the sensor's limit. Both are drawn from seeds, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIZE = 32
"""Pixels of a picture's side."""

CLASSES = 10

HANDWRITTEN_DIGITS = 1797
"""As many as scikit-learn has."""

PRINTED, HANDWRITTEN = "printed", "handwritten"
SCRIPTS = (PRINTED, HANDWRITTEN)

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
)
"""Typefaces that matplotlib ships, so that no font of the system is needed."""

OVERSAMPLING = 4
"""Pixels, along each axis, that type is drawn with for each pixel of a picture."""

GREYS = 256
"""Steps of luminance from 0 to 1. Multiples of 1/256 are exact in float32."""


@dataclass(frozen=True)
class Capture:
    """How pictures of one script are taken: the lowest and highest value of what is drawn for each picture.

    ``paper`` is the paper's luminance in the middle; ``gradient`` the relative change of light from there to an edge;
    ``ink`` the share of light that ink takes away; ``blur`` a standard deviation in pixels; ``noise`` one of luminance.
    """

    paper: tuple[float, float]
    gradient: tuple[float, float]
    ink: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]


CAPTURES = {
    PRINTED: Capture(paper=(0.15, 0.55), gradient=(0.0, 0.15), ink=(0.6, 0.95), blur=(0.2, 0.8), noise=(0.005, 0.015)),
    HANDWRITTEN: Capture(paper=(0.4, 1.0), gradient=(0.0, 0.3), ink=(0.2, 0.9), blur=(0.2, 0.8), noise=(0.005, 0.02)),
}


@dataclass(frozen=True)
class Digit:
    """One picture, float32 [32, 32] in [0, 1] in multiples of 1/256, with what it shows."""

    image: NDArray[np.float32]
    label: int
    script: str


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def set_in_type(digit: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the ink of a digit in a random typeface, size, angle and place: float32 [32, 32], 0 to 1."""
    side = SIZE * OVERSAMPLING
    font = _font(FONTS[rng.integers(len(FONTS))], int(rng.integers(16, 33)) * OVERSAMPLING)
    canvas = Image.new("L", (side, side))
    centre = side / 2 + rng.uniform(-3, 3, size=2) * OVERSAMPLING
    left, top, right, bottom = font.getbbox(str(digit))
    corner = (centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, str(digit), fill=255, font=font)
    canvas = canvas.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255


def write_by_hand(strokes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the ink of a handwritten digit [8, 8], 0 to 1, enlarged to float32 [32, 32].

    Bilinear, so that no grey level comes up that was not between its neighbours; turned, slanted, scaled and shifted a
    little, since one picture of a page is never like the next.
    """
    angle, slant = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(-0.15, 0.15)
    pixels = SIZE / strokes.shape[0] * rng.uniform(0.8, 1.05)  # of the picture for each of the original
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, 0.0], [slant, 1.0]]) / pixels
    middle = np.full(2, (SIZE - 1) / 2) + rng.uniform(-2, 2, size=2)
    offset = (np.array(strokes.shape) - 1) / 2 - matrix @ middle
    return ndimage.affine_transform(strokes, matrix, offset, (SIZE, SIZE), order=1, mode="grid-constant")  # type: ignore[no-any-return]  # untyped


def photograph(ink: NDArray[np.float32], capture: Capture, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the picture that a camera takes of ``ink`` [32, 32] on paper: float32 [32, 32] in [0, 1]."""
    axis = np.linspace(-1, 1, SIZE)
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * axis[:, None] + np.sin(direction) * axis[None, :]
    light = rng.uniform(*capture.paper) * (1 + rng.uniform(*capture.gradient) * slope)
    scene = ndimage.gaussian_filter(light * (1 - rng.uniform(*capture.ink) * ink), rng.uniform(*capture.blur))
    seen = scene + rng.normal(0, rng.uniform(*capture.noise), size=scene.shape)
    return (np.round(np.clip(seen, 0, 1) * GREYS) / GREYS).astype(np.float32)


def print_digits(seed: Sequence[int], count: int) -> list[Digit]:
    """Return printed digits, as many of each class as ``count`` allows. The same seed gives the same pictures."""
    rng = np.random.default_rng(seed)
    labels = [number % CLASSES for number in range(count)]
    return [Digit(photograph(set_in_type(label, rng), CAPTURES[PRINTED], rng), label, PRINTED) for label in labels]


@dataclass(frozen=True)
class Handwriting:
    """Digits as people wrote them, float32 [n, 8, 8] from 0 (paper) to 1 (ink), with their classes [n]."""

    strokes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def photographed(self, seed: Sequence[int], times: int = 1) -> list[Digit]:
        """Return ``times`` pictures of every digit, each time in other light and place."""
        rng = np.random.default_rng(seed)
        return [
            Digit(photograph(write_by_hand(strokes, rng), CAPTURES[HANDWRITTEN], rng), int(label), HANDWRITTEN)
            for _ in range(times)
            for strokes, label in zip(self.strokes, self.labels, strict=True)
        ]


def share_out(seed: Sequence[int], sizes: Sequence[int]) -> list[Handwriting]:
    """Deal scikit-learn's handwritten digits out to sets of ``sizes``, and the rest to one more, at the end.

    No digit is in two sets, and every set has each class as often as its size allows, give or take one.

    Raises:
        ValueError: there are not so many digits.
    """
    source = load_digits()
    strokes, labels = (source.images / 16).astype(np.float32), source.target.astype(np.int64)
    if sum(sizes) >= len(labels):
        message = f"{sum(sizes)} of {len(labels)} handwritten digits are held back, none is left to train on; take less"
        raise ValueError(message)
    order = np.random.default_rng(seed).permutation(len(labels))
    # Dealt class by class in turn: the k-th digit of each class, then the next of each.
    turns = np.empty(len(labels), dtype=np.int64)
    for label in range(CLASSES):
        members = np.flatnonzero(labels[order] == label)
        turns[members] = np.arange(len(members))
    order = order[np.lexsort((labels[order], turns))]
    parts = np.split(order, np.cumsum(sizes))
    return [Handwriting(strokes[part], labels[part]) for part in parts]
