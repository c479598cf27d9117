"""Pictures of lines with sums on them, printed and as by hand, from the typefaces that matplotlib ships.

A line as by hand has glyphs of several sizes that are turned, slanted and moved off the baseline, and uneven in
ink, and the line waves; a printed one stands straight. Both get blur and a sensor's noise.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from examples.line_reader.model import ALPHABET, HEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

HANDS = ("printed", "handwritten")
WIDTHS = (64, 96, 128, 192)
"""Columns of the shards; a line goes into the narrowest that holds it, with paper at its end."""
LONGEST = 14
"""Symbols of the longest line."""
STEPS = 15
"""Ink comes in so many steps, so that files are small."""
FONTS = {
    "printed": ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono"),
    "handwritten": ("DejaVuSans-Oblique", "STIXGeneralItalic", "DejaVuSerif-Italic"),
}
SIZE = 20
"""Pixels of a glyph's em at scale 1."""


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def write_sum(generator: Generator) -> str:
    """Return a sum, a difference or a product of two numbers, with or without its result."""
    a, b = (int(generator.integers(10 ** int(generator.integers(1, 4)))) for _ in range(2))
    sign = "+-x"[generator.integers(3)]
    text = f"{a}{sign}{b}"
    if generator.random() < 0.6:  # noqa: PLR2004  # more lines have a result than not
        text += f"={ {'+': a + b, '-': a - b, 'x': a * b}[sign] }".replace(" ", "")
    return text[:LONGEST]


def _glyph(generator: Generator, symbol: str, font: str, *, by_hand: bool) -> Image.Image:
    scale = generator.uniform(0.8, 1.1) if by_hand else 0.9
    typeface = _font(font, round(SIZE * scale))
    left, _, right, _ = typeface.getbbox(symbol)
    glyph = Image.new("L", (int(right - left) + 8, HEIGHT + 8))
    ImageDraw.Draw(glyph).text((4 - left, 4 + (HEIGHT + 8 - SIZE) // 4), symbol, fill=255, font=typeface)
    if not by_hand:
        return glyph
    slant = generator.normal(0, 0.12)
    sheared = glyph.transform(
        glyph.size,
        Image.Transform.AFFINE,
        (1, slant, -slant * HEIGHT / 2, 0, 1, generator.normal(0, 1.2)),
        Image.Resampling.BILINEAR,
    )
    return sheared.rotate(generator.normal(0, 6), Image.Resampling.BILINEAR)


def _wave(generator: Generator, ink: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move each column up or down along a slow wave."""
    columns = np.arange(ink.shape[1])
    shifts = np.rint(generator.uniform(0, 1.6) * np.sin(columns / generator.uniform(12, 30) + generator.uniform(0, 6)))
    rows = np.clip(np.arange(ink.shape[0])[:, None] + shifts[None].astype(int), 0, ink.shape[0] - 1)
    return ink[rows, columns[None]]


def write_line(generator: Generator, text: str, hand: str) -> NDArray[np.float32]:
    """Return the picture of a text, float32 [24, columns], 0 paper and 1 ink, paper on both sides."""
    by_hand = hand == "handwritten"
    font = str(generator.choice(FONTS[hand]))
    canvas = Image.new("L", (WIDTHS[-1] + 40, HEIGHT + 8))
    x = float(generator.integers(0, 4))
    for symbol in text:
        glyph = _glyph(generator, symbol, font, by_hand=by_hand)
        strength = generator.uniform(0.6, 1.0) if by_hand else 1.0
        place = (round(x), 0)
        under = canvas.crop((*place, place[0] + glyph.width, glyph.height))
        canvas.paste(
            Image.fromarray(np.maximum(np.asarray(under), (np.asarray(glyph) * strength).astype(np.uint8))), place
        )
        x += glyph.width - 8 + (generator.uniform(-0.5, 3.0) if by_hand else 1.0)
    blurred = canvas.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 0.8)))
    ink = np.asarray(blurred, dtype=np.float64)[6 : 6 + HEIGHT, : min(round(x) + 8, WIDTHS[-1])] / 255
    if by_hand:
        ink = _wave(generator, ink)
    noisy = ink * generator.uniform(0.7, 1.0) + np.abs(generator.normal(0, 0.03, ink.shape))
    return (np.rint(np.clip(noisy, 0, 1) * STEPS) / STEPS).astype(np.float32)


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``line`` float32 [1, 24, width], ``label`` int64 [14] filled up with -1, ``slice.hand``."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        hand = HANDS[number % len(HANDS)]
        text = write_sum(generator)
        ink = write_line(generator, text, hand)
        width = next(width for width in WIDTHS if width >= ink.shape[1])
        line = np.zeros((1, HEIGHT, width), dtype=np.float32)
        line[0, :, : ink.shape[1]] = ink
        label = np.full(LONGEST, -1, dtype=np.int64)
        label[: len(text)] = [1 + ALPHABET.index(symbol) for symbol in text]
        samples.append({"line": line, "label": label, "slice.hand": hand})
    return samples
