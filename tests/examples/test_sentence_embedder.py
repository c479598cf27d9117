"""The example with real weights: it takes the published ones alone, and says what to install."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest

from examples.sentence_embedder import make_data
from tasks.calibration.sets import read_set
from tasks.samples.formats import read_arrays

if TYPE_CHECKING:
    from pathlib import Path

NEEDS_WEIGHTS = pytest.mark.skipif(
    importlib.util.find_spec(make_data.PACKAGE) is None, reason=f"needs MiniLM's weights: {make_data.INSTALL}"
)


def test_without_the_package_it_says_what_to_install_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_data, "PACKAGE", "a_package_that_is_not_there")
    assert make_data.main(tmp_path) == 2
    assert make_data.INSTALL in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_with_another_digest_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_weights" / "model").mkdir(parents=True)
    (tmp_path / "own_weights" / "__init__.py").write_text("raise AssertionError('its code runs')")
    (tmp_path / "own_weights" / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(make_data, "PACKAGE", "own_weights")
    assert make_data.main(tmp_path / "out") == 2
    assert make_data.WEIGHTS_SHA256 in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_shipped_calibration_set_is_whole_and_shares_no_sentence_with_the_validation_data(tmp_path: Path) -> None:
    found = read_set(make_data.HERE / "calibration", tmp_path)
    assert found.manifest.samples >= 100
    validation = sorted((make_data.HERE / "validation").glob("*.npz"))
    sentences = [
        row.tobytes() for path in (*found.files, *validation) for row in read_arrays(path)["input_ids"].astype(np.int64)
    ]
    assert len(sentences) == len(set(sentences))


@NEEDS_WEIGHTS
def test_the_package_s_weights_make_the_shipped_data(tmp_path: Path) -> None:
    assert make_data.main(tmp_path) == 0
    for folder in ("validation", "calibration"):
        for path in (tmp_path / folder).iterdir():
            assert path.read_bytes() == (make_data.HERE / folder / path.name).read_bytes()
    assert (tmp_path / "weights.safetensors").stat().st_size > 90_000_000
