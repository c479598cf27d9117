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
    from collections.abc import Iterable, Sequence
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
        rate, longest = _rate_and_length(found.paths, request)
        folder, note = request.processor, ""
        waves = (_read_wave(path, request)[1] for path in found.paths)
        if folder is not None and (folder / EXTRACTOR_FILE).is_file():
            extractor = _load_extractor(folder, rate)
            name, why = extractor.model_input_names[0], "as the folder's feature extractor makes them"
            rows: Iterable[np.ndarray[Any, Any]] = (_extracted(extractor, folder, wave, rate) for wave in waves)
        else:
            name, why = UNNAMED, "the wave, mono in [-1, 1], padded with silence"
            note = "no feature extractor beside the model: it gets the wave itself, padded with silence"
            step = max(1, math.ceil(longest / BUCKETS))
            rows = (np.pad(wave, (0, -len(wave) % step)) for wave in waves)
        groups = grouped(rows, name, found.labels, request.folder)
        axes = ("time",) if note else ("mel", "frames")[: groups[0][name].ndim - 1]
        notes = (*found.notes, *((note,) if note else ()))
        table, own = ({}, False) if found.labels is None else (found.labels.table, found.labels.from_model)
        return Reading(groups, {name: InputHint(axes, 0, why)}, notes, table, own)


def _rate_and_length(paths: Sequence[Path], request: ReadRequest) -> tuple[int, int]:
    """The rate of all recordings in Hz, and the samples of the longest."""
    rates: dict[int, Path] = {}
    longest = 0
    for path in paths:
        rate, wave = _read_wave(path, request)
        rates.setdefault(rate, path)
        longest = max(longest, len(wave))
    if len(rates) > 1:
        (one, first), (two, second) = list(rates.items())[:2]
        raise InputError(f"{request.origin}: {first.name} has {one} Hz and {second.name} {two} Hz; resample one")
    return next(iter(rates)), longest


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


def _load_extractor(folder: Path, rate: int) -> Any:
    try:
        from transformers import AutoFeatureExtractor  # noqa: PLC0415 - seconds, and few need it

        loader: Any = AutoFeatureExtractor
        extractor = loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        wanted = int(getattr(extractor, "sampling_rate", rate))
    except Exception as error:  # noqa: BLE001 - what it raises depends on the extractor
        raise _unusable(folder, error) from None
    if wanted != rate:
        raise InputError(
            f"{folder.name}: its feature extractor takes {wanted} Hz, and the recordings have {rate}; resample"
        )
    return extractor


def _extracted(extractor: Any, folder: Path, wave: NDArray[np.float32], rate: int) -> np.ndarray[Any, Any]:
    try:
        found = extractor(wave, sampling_rate=rate, return_tensors="np")[extractor.model_input_names[0]][0]
        return np.asarray(found, np.float32)
    except Exception as error:  # noqa: BLE001 - as above
        raise _unusable(folder, error) from None


def _unusable(folder: Path, error: Exception) -> InputError:
    first = str(error).strip().partition("\n")[0].rstrip(".")[:160]
    remedy = "correct it, or bring features as .npz"
    return InputError(f"{folder.name}: {EXTRACTOR_FILE} cannot be used ({first}); {remedy}")
