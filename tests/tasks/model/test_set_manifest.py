from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.declared import InputSpec
from tasks.errors import InputError
from tasks.model import set_manifest as manifest_module
from tasks.model.documents import write_yaml
from tasks.model.set_manifest import (
    MANIFEST_FILE,
    CalibrationManifest,
    age_days,
    make_manifest,
    read_manifest,
    write_manifest,
)

SHIPPED = Path(__file__).parents[3] / "calibration_sets"
DAY = dt.date(2026, 11, 20)
FEATURES = {"features": InputSpec(dtype="float32", shape=("batch", 4))}
CONTENT: dict[str, Any] = {
    "name": "tiny",
    "inputs": {"features": {"dtype": "float32", "shape": ["batch", 4]}},
    "source": "Made by this test.",
    "collected": {"from": dt.date(2026, 11, 1), "to": DAY},
    "samples": 40,
    "files": [
        {"path": "a.npz", "samples": 10, "sha256": "a" * 64},
        {"path": "s3://bucket/key/b.parquet", "samples": 30, "sha256": "b" * 64},
    ],
    "strata": {"level": {1: 20, 2: 0.25}, "noise": {"quiet": 0}},
    "max_age_days": 30,
    "resembles": "../../examples/tiny/validation",
}


def read(folder: Path, **changes: Any) -> CalibrationManifest:
    """Read the manifest above with keys replaced; None removes one."""
    content = {key: value for key, value in {**CONTENT, **changes}.items() if value is not None}
    (folder / MANIFEST_FILE).write_text(write_yaml(content))
    return read_manifest(folder)


def write_data(folder: Path, name: str, samples: int, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    np.savez(folder / name, features=np.zeros((samples, 4), np.float32), **arrays)
    return folder


def make(folder: Path, **changes: Any) -> CalibrationManifest:
    given_: dict[str, Any] = {"name": "tiny", "inputs": FEATURES, "source": "Here.", "collected": (DAY, DAY)}
    return make_manifest(folder, **(given_ | changes))


def test_every_key_is_read(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.name, found.source, found.samples, found.max_age_days) == ("tiny", "Made by this test.", 40, 30)
    assert found.inputs == FEATURES
    assert (found.collected.first, found.collected.last) == (dt.date(2026, 11, 1), DAY)
    assert [(file.path, file.samples, file.is_remote) for file in found.files] == [
        ("a.npz", 10, False),
        ("s3://bucket/key/b.parquet", 30, True),
    ]
    assert found.strata == {"level": {"1": 20, "2": 0.25}, "noise": {"quiet": 0}}
    assert found.resembles == "../../examples/tiny/validation"


def test_strata_age_and_resemblance_may_be_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, strata=None, max_age_days=None, resembles=None)
    assert (found.strata, found.max_age_days, found.resembles) == ({}, None, None)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob("*/manifest.yaml")))
def test_a_shipped_set_is_described_by_its_manifest_to_the_byte(tmp_path: Path, name: str) -> None:
    shipped = read_manifest(SHIPPED / name)
    copy = shutil.copytree(SHIPPED / name, tmp_path / name)
    made = make_manifest(
        copy,
        name=name,
        inputs=shipped.inputs,
        source=shipped.source,
        collected=(shipped.collected.first, shipped.collected.last),
        max_age_days=shipped.max_age_days,
        resembles=shipped.resembles,
    )
    write_manifest(copy, made)
    assert (copy / MANIFEST_FILE).read_bytes() == (SHIPPED / name / MANIFEST_FILE).read_bytes()


def test_the_manifest_of_the_readme_is_one(tmp_path: Path) -> None:
    block = (SHIPPED / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / MANIFEST_FILE).write_text(block)
    assert set(yaml.safe_load(block)) == set(CalibrationManifest.model_fields)
    assert read_manifest(tmp_path).strata["noise"] == {"quiet": 50, "classroom": 0.2, "street": 0.2}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a missing key": ({"source": None}, "source: missing; add it"),
    "an unknown key": ({"stratum": {}}, "stratum: unknown key; did you mean 'strata'?"),
    "a bad name": ({"name": "Essays 1"}, r"name: .* \(given: 'Essays 1'\)"),
    "a bad input": ({"inputs": {"x": {"dtype": "float31", "shape": ["batch"]}}}, r"inputs.x.dtype: .*float31"),
    "no inputs": ({"inputs": {}}, "inputs: "),
    "days out of order": (
        {"collected": {"from": DAY, "to": dt.date(2026, 11, 19)}},
        "collected: from 2026-11-20 is after to 2026-11-19; swap them",
    ),
    "one day": ({"collected": {"from": DAY}}, "collected.to: missing; add it"),
    "a day of another name": (
        {"collected": {"from": DAY, "to": DAY, "until": DAY}},
        "collected: unknown key 'until'; the keys are from and to",
    ),
    "a day by its name in Python": ({"collected": {"first": DAY, "last": DAY}}, "collected: unknown key 'first'"),
    "a day that is text": ({"collected": {"from": "yesterday", "to": DAY}}, "collected.from: .* 'yesterday'"),
    "a sum that is off": ({"samples": 41}, "samples: 41, but the files sum to 40; correct one of them"),
    "samples as text": ({"samples": "40"}, r"samples: .* \(given: '40'\)"),
    "a file listed twice": ({"files": [CONTENT["files"][0]] * 4}, "files: a.npz is listed twice; remove one"),
    "no files": ({"files": []}, "files: "),
    "an empty file": ({"files": [{**CONTENT["files"][0], "samples": 0}]}, "files.0.samples: "),
    "a digest with a prefix": (
        {"files": [{**CONTENT["files"][0], "sha256": "sha256:" + "a" * 64}]},
        "files.0.sha256: ",
    ),
    "a share above one": ({"strata": {"level": {1: 1.5}}}, "strata.level.1: 1.5 is no minimum; give a whole number"),
    "a share of one": ({"strata": {"level": {1: 1.0}}}, "strata.level.1: 1.0 is no minimum"),
    "a negative count": ({"strata": {"level": {1: -1}}}, "strata.level.1: -1 is no minimum"),
    "a share of nothing": ({"strata": {"level": {1: 0.0}}}, "strata.level.1: 0.0 is no minimum"),
    "NaN": ({"strata": {"level": {1: math.nan}}}, "strata.level.1: nan is no minimum"),
    "yes": ({"strata": {"level": {1: True}}}, "strata.level.1: True is no minimum"),
    "text": ({"strata": {"level": {1: "30"}}}, "strata.level.1: '30' is no minimum"),
    "shares above one": ({"strata": {"level": {1: 0.6, 2: 0.5}}}, "strata.level: the shares sum to 1.1, above 1"),
    "a value that YAML reads as false": (
        {"strata": {"spoken": {False: 3}}},
        "strata.spoken: value False is neither text nor a whole number; write it in quotes",
    ),
    "a value twice": ({"strata": {"level": {1: 3, "1": 4}}}, "strata.level: 1 and '1' are the same value; remove one"),
    "an empty stratum": ({"strata": {"level": {}}}, "strata.level: "),
    "a stratum that is a list": ({"strata": {"level": [1, 2]}}, "strata.level: "),
    "no days of age": ({"max_age_days": 0}, "max_age_days: "),
    "an absolute path to resemble": ({"resembles": "/data/traffic"}, "resembles: '/data/traffic' is no path relative"),
}


@pytest.mark.parametrize(("changes", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_by_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=rf"^manifest.yaml: {words}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize("samples", [1, 31])
def test_fewer_than_32_samples_are_refused_with_their_count(tmp_path: Path, samples: int) -> None:
    files = [{**CONTENT["files"][0], "samples": samples}]
    words = f"samples: {samples}, but a calibration set needs 32 or more; add {32 - samples}"
    with pytest.raises(InputError, match=words):
        read(tmp_path, samples=samples, files=files)


def test_32_samples_are_enough(tmp_path: Path) -> None:
    assert read(tmp_path, samples=32, files=[{**CONTENT["files"][0], "samples": 32}]).samples == 32


@pytest.mark.parametrize(
    "path",
    [
        *("../a.npz", "b/../../a.npz", "/data/a.npz", "", "c:\\a.npz", "http://host/a.npz"),
        *("s3://bucket", "s3:///a.npz", "s3://bucket/"),
        *("a.csv", "a", ".npz", "a.npz.zip", "s3://bucket/a.pt"),
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_data_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"manifest.yaml: files.0.path: .*(inside|names no object|is no data file)"):
        read(tmp_path, files=[{**CONTENT["files"][0], "path": path}, CONTENT["files"][1]])


@pytest.mark.parametrize("path", ["a.npz", "b/a.safetensors", "..a.parquet", "s3://bucket/a.npz"])
def test_a_path_inside_the_folder_or_in_s3_is_taken(tmp_path: Path, path: str) -> None:
    assert read(tmp_path, files=[{**CONTENT["files"][0], "path": path}, CONTENT["files"][1]]).files[0].path == path


def test_a_set_from_tomorrow_is_taken_since_clocks_differ_but_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "_today", lambda: DAY - dt.timedelta(days=1))
    assert read(tmp_path).collected.last == DAY
    monkeypatch.setattr(manifest_module, "_today", lambda: DAY - dt.timedelta(days=2))
    with pytest.raises(InputError, match=r"collected: to 2026-11-20 is in the future, today is 2026-11-18"):
        read(tmp_path)


def test_the_age_counts_from_the_last_sample(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert age_days(found, DAY) == 0
    assert age_days(found, DAY + dt.timedelta(days=31)) == 31
    assert age_days(found, dt.date(2027, 11, 20)) == 365


def test_ten_shares_of_a_tenth_are_one(tmp_path: Path) -> None:
    assert len(read(tmp_path, strata={"level": dict.fromkeys(range(10), 0.1)}).strata["level"]) == 10


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, source=None, max_age_days=0, strata={"level": {1: -1}})
    assert len(str(caught.value).splitlines()) == 3


def test_a_set_without_a_manifest_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no manifest.yaml.*enginegate calibration draw"):
        read_manifest(tmp_path)


MINIMA = st.integers(0, 10**6) | st.floats(1e-9, 0.25)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=5) | st.sampled_from(
    ["1", "01", "-1", "1.0", "yes", "null", "~", "0x10", "1e3", "²", "2026-11-20"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.dictionaries(VALUES, st.dictionaries(VALUES, MINIMA, min_size=1, max_size=4), max_size=3))
def test_a_manifest_that_was_written_is_read_back_alike(tmp_path: Path, strata: dict[str, dict[str, Any]]) -> None:
    write_manifest(tmp_path, found := read(tmp_path, strata=strata))
    assert found.strata == strata
    assert read_manifest(tmp_path) == found


def test_what_cannot_be_written_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(tmp_path)
    before = (tmp_path / MANIFEST_FILE).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(tmp_path, found)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_FILE]
    assert (tmp_path / MANIFEST_FILE).read_bytes() == before


def test_a_manifest_may_be_read_by_all(tmp_path: Path) -> None:
    write_manifest(tmp_path, read(tmp_path))
    assert (tmp_path / MANIFEST_FILE).stat().st_mode & 0o777 == 0o644


def test_files_are_described_by_path_samples_and_digest(tmp_path: Path) -> None:
    write_data(write_data(tmp_path / "set", "b.npz", 30) / "a", "c.npz", 20)
    write_data(tmp_path / "set" / ".cache", "hidden.npz", 1)
    (tmp_path / "set" / "README.md").write_text("words")
    found = make(tmp_path / "set").files
    assert [(file.path, file.samples) for file in found] == [("a/c.npz", 20), ("b.npz", 30)]
    content = (tmp_path / "set" / "b.npz").read_bytes()
    assert found[1].sha256 == hashlib.sha256(content).hexdigest()


def test_strata_are_the_slices_with_at_most_64_values_and_what_was_found(tmp_path: Path) -> None:
    names, levels = np.arange(65), np.arange(65) % 64
    write_data(tmp_path, "a.npz", 65, **{"slice.name": names, "slice.level": levels, "label": names})
    write_data(tmp_path, "b.npz", 2, **{"slice.name": names[:2], "slice.level": np.array(["0", "1"])})
    found = make(tmp_path)
    assert set(found.strata) == {"level"}
    assert sum(found.strata["level"].values()) == found.samples == 67
    assert found.strata["level"]["0"] == 3  # samples 0 and 64 of the first file, and one of the second
    assert found.strata["level"]["1"] == 2
    assert found.strata["level"]["2"] == 1


def test_strata_that_are_given_are_taken_as_they_are(tmp_path: Path) -> None:
    write_data(tmp_path, "a.npz", 40, **{"slice.level": np.zeros(40, int)})
    assert make(tmp_path, strata={"level": {"1": 0.5}}).strata == {"level": {"1": 0.5}}
    assert make(tmp_path, strata={}).strata == {}


BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"other": np.zeros(40)}, r"a.npz: input 'features' is missing \(arrays found: other\)"),
    "no samples": ({"features": np.zeros((0, 4))}, "a.npz: holds no samples"),
    "a slice of others": (
        {"features": np.zeros((40, 4)), "slice.x": np.zeros(39)},
        r"a.npz: slice.x has shape \(39,\), but features has 40 samples",
    ),
    "a slice of columns": (
        {"features": np.zeros((40, 4)), "slice.x": np.zeros((40, 1))},
        r"a.npz: slice.x has shape \(40, 1\)",
    ),
    "a number": ({"features": np.zeros(())}, r"a.npz: features has shape \(\)"),
}


@pytest.mark.parametrize(("arrays", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_described_is_named(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=words):
        make(tmp_path)


def test_a_slice_in_some_files_only_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, "a.npz", 40, **{"slice.level": np.zeros(40, int)})
    write_data(tmp_path, "b.npz", 40)
    with pytest.raises(InputError, match=r"slice.level is in 1 of 2 files; every file needs it, or none"):
        make(tmp_path)


def test_a_folder_without_data_makes_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest.yaml: files: "):
        make(tmp_path)
