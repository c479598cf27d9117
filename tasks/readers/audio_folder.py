"""A folder of `.wav` files, or a folder of them for each label."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.readers.interface import UNNAMED, InputHint, Reading, ReadRequest
from tasks.readers.labelled_files import find_files, grouped, holds_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

AUDIO_SUFFIXES = frozenset({".wav"})
EXTRACTOR_FILE = "preprocessor_config.json"
BUCKETS = 8
MONO = 1


class AudioFolder:
    """Features by the folder's own extractor; without one, the wave itself, mono in [-1, 1]."""

    formats = "a folder of .wav files"

    def takes(self, path: Path) -> bool:
        """By suffix; see the interface."""
        return holds_files(path, AUDIO_SUFFIXES)

    def read(self, request: ReadRequest) -> Reading:
        """All recordings; see the interface."""
        found = find_files(request, AUDIO_SUFFIXES, "recording")
        waves = [_read_wave(path, request) for path in found.paths]
        rates = {rate: path for path, (rate, _) in zip(found.paths, waves, strict=True)}
        if len(rates) > 1:
            (one, first), (two, second) = list(rates.items())[:2]
            raise InputError(f"{request.origin}: {first.name} has {one} Hz and {second.name} {two} Hz; resample one")
        folder, samples, note = request.processor, [wave for _, wave in waves], ""
        if folder is not None and (folder / EXTRACTOR_FILE).is_file():
            name, rows = _extract(folder, samples, next(iter(rates)))
            axes, why = ("mel", "frames")[: rows[0].ndim], "as the folder's feature extractor makes them"
        else:
            name, axes, why = UNNAMED, ("time",), "the wave, mono in [-1, 1], padded with silence"
            note = "no feature extractor beside the model: it gets the wave itself, padded with silence"
            rows = _padded(samples)
        table, own = ({}, False) if found.labels is None else (found.labels.table, found.labels.from_model)
        return Reading(
            grouped(rows, name, found.labels), {name: InputHint(axes, 0, why)}, (note,) if note else (), table, own
        )


def _read_wave(path: Path, request: ReadRequest) -> tuple[int, NDArray[np.float32]]:
    from scipy.io import wavfile  # noqa: PLC0415 - 0.1 s, and few need it

    place = path.relative_to(request.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, raw = wavfile.read(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{request.origin}: {place} is no readable recording ({error}); write it as PCM .wav"
        ) from None
    wave = np.asarray(raw)
    if not wave.size:
        raise InputError(f"{request.origin}: {place} holds no sound; remove it")
    wave = wave if wave.ndim == MONO else wave.mean(axis=1).astype(wave.dtype)
    return int(rate), _in_unit(wave)


def _in_unit(wave: np.ndarray[Any, Any]) -> NDArray[np.float32]:
    """PCM in [-1, 1]: 8 bits are counted from the middle of 256, more from 0."""
    if wave.dtype.kind == "u":
        return np.asarray((wave.astype(np.float32) - 128) / 128, np.float32)
    scale = float(np.iinfo(wave.dtype).max) + 1 if wave.dtype.kind == "i" else 1.0
    return np.asarray(wave.astype(np.float32) / scale, np.float32)


def _padded(samples: list[NDArray[np.float32]]) -> list[np.ndarray[Any, Any]]:
    step = max(1, math.ceil(max(map(len, samples)) / BUCKETS))
    return [np.pad(wave, (0, -len(wave) % step)) for wave in samples]


def _extract(folder: Path, samples: list[NDArray[np.float32]], rate: int) -> tuple[str, list[np.ndarray[Any, Any]]]:
    try:
        from transformers import AutoFeatureExtractor  # noqa: PLC0415 - seconds, and few need it

        loader: Any = AutoFeatureExtractor
        extractor = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        wanted = int(getattr(extractor, "sampling_rate", rate))
        name = extractor.model_input_names[0]
        if wanted == rate:
            rows = [np.asarray(extractor(wave, sampling_rate=rate, return_tensors="np")[name][0]) for wave in samples]
            return name, [row.astype(np.float32) for row in rows]
    except Exception as error:  # noqa: BLE001 - what it raises depends on the extractor
        first = str(error).strip().partition("\n")[0].rstrip(".")[:160]
        raise InputError(
            f"{folder.name}: {EXTRACTOR_FILE} cannot be used ({first}); correct it, or bring features as .npz"
        ) from None
    raise InputError(
        f"{folder.name}: its feature extractor takes {wanted} Hz, and the recordings have {rate}; resample"
    )
