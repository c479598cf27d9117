"""Seeded generator of spoken answers as log-mel frames, at known pronunciation and fluency, in three noise conditions.

An answer has two latent qualities in [0, 1]. Pronunciation decides how near each phone's formants come to their
targets, how crisp its stops and fricatives are; fluency decides on rate, pauses, fillers and repeated beginnings of
words. Overall is their weighted mean. Each answer shows its speaker's qualities only with some error, and a short one
shows little of them, so that no listener can be right about all. NumPy alone; there is no waveform: a phone is a
spectral envelope over the mel bands, moved by formants, pitch and energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Power = NDArray[np.float64]
    """Energy by frame and mel band, [frames, 80], linear."""

LEVELS = (1, 2, 3, 4, 5)
"""Fifths of the overall score."""
NOISES = ("quiet", "classroom", "street")
OVERALL_WEIGHTS = (0.5, 0.5)
"""Shares of pronunciation and fluency in the overall score."""

MELS = 80
MIN_FRAMES, MAX_FRAMES = 90, 600
"""Frames of 10 ms in a clip."""
RANGE_DB = 50.0
"""What lies more than this below the loudest band of a clip is cut off, as recorders and feature extractors do."""
UNIT_DB = 10.0
STEP = 0.25
"""Features are multiples of this, in units of 10 dB: finer steps would only make the files larger."""

_TOP_HZ = 8000.0
_LATENT_SPREAD = 0.22
"""Deviation of one quality from the overall score."""
_FORM_SPREAD = 0.06
"""Deviation of what one answer shows from what its speaker can do: the part of a score that no listener can tell."""
_NEUTRAL_HZ = (500.0, 1500.0, 2500.0)
"""Formants of the neutral vowel, to which careless and learners' vowels are drawn."""
_TILT_DB = (0.0, -6.0, -14.0)
"""Level of the three formants."""
_SILENCE_DB = -90.0


@dataclass(frozen=True)
class Phone:
    """A phone's target: formants in Hz, their width in mel bands, level in dB, voicing, length in frames.

    A phone with ``burst`` is a stop: a closure, then a burst of this many frames.
    """

    formants: tuple[float, float, float]
    width: float
    level_db: float
    voiced: bool
    frames: float
    burst: int = 0


VOWELS = (
    # Formants of men's vowels: Peterson and Barney, "Control methods used in a study of the vowels" (1952), table II.
    Phone((270, 2290, 3010), 1.6, 0, True, 9),
    Phone((390, 1990, 2550), 1.6, 0, True, 7),
    Phone((530, 1840, 2480), 1.6, 0, True, 8),
    Phone((660, 1720, 2410), 1.6, 0, True, 10),
    Phone((730, 1090, 2440), 1.6, 0, True, 10),
    Phone((570, 840, 2410), 1.6, 0, True, 10),
    Phone((440, 1020, 2240), 1.6, 0, True, 8),
    Phone((300, 870, 2240), 1.6, 0, True, 9),
    Phone((640, 1190, 2390), 1.6, 0, True, 7),
    Phone((490, 1350, 1690), 1.6, 0, True, 9),
)
CONSONANTS = (
    Phone((5000, 6000, 7000), 3.0, -8, False, 9),  # s
    Phone((2600, 3600, 4800), 3.0, -8, False, 9),  # sh
    Phone((3000, 5500, 7500), 7.0, -20, False, 8),  # f
    Phone((250, 1000, 2200), 2.0, -10, True, 6),  # m
    Phone((250, 1500, 2600), 2.0, -10, True, 6),  # n
    Phone((360, 1300, 2700), 2.0, -7, True, 6),  # l
    Phone((310, 1060, 1380), 2.0, -7, True, 6),  # r
    Phone((700, 1000, 1500), 4.0, -8, False, 7, burst=2),  # p
    Phone((3500, 4500, 6000), 4.0, -8, False, 7, burst=2),  # t
    Phone((1500, 2200, 3200), 3.0, -8, False, 7, burst=3),  # k
)
NEUTRAL = Phone(_NEUTRAL_HZ, 1.6, -2, True, 30)
"""The filled pause, "uh"."""


@dataclass(frozen=True)
class Clip:
    """One answer: ``mel`` float32 [frames, 80], noise condition, level (1 to 5) and latent qualities in [0, 1]."""

    mel: NDArray[np.float32]
    noise: str
    level: int
    pronunciation: float
    fluency: float

    @property
    def overall(self) -> float:
        """The overall score, in [0, 1]."""
        return overall_of(self.pronunciation, self.fluency)


@dataclass(frozen=True)
class Voice:
    """A speaker: formants relative to the table's, pitch in Hz, tempo relative to the usual one."""

    tract: float
    pitch_hz: float
    tempo: float


def overall_of(pronunciation: float, fluency: float) -> float:
    """Return the overall score, in [0, 1], that qualities in [0, 1] amount to."""
    return OVERALL_WEIGHTS[0] * pronunciation + OVERALL_WEIGHTS[1] * fluency


def level_of(overall: float) -> int:
    """Return the level, 1 to 5, of an overall score in [0, 1]."""
    return min(1 + int(overall * len(LEVELS)), LEVELS[-1])


def draw_qualities(rng: np.random.Generator, level: int) -> tuple[float, float]:
    """Draw pronunciation and fluency that amount to ``level``, unlike each other (rejection sampling)."""
    while True:
        centre = (level - 1 + rng.uniform()) / len(LEVELS)
        pronunciation, fluency = np.clip(centre + rng.normal(0.0, _LATENT_SPREAD, size=2), 0.0, 1.0)
        if level_of(overall_of(pronunciation, fluency)) == level:
            return float(pronunciation), float(fluency)


def draw_voice(rng: np.random.Generator) -> Voice:
    """Draw a speaker."""
    tract = rng.uniform(0.9, 1.2)
    # A shorter tract has a higher voice: men about 110 Hz, women about 210 Hz, with much overlap.
    return Voice(tract, 110 * 2 ** rng.normal(4 * (tract - 0.95), 0.2), rng.uniform(0.9, 1.1))


def to_band(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the positions on the mel scale (O'Shaughnessy 1987), counted in the 80 bands, of frequencies in Hz."""
    return np.asarray(MELS * np.log1p(hertz / 700) / np.log1p(_TOP_HZ / 700) - 0.5)


def band_centres() -> NDArray[np.float64]:
    """Return the centre of each band in Hz, float64 [80]."""
    return np.asarray(700 * np.expm1((np.arange(MELS) + 0.5) / MELS * np.log1p(_TOP_HZ / 700)))


class _Speaker:
    """Utters words with the given qualities: a list of segments, then their energy by frame and band."""

    def __init__(self, rng: np.random.Generator, pronunciation: float, fluency: float) -> None:
        self.rng = rng
        shown = np.clip(np.array([pronunciation, fluency]) + rng.normal(0.0, _FORM_SPREAD, size=2), 0.0, 1.0)
        self.slur, self.halt = (float(value) for value in 1 - shown)
        self.voice = draw_voice(rng)
        self.durations: list[int] = []
        # By segment: three formants in bands, width in bands, level in dB, voiced 0 or 1.
        self.rows: list[tuple[float, float, float, float, float, float]] = []

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, bands: NDArray[np.float64], width: float, level_db: float, *, voiced: bool, frames: float) -> None:
        self.rows.append((bands[0], bands[1], bands[2], width, level_db, float(voiced)))
        self.durations.append(max(1, round(frames)))

    def pause(self, frames: float) -> None:
        self.add(to_band(np.array(_NEUTRAL_HZ)), 2.0, _SILENCE_DB, voiced=False, frames=frames)

    def say(self, phone: Phone) -> None:
        """Utter a phone as this speaker pronounces it."""
        hertz = np.array(phone.formants) * self.voice.tract
        bands = to_band(hertz)
        if phone.voiced:
            bands += 0.6 * self.slur * (to_band(np.array(_NEUTRAL_HZ) * self.voice.tract) - bands)
        else:
            bands -= 5 * self.slur  # a dull fricative
        bands += self.rng.normal(0.0, 0.5 + 2.0 * self.slur, size=3)
        tempo = self.voice.tempo * (1 + 0.7 * self.halt) * self.rng.uniform(0.8, 1.2)
        width = phone.width * (1 + 0.8 * self.slur)
        if phone.burst:
            self.pause(0.6 * phone.frames * tempo)
            level = phone.level_db - 14 * self.slur  # a stop without its release
            self.add(bands, width, level, voiced=False, frames=phone.burst)
        else:
            self.add(bands, width, phone.level_db, voiced=phone.voiced, frames=phone.frames * tempo)

    def word(self) -> None:
        """Utter one to three syllables, and before and after them what a halting speaker does."""
        syllables = [
            [CONSONANTS[self.rng.integers(len(CONSONANTS))], VOWELS[self.rng.integers(len(VOWELS))]]
            for _ in range(self.rng.integers(1, 4))
        ]
        if self.chance(0.30 * self.halt):
            self.add(to_band(np.array(_NEUTRAL_HZ) * self.voice.tract), 1.6, -3, voiced=True, frames=25)
            self.pause(6)
        if self.chance(0.25 * self.halt):
            for phone in syllables[0]:
                self.say(phone)
            self.pause(5)
        for phone in (phone for syllable in syllables for phone in syllable):
            self.say(phone)
        if self.chance(0.06 + 0.5 * self.halt):
            self.pause(8 + 30 * self.halt * self.rng.random())

    def utter(self, frames: int) -> Power:
        """Speak for ``frames`` frames."""
        self.pause(self.rng.uniform(3, 12))
        while sum(self.durations) < frames:
            self.word()
        tracks = np.repeat(np.array(self.rows), self.durations, axis=0)[:frames]
        # Articulators move slowly: formants and widths over 5 frames, levels over 3.
        formants, width = _smooth(tracks[:, :3], 5), _smooth(tracks[:, 3:4], 5)
        level_db = _smooth(tracks[:, 4:5], 3) + self._melody(frames, 3.0)
        pitch_hz = self.voice.pitch_hz * 2 ** (self._melody(frames, 0.25) * (1 - 0.5 * self.halt))
        bands = np.arange(MELS)
        power = np.zeros((frames, MELS))
        for number, tilt_db in enumerate(_TILT_DB):
            distance = (bands - formants[:, number : number + 1]) / width
            # Fricatives and bursts have no tilt: their bands are one noise.
            gain = 10 ** ((level_db + tilt_db * tracks[:, 5:6]) / 10)
            power += gain * np.exp(-0.5 * distance**2)
        return power * self._harmonics(pitch_hz, tracks[:, 5:6])

    def _melody(self, frames: int, size: float) -> NDArray[np.float64]:
        """A contour that wanders over about 0.5 s and falls over the clip, [frames, 1]."""
        knots = self.rng.normal(0.0, size / 2, size=frames // 50 + 2)
        falling = np.linspace(size / 2, -size / 2, frames)
        return np.asarray(np.interp(np.arange(frames) / 50, np.arange(len(knots)), knots) + falling)[:, None]

    def _harmonics(self, pitch_hz: NDArray[np.float64], voiced: NDArray[np.float64]) -> Power:
        """The ripple of the harmonics, which narrow low bands resolve and wide high ones do not."""
        hertz = band_centres()
        ripple = 0.8 * np.exp(-hertz / 600) * np.cos(2 * np.pi * hertz / pitch_hz)
        return np.asarray(1 + voiced * ripple)


def _smooth(tracks: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Running mean over an odd number of frames of each column of ``tracks`` [n, columns]."""
    padded = np.pad(tracks, ((frames // 2, frames // 2), (0, 0)), mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, frames, axis=0).mean(axis=-1))


def _texture(rng: np.random.Generator, frames: int, spread_db: float) -> Power:
    """A smooth random field around 1: noise that windows and filters have already averaged."""
    rough = rng.normal(0.0, spread_db, size=(frames // 3 + 2, MELS // 4 + 2))
    rows, columns = np.arange(frames) / 3, np.arange(MELS) / 4
    low, left = rows.astype(int), columns.astype(int)
    down, right = (rows - low)[:, None], (columns - left)[None, :]
    upper = rough[low][:, left] * (1 - right) + rough[low][:, left + 1] * right
    lower = rough[low + 1][:, left] * (1 - right) + rough[low + 1][:, left + 1] * right
    return np.asarray(10 ** ((upper * (1 - down) + lower * down) / 10))


def _mix(speech: Power, noise: Power, ratio_db: float) -> Power:
    """Add ``noise`` so that the mean energy of ``speech`` lies ``ratio_db`` above its mean energy."""
    return np.asarray(speech + noise * (speech.mean() / noise.mean() / 10 ** (ratio_db / 10)))


def _quiet(rng: np.random.Generator, speech: Power) -> Power:
    """A room with a fan far away."""
    hum = np.exp(-np.arange(MELS) / 15)[None, :] * _texture(rng, len(speech), 2.0)
    return _mix(speech, hum, rng.uniform(30, 40))


def _classroom(rng: np.random.Generator, speech: Power) -> Power:
    """Three others who talk at once, and walls that give everything back for a while."""
    frames = len(speech)
    babble = sum(_Speaker(rng, *rng.uniform(size=2)).utter(frames) for _ in range(3)) * _texture(rng, frames, 2.0)
    decay = 10 ** (-6 * np.arange(40) / rng.uniform(30, 60))  # energy falls by 60 dB in 0.3 to 0.6 s
    decay[1:] *= 0.3
    mixed = _mix(speech, babble, rng.uniform(8, 16))
    length = 2 * frames + 40
    spread = np.fft.irfft(np.fft.rfft(mixed, length, axis=0) * np.fft.rfft(decay, length)[:, None], axis=0)
    return np.maximum(spread[:frames], 0)


def _street(rng: np.random.Generator, speech: Power) -> Power:
    """Engines low down, that come and go, and bursts over all bands."""
    frames = len(speech)
    swell = np.interp(np.arange(frames) / 100, np.arange(8), rng.uniform(0.2, 1.0, size=8))[:, None]
    noise = swell * (np.exp(-np.arange(MELS) / 12) + 0.02)[None, :] * _texture(rng, frames, 3.0)
    for _ in range(rng.poisson(frames / 150)):
        start, length = int(rng.integers(frames)), int(rng.integers(4, 15))
        noise[start : start + length] += rng.uniform(0.05, 0.3) * _texture(rng, 1, 3.0)
    return _mix(speech, noise, rng.uniform(2, 10))


_CONDITIONS = {"quiet": _quiet, "classroom": _classroom, "street": _street}


def record(power: Power) -> NDArray[np.float32]:
    """Return log-mel features float32 [frames, 80], 0 to 5 in units of 10 dB above the floor, in steps of 0.25."""
    level_db = 10 * np.log10(power + 1e-12)
    above_floor = np.maximum(level_db - level_db.max() + RANGE_DB, 0) / UNIT_DB
    return np.asarray(np.rint(above_floor / STEP) * STEP, dtype=np.float32)


def speak(rng: np.random.Generator, level: int, noise: str) -> Clip:
    """Make one clip of ``level`` (1 to 5) in a noise condition; 90 to 600 frames, shorter ones more often."""
    pronunciation, fluency = draw_qualities(rng, level)
    frames = MIN_FRAMES + int((MAX_FRAMES + 1 - MIN_FRAMES) * rng.beta(1.0, 2.2))
    speech = _Speaker(rng, pronunciation, fluency).utter(frames)
    return Clip(record(_CONDITIONS[noise](rng, speech)), noise, level, pronunciation, fluency)


def speak_all(seed: int, count: int) -> list[Clip]:
    """Make ``count`` clips: the noise conditions in turn, and within each the levels in turn.

    The same seed gives the same clips, another seed others; no global random state is read or changed.
    """
    return [
        speak(np.random.default_rng([seed, i]), LEVELS[i // len(NOISES) % len(LEVELS)], NOISES[i % len(NOISES)])
        for i in range(count)
    ]
