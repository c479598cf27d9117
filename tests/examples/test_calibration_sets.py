"""The calibration sets that ship: whole, disjoint from the validation data, and found out where they lack something."""

from __future__ import annotations

import filecmp
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.calibration.check import Production, check_calibration, require_inputs
from tasks.calibration.sets import count_strata, read_set
from tasks.model.model_directory import read_model_directory
from tasks.samples.formats import read_arrays
from tasks.stages.export import export_onnx
from tasks.stages.ingest import ingest

if TYPE_CHECKING:
    from types import ModuleType

    from tasks.calibration.report import CalibrationReport
    from tests.tasks.in_process import InProcess

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = {
    "digits": "digit_reader",
    "digits_printed_only": "digit_reader",
    "essays": "essay_scorer",
    "essays_no_weak_levels": "essay_scorer",
    "intents": "intents",
    "lines": "line_reader",
    "oral": "oral_scorer",
    "oral_quiet_only": "oral_scorer",
    "shapes": "detector",
    "signs": "image_classifier",
    "sounds": "alarm_sounds",
    "words": "whisper_encoder",
}
GAPS = {
    "digits_printed_only": {"stratum script=handwritten has 0 samples, production has 50 %"},
    "essays_no_weak_levels": {
        "stratum level=1 has 0 samples, production has 17 %",
        "stratum level=2 has 0 samples, production has 17 %",
    },
    "oral_quiet_only": {
        "stratum noise=classroom has 0 samples, production has 33 %",
        "stratum noise=street has 0 samples, production has 33 %",
    },
}


def check(here: InProcess, name: str, *, run: bool = False) -> CalibrationReport:
    """Check a set against the validation data of its example; running the reference takes an export."""
    directory = read_model_directory(ROOT / "examples" / EXAMPLE[name])
    found = read_set(ROOT / "calibration_sets" / name, Path("downloads"))
    require_inputs(found.manifest, directory.spec.inputs)
    count_strata(found, map(read_arrays, found.files))
    data = ingest(here, directory.spec, found.files, name).result
    validation = ingest(here, directory.spec, directory.validation, "validation.data").result
    exported = export_onnx(here, directory, validation).result if run else None
    production = Production("validation", validation, validation)
    return check_calibration(here, found.manifest, data, production, directory.spec, exported).result


def test_every_set_that_ships_is_tested_here() -> None:
    assert {path.name for path in (ROOT / "calibration_sets").iterdir() if path.is_dir()} == set(EXAMPLE)
    assert {read_set(ROOT / "calibration_sets" / name, Path("downloads")).manifest.name for name in EXAMPLE} == set(
        EXAMPLE
    )


@pytest.mark.parametrize("name", sorted(EXAMPLE.keys() - GAPS.keys()))
def test_a_covering_set_passes(here: InProcess, name: str) -> None:
    assert check(here, name).findings == ()


@pytest.mark.parametrize("name", GAPS)
def test_the_gap_of_a_lacking_set_is_named(here: InProcess, name: str) -> None:
    assert {finding.sentence for finding in check(here, name).findings} == GAPS[name]


def test_print_alone_is_found_to_clip_the_input_of_the_digit_reader(here: InProcess) -> None:
    found = check(here, "digits_printed_only", run=True)
    (clipped,) = (finding for finding in found.findings if finding.check == "range")
    assert clipped.sentence.startswith("1 of 13 tensors go beyond the range of the set; most: image ends at 0.6641 ")
    assert "where script=handwritten" in clipped.sentence


def load_module(folder: str, name: str) -> ModuleType:
    qualified = f"{folder}_{name}"
    if qualified not in sys.modules:
        spec = importlib.util.spec_from_file_location(qualified, ROOT / "examples" / folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[qualified] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[qualified])
    return sys.modules[qualified]


@pytest.mark.parametrize(
    ("example", "script", "name"),
    [("oral_scorer", "quiet_only", "oral_quiet_only"), ("essay_scorer", "no_weak_levels", "essays_no_weak_levels")],
)
def test_the_script_still_makes_the_lacking_set(tmp_path: Path, example: str, script: str, name: str) -> None:
    load_module(example, script).main(tmp_path)
    shipped = ROOT / "calibration_sets" / name
    names = sorted(path.name for path in shipped.iterdir())
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == names
    same, other, failed = filecmp.cmpfiles(shipped, tmp_path / name, names, shallow=False)
    assert (sorted(same), other, failed) == (names, [], [])


def load_images(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            found[path.stem.removeprefix("pictures-")] = archive["image"]
    return found


def test_the_digits_are_of_both_scripts_and_only_the_handwriting_is_light() -> None:
    validation = load_images(ROOT / "examples" / "digit_reader" / "validation")
    assert {script: len(images) for script, images in validation.items()} == {"handwritten": 450, "printed": 450}
    for images in validation.values():
        assert images.shape[1:] == (1, 32, 32)
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
    assert validation["printed"].max() < 0.67
    assert (validation["handwritten"] > 0.67).mean() > 0.3


def test_training_that_reads_badly_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = load_module("digit_reader", "train")
    few = ("--printed", "64", "--times", "1", "--validation", "40", "--calibration", "1700", "--epochs", "1")
    out = ("--out", str(tmp_path / "model"), "--calibration-out", str(tmp_path / "sets"))
    assert train.main([*out, *few, "--minimum-accuracy", "1.1"]) == 3
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.hardship(only=True)
def test_training_writes_what_the_example_needs(tmp_path: Path) -> None:
    train = load_module("digit_reader", "train")
    few = ("--printed", "64", "--times", "1", "--validation", "40", "--calibration", "1700", "--epochs", "1")
    out = ("--out", str(tmp_path / "model"), "--calibration-out", str(tmp_path / "sets"))
    assert train.main([*out, *few, "--minimum-accuracy", "0"]) == 0
    for name, scripts in (("digits", {"handwritten", "printed"}), ("digits_printed_only", {"printed"})):
        manifest = read_set(tmp_path / "sets" / name, tmp_path / "downloads").manifest
        assert manifest.samples == 3400
        assert set(manifest.strata["script"]) == scripts
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size > 500_000
