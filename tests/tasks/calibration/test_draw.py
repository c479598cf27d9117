from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tasks.calibration import draw
from tasks.calibration.draw import draw_set
from tasks.calibration.features import sample_digests
from tasks.calibration.sets import count_strata, read_set
from tasks.declared import InputSpec
from tasks.errors import InputError
from tasks.model.set_manifest import MANIFEST_FILE, CalibrationManifest, read_manifest
from tasks.samples import blocks
from tasks.samples.formats import read_arrays

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.samples.npz import Arrays

IDS = {
    "ids": InputSpec(dtype="int64", shape=("batch", "sequence")),
    "mask": InputSpec(dtype="int64", shape=("batch", "sequence")),
}
FEATURES = {"features": InputSpec(dtype="float32", shape=("batch", 4))}
DAY = dt.date(2026, 11, 20)


def texts(samples: int, length: int, seed: int, levels: int = 3) -> Arrays:
    """Texts of one length, most of them of level 0, with a label and two slices."""
    rng = np.random.default_rng(seed)
    level = np.minimum(rng.geometric(0.7, samples) - 1, levels - 1)
    return {
        "ids": rng.integers(1, 1000, (samples, length)),
        "mask": np.ones((samples, length), np.int64),
        "label": rng.random(samples),
        "slice.level": level,
        "slice.noise": np.where(rng.random(samples) < 0.5, "quiet", "street"),
    }


def save(folder: Path, *files: Arrays) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.npz" for number in range(len(files))]
    for path, arrays in zip(paths, files, strict=True):
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return paths


@pytest.fixture
def traffic(tmp_path: Path) -> list[Path]:
    """600 texts of two lengths in three files."""
    return save(tmp_path / "traffic", texts(200, 8, 1), texts(300, 16, 2), texts(100, 8, 3))


def take(files: list[Path], out: Path, **changes: Any) -> CalibrationManifest:
    options: dict[str, Any] = {
        "size": 60,
        "by": ["level"],
        "inputs": IDS,
        "batch_dim": "batch",
        "validation_digests": (),
        "scores": None,
        "seed": 0,
        "name": "drawn",
        "source": "Traffic of this test.",
        "resembles": "../traffic",
        "collected": (DAY, DAY),
    }
    return draw_set(files, out, **(options | changes))


def digests_of(paths: list[Path] | tuple[Path, ...]) -> list[str]:
    found: list[str] = []
    for path in paths:
        arrays = read_arrays(path)
        found += sample_digests({name: arrays[name] for name in IDS}, IDS, "batch")
    return found


def column(paths: list[Path], name: str) -> np.ndarray[Any, Any]:
    return np.concatenate([read_arrays(path)[name] for path in paths])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_was_drawn_is_a_whole_set_of_the_samples_own_bytes(traffic: list[Path], tmp_path: Path) -> None:
    manifest = take(traffic, tmp_path / "set")
    found = read_set(tmp_path / "set", tmp_path / "downloads")
    assert found.manifest == manifest
    assert manifest.samples == 60
    assert (manifest.max_age_days, manifest.resembles, manifest.collected.last) == (None, "../traffic", DAY)
    assert count_strata(found, map(read_arrays, found.files)) == manifest.strata
    drawn, source = digests_of(found.files), digests_of(traffic)
    assert len(set(drawn)) == 60
    assert set(drawn) <= set(source)
    by_digest = dict(zip(source, column(traffic, "slice.noise").tolist(), strict=True))
    noise = np.concatenate([read_arrays(path)["slice.noise"] for path in found.files])
    assert [by_digest[digest] for digest in drawn] == noise.tolist()


def test_each_value_has_the_same_number_as_far_as_there_are_samples(traffic: list[Path], tmp_path: Path) -> None:
    there = Counter(column(traffic, "slice.level").astype(str).tolist())
    assert there["0"] > 350
    assert there["2"] > 20
    assert take(traffic, tmp_path / "a").strata == {"level": {"0": 20, "1": 20, "2": 20}}
    everything = take(traffic, tmp_path / "b", size=500).strata["level"]
    assert everything == {"0": 500 - there["1"] - there["2"], "1": there["1"], "2": there["2"]}


def test_joint_cells_are_drawn_alike(traffic: list[Path], tmp_path: Path) -> None:
    manifest = take(traffic, tmp_path / "set", by=["level", "noise", "level"])
    assert manifest.strata == {"level": {"0": 20, "1": 20, "2": 20}, "noise": {"quiet": 30, "street": 30}}


def test_samples_of_one_file_share_their_shapes_and_labels_are_left_out(traffic: list[Path], tmp_path: Path) -> None:
    take(traffic, tmp_path / "set")
    files = [read_arrays(path) for path in sorted((tmp_path / "set").glob("*.npz"))]
    assert [arrays["ids"].shape[1] for arrays in files] == [8, 16]
    assert all(set(arrays) == {"ids", "mask", "slice.level", "slice.noise"} for arrays in files)


def test_large_files_are_split(traffic: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "FILE_BYTES", 1000)
    manifest = take(traffic, tmp_path / "set")
    assert len(manifest.files) > 10
    assert len(set(digests_of(read_set(tmp_path / "set", tmp_path).files))) == 60


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(traffic: list[Path], tmp_path: Path) -> None:
    scores = np.arange(600.0)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        take(traffic, tmp_path / name, seed=seed, scores=scores)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_scores_belong_to_the_samples_in_the_order_of_the_files(traffic: list[Path], tmp_path: Path) -> None:
    scores = np.arange(600.0)
    take(traffic, tmp_path / "set", by=[], scores=scores)
    by_digest = dict(zip(digests_of(traffic), scores.tolist(), strict=True))
    drawn = [by_digest[digest] for digest in digests_of(read_set(tmp_path / "set", tmp_path).files)]
    assert min(drawn) < 30
    assert max(drawn) >= 570


def test_validation_samples_and_duplicates_are_left_out_and_counted(traffic: list[Path], tmp_path: Path) -> None:
    files = [*traffic, *save(tmp_path / "again", read_arrays(traffic[0]))]
    validation = digests_of(traffic[1:2])[:250]
    manifest = take(files, tmp_path / "set", size=350, validation_digests=validation)
    drawn = digests_of(read_set(tmp_path / "set", tmp_path).files)
    assert sorted(drawn) == sorted(set(digests_of(files)) - set(validation))
    assert manifest.source == (
        "Traffic of this test. 350 of 800 samples drawn by level with seed 0; left out: 250 of the validation data,"
        " 200 duplicates."
    )
    with pytest.raises(InputError, match=r"size 351: 350 of 800 samples can be drawn \(left out: 250 of the val"):
        take(files, tmp_path / "more", size=351, validation_digests=validation)


def test_a_sample_of_validation_data_alone_is_refused_plainly(traffic: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"all 600 samples are validation data, which a model may not be calibrated"):
        take(traffic, tmp_path / "set", validation_digests=digests_of(traffic))
    assert not (tmp_path / "set").exists()


def test_a_value_of_which_all_samples_are_validation_data_is_named(traffic: list[Path], tmp_path: Path) -> None:
    rare = column(traffic, "slice.level") == 2
    validation = [digest for digest, is_rare in zip(digests_of(traffic), rare, strict=True) if is_rare]
    with pytest.raises(InputError, match=r"every sample of level=2 is validation data, so that the set would lack"):
        take(traffic, tmp_path / "set", validation_digests=validation)


def test_the_same_text_padded_further_is_a_duplicate(tmp_path: Path) -> None:
    short = texts(40, 8, 1)
    long = {**short, **{name: np.pad(short[name], ((0, 0), (0, 8))) for name in IDS}}
    files = save(tmp_path / "traffic", short, long)
    assert take(files, tmp_path / "set", size=40).samples == 40
    with pytest.raises(InputError, match=r"40 of 80 samples can be drawn \(left out: 0 of .*, 40 duplicates\)"):
        take(files, tmp_path / "more", size=41)


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"size": 31}, "size 31: a calibration set needs 32 samples or more; raise"),
    "too many": ({"size": 601}, "size 601: 600 of 600 samples can be drawn .*; lower the size, or bring more"),
    "no such slice": (
        {"by": ["script"]},
        r"0.npz: has no slice.script to draw by \(slice.level, slice.noise found\); add",
    ),
    "a seed below zero": ({"seed": -1}, "seed -1: must be 0 or more"),
    "scores of others": ({"scores": np.zeros(599)}, r"scores: \(599,\) for 600 samples; give one for each"),
    "scores that are NaN": (
        {"scores": np.array([np.nan, 0, np.inf] * 200)},
        r"scores holds NaN or Inf in 400 samples \(first: 0, 2, 3, 5, 6\)",
    ),
    "a bad name": ({"name": "Drawn Set"}, "manifest.yaml: name: "),
    "another input": ({"inputs": FEATURES}, r"0.npz: input 'features' is missing \(arrays found: ids"),
    "another dtype": (
        {"inputs": {"ids": InputSpec(dtype="int32", shape=("batch", "sequence"))}},
        r"0.npz: ids is int64 \[200, 8\], but the model takes int32 \['batch', 'sequence'\]; convert it",
    ),
    "another rank": (
        {"inputs": {"ids": InputSpec(dtype="int64", shape=("batch",))}},
        r"0.npz: ids is int64 \[200, 8\], but the model takes int64 \['batch'\]",
    ),
    "another extent": (
        {"inputs": {"ids": InputSpec(dtype="int64", shape=("batch", 9))}},
        r"0.npz: ids is int64 \[200, 8\], but the model takes int64 \['batch', 9\]",
    ),
    "a mixed source": ({"by": ["noise", "label"]}, "0.npz: has no slice.label"),
}


@pytest.mark.parametrize(("changes", "words"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_cannot_be_met_says_why_and_leaves_nothing(
    traffic: list[Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        take(traffic, tmp_path / "set", **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["traffic"]


def test_a_slice_with_more_than_64_values_is_refused(tmp_path: Path) -> None:
    files = save(tmp_path / "traffic", {**texts(200, 8, 1), "slice.name": np.arange(200) % 65})
    with pytest.raises(InputError, match=r"slice.name has 65 values, more than 64, too many to draw alike from"):
        take(files, tmp_path / "set", by=["name"])


def test_nan_in_the_sample_is_told_by_file_input_and_row(tmp_path: Path) -> None:
    features = np.zeros((50, 4), np.float32)
    features[[7, 9], 2] = np.nan
    files = save(tmp_path / "traffic", {"features": np.ones((50, 4), np.float32)}, {"features": features})
    with pytest.raises(InputError, match=r"1.npz: features holds NaN or Inf in 2 samples \(first: 7, 9\)"):
        take(files, tmp_path / "set", by=[], inputs=FEATURES)


def test_no_samples_at_all_are_too_few(tmp_path: Path) -> None:
    files = save(tmp_path / "traffic", {"features": np.zeros((0, 4), np.float32)})
    with pytest.raises(InputError, match=r"size 60: 0 of 0 samples can be drawn"):
        take(files, tmp_path / "set", by=[], inputs=FEATURES)


def test_a_folder_that_is_not_empty_is_left_alone_and_an_empty_one_is_taken(
    traffic: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"set: is there already, and not an empty folder; choose another"):
        take(traffic, out)
    assert contents(out) == {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    take(traffic, out)
    assert read_manifest(out).samples == 60
    with pytest.raises(InputError, match="is there already"):
        take(traffic, out / MANIFEST_FILE)


def test_folders_above_are_made_and_all_may_read_the_set(traffic: list[Path], tmp_path: Path) -> None:
    take(traffic, tmp_path / "sets" / "new" / "set")
    assert [path.name for path in (tmp_path / "sets" / "new").iterdir()] == ["set"]
    assert (tmp_path / "sets" / "new" / "set").stat().st_mode & 0o777 == 0o755


def test_what_breaks_off_leaves_nothing(traffic: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(_folder: Path, _manifest: CalibrationManifest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(draw, "write_manifest", break_off)
    with pytest.raises(KeyboardInterrupt):
        take(traffic, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["traffic"]


@pytest.mark.parametrize("change", ["other samples", "fewer samples", "no input"])
def test_a_file_that_changes_while_it_is_read_is_noticed(
    traffic: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    reads = Counter[str]()

    def read(path: Path) -> Arrays:
        reads[path.name] += 1
        arrays = read_arrays(path)
        if path.name != "1.npz" or reads[path.name] < 2:
            return arrays
        if change == "no input":
            del arrays["mask"]
        return {name: array[:9] if change == "fewer samples" else array[::-1] for name, array in arrays.items()}

    monkeypatch.setattr(blocks, "read_arrays", read)
    with pytest.raises(InputError, match=r"1.npz: changed while it was read; draw again"):
        take(traffic, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_safetensors_and_parquet_are_drawn_from_as_npz_is(tmp_path: Path) -> None:
    parts = [{name: array for name, array in texts(50, 8, n).items() if name != "slice.noise"} for n in range(3)]
    files = save(tmp_path / "traffic", parts[0])
    save_file({name: np.ascontiguousarray(array) for name, array in parts[1].items()}, tmp_path / "b.safetensors")
    pq.write_table(pa.table({name: array.tolist() for name, array in parts[2].items()}), tmp_path / "c.parquet")
    mixed = [*files, tmp_path / "b.safetensors", tmp_path / "c.parquet"]
    assert take(mixed, tmp_path / "set", size=90).strata["level"].keys() == {"0", "1", "2"}
    take(save(tmp_path / "npz", *parts), tmp_path / "same", size=90)
    assert contents(tmp_path / "set") == contents(tmp_path / "same")


def test_slices_that_some_file_lacks_are_left_out(tmp_path: Path) -> None:
    second = texts(50, 8, 2)
    del second["slice.noise"]
    take(save(tmp_path / "traffic", texts(50, 8, 1), second), tmp_path / "set")
    assert set(read_arrays(tmp_path / "set" / "samples-000.npz")) == {"ids", "mask", "slice.level"}


def test_levels_that_are_numbers_here_and_text_there_are_the_same(tmp_path: Path) -> None:
    second = texts(50, 8, 2)
    second["slice.level"] = second["slice.level"].astype(str)
    manifest = take(save(tmp_path / "traffic", texts(50, 8, 1), second), tmp_path / "set")
    found = read_set(tmp_path / "set", tmp_path)
    assert count_strata(found, map(read_arrays, found.files)) == manifest.strata
    assert manifest.strata["level"].keys() == {"0", "1", "2"}


def test_without_days_those_on_which_the_files_were_written_count(traffic: list[Path], tmp_path: Path) -> None:
    for path, day in zip(traffic, (12, 3, 7), strict=True):
        written = dt.datetime(2026, 3, day, 23, 59, tzinfo=dt.timezone.utc).timestamp()
        os.utime(path, (written, written))
    found = take(traffic, tmp_path / "a", collected=None).collected
    assert (found.first, found.last) == (dt.date(2026, 3, 3), dt.date(2026, 3, 12))
    os.utime(traffic[0], (4e9, 4e9))  # in 2096, by a clock that is wrong
    assert take(traffic, tmp_path / "b", collected=None).collected.last <= dt.datetime.now(dt.timezone.utc).date()


def test_groups_are_drawn_with_their_samples_where_every_file_has_them(tmp_path: Path) -> None:
    files = [{**texts(100, 8, seed), "group": 100 * seed + np.arange(100)} for seed in range(2)]
    take(save(tmp_path / "grouped", *files), tmp_path / "set")
    drawn = [read_arrays(path) for path in sorted((tmp_path / "set").glob("*.npz"))]
    known = {(ids.tobytes(), group) for file in files for ids, group in zip(file["ids"], file["group"], strict=True)}
    found = {(ids.tobytes(), group) for file in drawn for ids, group in zip(file["ids"], file["group"], strict=True)}
    assert (len(found), found <= known) == (60, True)
    del files[1]["group"]
    take(save(tmp_path / "some", *files), tmp_path / "bare")
    assert all("group" not in read_arrays(path) for path in (tmp_path / "bare").glob("*.npz"))
