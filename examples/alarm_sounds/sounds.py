"""Sounds before a background, loud or soft: computed waves, and the energies of their bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from examples.alarm_sounds.model import BANDS, SOUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    Wave = NDArray[np.float64]

BACKGROUNDS = ("room", "rain", "traffic")
FRAMES = (64, 96)
RATE, HOP, WINDOW = 8000, 128, 256
"""Samples of a second, of the step between two frames, and of a frame."""
LOUDNESS = (0.003, 0.1)
"""Root mean square of a background, drawn so that each tenfold is as likely."""
BEEP = 0.48
"""Share of a quarter second that the smoke alarm sounds."""
STEPS = 8
"""Energies are rounded to this share of one, so that files are small."""


def _noise(generator: Generator, size: int, low: float, high: float) -> Wave:
    """White noise between two frequencies in hertz, of RMS 1."""
    spectrum = np.fft.rfft(generator.normal(size=size))
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    wave = np.fft.irfft(np.where((frequencies >= low) & (frequencies <= high), spectrum, 0), size)
    return wave / np.sqrt(np.mean(wave**2))


def _background(generator: Generator, size: int, name: str) -> Wave:
    time = np.arange(size) / RATE
    if name == "rain":
        return _noise(generator, size, 1000, 4000)
    if name == "traffic":
        swell = 1 + 0.5 * np.sin(2 * np.pi * (0.4 * time + generator.random()))
        return _noise(generator, size, 20, 500) * swell
    return _noise(generator, size, 20, 4000) * 0.5 + np.sin(2 * np.pi * generator.uniform(90, 130) * time)


def _tone(time: Wave, frequency: float, start: float, decay: float) -> Wave:
    since = time - start
    return np.where(since >= 0, np.sin(2 * np.pi * frequency * since) * np.exp(-np.maximum(since, 0) / decay), 0)


def _event(generator: Generator, size: int, name: str) -> Wave:
    time, start = np.arange(size) / RATE, float(generator.uniform(0.15, 0.45))
    if name == "smoke_alarm":
        beeps = ((4 * (time - start)) % 1 < BEEP) & (time >= start)
        return np.sin(2 * np.pi * generator.uniform(2900, 3300) * time) * beeps
    if name == "siren":
        pitch = 900 + 350 * np.sin(2 * np.pi * generator.uniform(1.5, 3) * time + generator.uniform(0, 6))
        return np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * (time >= start)
    if name == "doorbell":
        high = generator.uniform(640, 700)
        return _tone(time, high, start, 0.25) + _tone(time, high * 0.8, start + 0.3, 0.3)
    if name == "breaking_glass":
        since = np.maximum(time - start, 0)
        return _noise(generator, size, 1800, 4000) * np.exp(-since / generator.uniform(0.06, 0.15)) * (time >= start)
    gap = generator.uniform(0.13, 0.19)
    return sum((_tone(time, generator.uniform(110, 190), start + gap * knock, 0.03) for knock in range(3)), 0 * time)


def _filters() -> Wave:
    """Triangles on a scale that is linear and then logarithmic: [bands, frequencies]."""
    top = np.log1p(RATE / 2 / 400)
    edges = 400 * np.expm1(np.linspace(np.log1p(60 / 400), top, BANDS + 2))
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    found = np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle))
    return np.maximum(found, 0) + 1e-3  # no band is empty, however narrow


FILTERS = _filters()


def energies_of(wave: Wave, frames: int) -> NDArray[np.float32]:
    """Log energies of a wave by band and frame, float32 [24, frames]."""
    starts = np.arange(frames)[:, None] * HOP + np.arange(WINDOW)
    power = np.abs(np.fft.rfft(wave[starts] * np.hanning(WINDOW))) ** 2
    return (np.rint(np.log(FILTERS @ power.T + 1e-6) * STEPS) / STEPS).astype(np.float32)


def record(generator: Generator, sound: str, background: str, frames: int) -> NDArray[np.float32]:
    """Return the energies of one recording, float32 [24, frames]."""
    size = (frames - 1) * HOP + WINDOW
    loudness = float(np.exp(generator.uniform(*np.log(LOUDNESS))))
    wave = _background(generator, size, background) * loudness
    if sound != "nothing":
        wave = wave + _event(generator, size, sound) * loudness * generator.uniform(2, 6)
    return energies_of(wave, frames)


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``energies`` float32 [24, 64 or 96], ``label``, ``slice.background``."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label, background = int(generator.integers(len(SOUNDS))), BACKGROUNDS[number % len(BACKGROUNDS)]
        energies = record(generator, SOUNDS[label], background, int(generator.choice(FRAMES)))
        samples.append({"energies": energies, "label": np.int64(label), "slice.background": background})
    return samples
