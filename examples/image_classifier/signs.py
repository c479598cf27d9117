"""Pictures of road signs before a landscape, by day, at dusk and at night in the light of a car."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from examples.image_classifier.model import SIDE, SIGNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

LIGHTS = ("day", "dusk", "night")
STEPS = 15
"""Light comes in so many steps, so that files are small."""
FACE, OVERSAMPLING = 256, 2
"""Pixels of a sign's sides as it is painted, and how many of these go into one that is then turned."""
SMALLEST, LARGEST = 22, 54
"""Pixels of a sign's sides in a picture."""
RED, BLUE, YELLOW, WHITE, BLACK = (190, 20, 35), (20, 70, 160), (240, 190, 20), (240, 240, 240), (15, 15, 15)
BRIGHTNESS = {"day": (0.75, 1.0), "dusk": (0.35, 0.5), "night": (0.5, 0.85)}
SURROUNDINGS = {"day": 1.0, "dusk": 1.0, "night": 0.12}
"""How bright what is around the sign is, beside the sign: a car lights up the sign alone."""
NOISE = {"day": 0.02, "dusk": 0.04, "night": 0.04}

Points = list[tuple[float, float]]


def _polygon(corners: int, turn: float, radius: float = 122) -> Points:
    angles = 2 * np.pi * (np.arange(corners) / corners + turn)
    return [(FACE / 2 + radius * np.sin(angle), FACE / 2 - radius * np.cos(angle)) for angle in angles.tolist()]


def _disc(canvas: ImageDraw.ImageDraw, radius: float, colour: tuple[int, ...], x: float = 128, y: float = 128) -> None:
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _write(canvas: ImageDraw.ImageDraw, text: str, size: int, colour: tuple[int, ...]) -> None:
    font = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", size)
    canvas.text((FACE / 2, FACE / 2), text, fill=colour, font=font, anchor="mm")


def _ring(canvas: ImageDraw.ImageDraw, text: str = "") -> None:
    _disc(canvas, 122, RED)
    _disc(canvas, 92, WHITE)
    _write(canvas, text, 100, BLACK)


def _arrow(canvas: ImageDraw.ImageDraw, way: int) -> None:
    _disc(canvas, 122, BLUE)
    tip, neck, tail = (FACE / 2 + way * far for far in (85, 15, -75))
    head = [(tip, 128.0), (neck, 68.0), (neck, 188.0)]
    canvas.polygon(head, fill=WHITE)
    canvas.line((tail, 128, neck, 128), fill=WHITE, width=44)


def _triangle(canvas: ImageDraw.ImageDraw, turn: float) -> None:
    canvas.polygon(_polygon(3, turn), fill=RED)
    canvas.polygon(_polygon(3, turn, 78), fill=WHITE)


def _paint(canvas: ImageDraw.ImageDraw, name: str) -> None:
    match name.split("_"):
        case ["stop"]:
            canvas.polygon(_polygon(8, 1 / 16), fill=RED)
            _write(canvas, "STOP", 74, WHITE)
        case ["give", _]:
            _triangle(canvas, 1 / 2)
        case ["danger"]:
            _triangle(canvas, 0)
            canvas.line((128, 88, 128, 138), fill=BLACK, width=20)
            _disc(canvas, 11, BLACK, y=156)
        case ["no", "entry"]:
            _disc(canvas, 122, RED)
            canvas.rectangle((42, 106, 214, 150), fill=WHITE)
        case ["no", _]:
            _ring(canvas)
            _disc(canvas, 30, RED, x=92)
            _disc(canvas, 30, BLACK, x=164)
        case ["speed", limit]:
            _ring(canvas, limit)
        case ["turn", side]:
            _arrow(canvas, -1 if side == "left" else 1)
        case ["priority"]:
            canvas.polygon(_polygon(4, 0), fill=WHITE)
            canvas.polygon(_polygon(4, 0, 96), fill=YELLOW)
        case _:
            canvas.rectangle((14, 14, 242, 242), fill=BLUE)
            _write(canvas, "P", 190, WHITE)


@cache
def _face(name: str) -> Image.Image:
    face = Image.new("RGBA", (FACE, FACE), (0, 0, 0, 0))
    _paint(ImageDraw.Draw(face), name)
    return face.resize((FACE // OVERSAMPLING,) * 2, Image.Resampling.BOX)


def _landscape(generator: Generator) -> Image.Image:
    blotches = generator.integers(30, 200, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def take_picture(generator: Generator, name: str, light: str) -> NDArray[np.float32]:
    """Return a picture of a sign, float32 [3, 64, 64] in [0, 1]."""
    width, height = generator.integers(SMALLEST, LARGEST, 2)
    turned = _face(name).rotate(float(generator.normal(0, 6)), Image.Resampling.BILINEAR)
    sign = turned.resize((int(width), int((width + height) / 2)), Image.Resampling.BOX)
    layer = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    layer.paste(sign, tuple(int(generator.integers(0, SIDE - side + 1)) for side in sign.size))
    if light != "day":  # exposed for longer, from a car that moves
        layer = layer.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.2, 0.9))))
    shown, mask = (np.asarray(layer, dtype=np.float64)[:, :, channels] / 255 for channels in (slice(3), slice(3, 4)))
    around = np.asarray(_landscape(generator), dtype=np.float64) / 255 * SURROUNDINGS[light]
    pixels = (shown * mask + around * (1 - mask)) * generator.uniform(*BRIGHTNESS[light])
    pixels += generator.normal(0, NOISE[light], (SIDE, SIDE, 1))
    return (np.rint(np.clip(pixels, 0, 1) * STEPS) / STEPS).astype(np.float32).transpose(2, 0, 1)


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``image`` float32 [3, 64, 64], ``label``, ``slice.light``."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label, light = int(generator.integers(len(SIGNS))), LIGHTS[number % len(LIGHTS)]
        image = take_picture(generator, SIGNS[label], light)
        samples.append({"image": image, "label": np.int64(label), "slice.light": light})
    return samples
