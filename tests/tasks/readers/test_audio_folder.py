from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.io import wavfile

from tasks.errors import InputError
from tasks.readers import read_data
from tasks.readers.interface import UNNAMED, ReadRequest

if TYPE_CHECKING:
    from pathlib import Path

RATE = 16_000


def test_waves_are_in_one_and_padded_to_a_few_lengths(tmp_path: Path) -> None:
    for label, length in (("no", 800), ("yes", 770), ("yes", 90)):
        (tmp_path / label).mkdir(exist_ok=True)
        wavfile.write(tmp_path / label / f"{length}.wav", RATE, np.full((length, 2), -16_384, np.int16))
    short, long = read_data(ReadRequest(tmp_path)).groups
    assert (short[UNNAMED].shape, long[UNNAMED].shape) == ((1, 100), (2, 800))
    assert short[UNNAMED][0, [0, 89, 90]].tolist() == [-0.5, -0.5, 0]
    assert (short["label"].tolist(), long["label"].tolist()) == ([1], [0, 1])


def test_a_recording_that_is_none_and_other_rates_are_told(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", RATE, np.zeros(9, np.int16))
    (tmp_path / "b.wav").write_bytes(b"ID3 this is an mp3")
    with pytest.raises(InputError, match=r"b.wav is no readable recording .*write it as PCM .wav"):
        read_data(ReadRequest(tmp_path))
    wavfile.write(tmp_path / "b.wav", 8000, np.zeros(9, np.int16))
    with pytest.raises(InputError, match=r"a\.wav has 16000 Hz and b.wav 8000 Hz"):
        read_data(ReadRequest(tmp_path))


def test_features_are_those_of_the_folders_extractor(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, "do_normalize": True}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "data").mkdir()
    wavfile.write(tmp_path / "data" / "a.wav", RATE, np.arange(400, dtype=np.int16))
    (group,) = read_data(ReadRequest(tmp_path / "data", tmp_path / "model")).groups
    assert group["input_values"].shape == (1, 400)
    assert abs(float(group["input_values"].std()) - 1) < 0.01
    wavfile.write(tmp_path / "data" / "a.wav", 8000, np.arange(400, dtype=np.int16))
    with pytest.raises(InputError, match="its feature extractor takes 16000 Hz, and the recordings have 8000"):
        read_data(ReadRequest(tmp_path / "data", tmp_path / "model"))
