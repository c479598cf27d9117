from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.samples import blocks
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.stages import ingest as data
from tasks.stages.ingest import ingest
from tests.tasks.tiny import make_features, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import DataArtifact
    from tasks.samples.npz import Arrays
    from tasks.specs import ModelSpec

TEXTS = {
    "inputs": {
        "ids": {"dtype": "int64", "shape": ["batch", "sequence"]},
        "mask": {"dtype": "int64", "shape": ["batch", "sequence"]},
    },
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}, "sequence": {"min": 4, "opt": 8, "max": 16}},
}


def take_in(context: StageContext, folder: Path, *files: Arrays, spec: ModelSpec | None = None) -> DataArtifact:
    """Ingest these arrays, one file each: 0.npz, 1.npz, …"""
    paths = []
    for number, arrays in enumerate(files):
        paths.append(folder / f"{number}.npz")
        np.savez(paths[-1], **arrays)  # type: ignore[arg-type]
    return ingest(context, spec or tiny_spec(), paths, "validation.data").result


def joined(context: StageContext, artifact: Any, folder: Path) -> Arrays:
    shards = [load_arrays(path) for path in shard_paths(context.store.fetch(artifact, folder))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def test_what_is_taken_in_comes_out_whole_and_in_order(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD_SAMPLES", 7)
    files: list[Arrays] = [
        {"features": make_features(n, seed=n), "label": np.arange(n), "slice.level": np.array([f"l{n}"] * n)}
        for n in (10, 7, 1)
    ]
    found = take_in(context, tmp_path, *files)
    assert found.samples == 18
    assert [file.path for file in found.inputs.files] == [f"{number:05d}.npz" for number in range(4)]
    assert [file.path for file in found.annotations.files] == [file.path for file in found.inputs.files]
    inputs = joined(context, found.inputs, tmp_path / "inputs")
    annotations = joined(context, found.annotations, tmp_path / "annotations")
    np.testing.assert_array_equal(inputs["features"], np.concatenate([file["features"] for file in files]))
    assert set(inputs) == {"features"}
    assert set(annotations) == {"label", "slice.level"}
    assert annotations["slice.level"].tolist() == ["l10"] * 10 + ["l7"] * 7 + ["l1"]


def test_a_large_file_is_taken_in_by_blocks_as_it_would_be_whole_and_its_rows_keep_their_numbers(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD_SAMPLES", 3)
    arrays = {"features": make_features(50), "label": np.arange(50), "slice.level": np.array(["a", "long"] * 25)}
    whole = take_in(context, tmp_path, arrays)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    parts = take_in(context, tmp_path, {**arrays, "label": np.arange(50)[::-1]})
    assert parts.inputs == whole.inputs
    assert joined(context, parts.annotations, tmp_path / "out")["label"].tolist() == list(range(50))[::-1]
    arrays["features"][[30, 41]] = np.nan
    with pytest.raises(InputError, match=r"0.npz, rows 24 to 35: features holds NaN or Inf in 1 samples \(first: 30\)"):
        take_in(context, tmp_path, arrays)


def test_the_names_of_the_slices_are_told_and_a_slice_that_names_samples_is_refused(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "LARGEST_SLICE", 4)
    monkeypatch.setattr(data, "SHARD_SAMPLES", 2)
    kept = {"features": make_features(5), "slice.noise": np.arange(5) % 4, "slice.level": np.array(list("aabcd"))}
    assert take_in(context, tmp_path, kept).slices == ("level", "noise")
    assert take_in(context, tmp_path, {"features": make_features(5)}).slices == ()
    with pytest.raises(InputError, match=r"validation.data: slice.noise has more than 4 distinct values, .* groups"):
        take_in(context, tmp_path, {**kept, "slice.noise": np.arange(5)})


def test_a_group_is_an_annotation_of_text_or_whole_numbers(context: StageContext, tmp_path: Path) -> None:
    kept = {"features": make_features(4), "group": np.array(["a", "b", "a", "c"])}
    found = take_in(context, tmp_path, kept)
    annotations = joined(context, found.annotations, tmp_path / "annotations")
    assert (annotations["group"].tolist(), found.slices) == (["a", "b", "a", "c"], ())
    with pytest.raises(InputError, match=r"0.npz: group has dtype float64; name each group by text or a whole number"):
        take_in(context, tmp_path, {**kept, "group": np.arange(4.0)})
    with pytest.raises(InputError, match=r"1.npz: has neither label, group nor slices.*; every file needs the same"):
        take_in(context, tmp_path, kept, {"features": make_features(4)})


def test_shards_stay_below_their_size(context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD_BYTES", 3 * 16)  # a sample has 16 bytes
    found = take_in(context, tmp_path, {"features": make_features(10)})
    assert len(found.inputs.files) == 4
    monkeypatch.setattr(data, "SHARD_BYTES", 1)
    found = take_in(context, tmp_path, {"features": make_features(3)})
    assert len(found.inputs.files) == 3


def test_files_may_differ_in_a_named_dimension_within_its_bounds(context: StageContext, tmp_path: Path) -> None:
    files: list[Arrays] = [{name: np.ones((2, length), np.int64) for name in ("ids", "mask")} for length in (4, 16)]
    assert take_in(context, tmp_path, *files, spec=tiny_spec(**TEXTS)).samples == 4


def with_nan(where: tuple[int, ...], value: float = np.nan) -> np.ndarray[Any, Any]:
    features = make_features(9)
    features[where] = value
    return features


BAD: dict[str, tuple[Arrays, list[str]]] = {
    "missing input": ({"label": np.zeros(3)}, ["input 'features' is missing", "arrays found: label"]),
    "no arrays": ({}, ["input 'features' is missing", "none"]),
    "dtype": ({"features": np.zeros((3, 4))}, ["features is float64", "model.yaml says float32", "convert"]),
    "byte order": ({"features": np.zeros((3, 4), ">f4")}, ["features", "byte order", ".astype('float32')"]),
    "rank": ({"features": np.zeros((3, 4, 1), np.float32)}, ["features has 3 axes", "says 2", "[batch, 4]"]),
    "scalar": ({"features": np.zeros((), np.float32)}, ["features has 0 axes"]),
    "fixed extent": ({"features": np.zeros((3, 5), np.float32)}, ["extent 5 on axis 1", "model.yaml says 4"]),
    "NaN": ({"features": with_nan((7, 2))}, ["features holds NaN or Inf in 1 samples", "first: 7", "remove or mend"]),
    "Inf": ({"features": with_nan((0, 0), -np.inf)}, ["features holds NaN or Inf", "first: 0"]),
    "zero samples": ({"features": np.zeros((0, 4), np.float32)}, ["holds no samples", "fill it"]),
    "zero samples with a label": (
        {"features": np.zeros((0, 4), np.float32), "label": np.zeros(0)},
        ["holds no samples"],
    ),
    "label too short": ({"features": make_features(3), "label": np.zeros(2)}, ["label has shape (2,)", "3 samples"]),
    "label of other samples": ({"features": make_features(3), "label": np.zeros((1, 3))}, ["label has shape (1, 3)"]),
    "slice of columns": ({"features": make_features(3), "slice.z": np.zeros((3, 1))}, ["slice.z has shape (3, 1)"]),
    "label NaN": ({"features": make_features(2), "label": np.array([0, np.nan])}, ["label holds NaN", "first: 1"]),
    "label of text": (
        {"features": make_features(2), "label": np.array(["a", "b"])},
        ["label is text; give the right score, or the number"],
    ),
    "slice without a name": ({"features": make_features(2), "slice.": np.zeros(2)}, ["array 'slice.' is no input"]),
    "complex slice": (
        {"features": make_features(2), "slice.z": np.zeros(2, complex)},
        ["slice.z has dtype complex128"],
    ),
    "unknown array": (
        {"features": make_features(2), "feature": make_features(2)},
        ["array 'feature' is no input", "did you mean 'features'?"],
    ),
    "unknown label": ({"features": make_features(2), "labels": np.zeros(2)}, ["'labels'", "did you mean 'label'?"]),
}


@pytest.mark.parametrize(("arrays", "words"), BAD.values(), ids=BAD)
def test_bad_data_names_file_array_reason_and_remedy(
    context: StageContext, tmp_path: Path, arrays: Arrays, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        take_in(context, tmp_path, {"features": make_features(2)}, arrays)
    text = str(caught.value)
    assert text.startswith("validation.data: 1.npz: ") or "label" in arrays or "slice.z" in arrays
    assert "1.npz" in text
    assert [word for word in words if word not in text] == []
    assert not list((tmp_path / "store").glob("records/*/*"))
    assert not list((tmp_path / "store" / "scratch").glob("*"))


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ((3, 8), (2, 8), ["mask has 2 samples", "ids has 3", "must agree"]),
        ((3, 8), (3, 9), ["mask has 9 as sequence", "ids has 8", "must agree"]),
        ((3, 17), (3, 17), ["ids has sequence 17", "outside dims.sequence 4..16", "widen the dim"]),
        ((3, 3), (3, 3), ["ids has sequence 3", "outside dims.sequence 4..16"]),
    ],
)
def test_lengths_that_disagree_or_leave_the_dims_are_refused(
    context: StageContext, tmp_path: Path, ids: tuple[int, int], mask: tuple[int, int], words: list[str]
) -> None:
    arrays: Arrays = {"ids": np.ones(ids, np.int64), "mask": np.ones(mask, np.int64)}
    with pytest.raises(InputError) as caught:
        take_in(context, tmp_path, arrays, spec=tiny_spec(**TEXTS))
    assert [word for word in words if word not in str(caught.value)] == []


def test_all_that_is_wrong_is_told_at_once_of_every_file_up_to_a_number(
    context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        wrong = np.full((6, 5), np.nan)
        np.savez(tmp_path / f"{number}.npz", features=wrong, extra=np.zeros(6), label=np.zeros(5))
    files = [tmp_path / f"{number}.npz" for number in range(3)]
    with pytest.raises(InputError) as caught:
        ingest(context, tiny_spec(), files, "validation.data")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 * 5
    for words in (
        "array 'extra' is no input",
        "is float64",
        "extent 5 on axis 1",
        "NaN or Inf in 6",
        "label has shape",
    ):
        assert sum(words in line for line in lines) == 3, words
    monkeypatch.setattr("tasks.stages.ingest.MOST_PROBLEMS", 4)
    with pytest.raises(InputError, match=r"validation.data: and 11 more such lines$"):
        ingest(context, tiny_spec(), files, "validation.data")


def test_every_file_needs_the_same_annotations(context: StageContext, tmp_path: Path) -> None:
    first, second = {"features": make_features(2), "label": np.zeros(2)}, {"features": make_features(2)}
    with pytest.raises(InputError, match=r"1.npz: has neither label, group nor slices, the files before have label"):
        take_in(context, tmp_path, first, second)


def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    np.savez(tmp_path / "p.npz", features=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match=r"p.npz: array 'features' cannot be read without pickle"):
        load_arrays(tmp_path / "p.npz")
    assert not (tmp_path / "ran").exists()


def write_unreadable(path: Path, kind: str) -> None:
    if kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "pickle":
        with path.open("wb") as stream:
            np.save(stream, np.array([object]), allow_pickle=True)
    elif kind == "member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features", b"no array")
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"features", "cut": b"PK\x03\x04 and no more"}[kind])


@pytest.mark.parametrize("kind", ["npy", "pickle", "member", "folder", "missing", "empty", "text", "cut"])
def test_what_is_no_npz_is_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    write_unreadable(tmp_path / "v.npz", kind)
    with pytest.raises(InputError, match=r"^v.npz: .*numpy.savez"):
        load_arrays(tmp_path / "v.npz")


@settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), compressed=st.booleans(), cut=st.booleans())
@example(where=0.03, bit=0, compressed=True, cut=False)
def test_a_damaged_npz_is_read_or_refused_but_never_a_crash(
    tmp_path: Path, where: float, bit: int, compressed: bool, cut: bool
) -> None:
    path = tmp_path / "v.npz"
    (np.savez_compressed if compressed else np.savez)(path, features=make_features(40), label=np.arange(40))
    content = bytearray(path.read_bytes())
    position = int(where * len(content))
    content[position] ^= 1 << bit
    path.write_bytes(content[:position] if cut else content)
    try:
        load_arrays(path)
    except InputError as error:
        assert str(error).startswith("v.npz: ")  # noqa: PT017 - reading it may also succeed


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_shard(tmp_path / folder, 3, {"x": make_features(3), "y": np.array(["ä"])})
    assert (tmp_path / "a" / "00003.npz").read_bytes() == (tmp_path / "b" / "00003.npz").read_bytes()


def test_the_same_files_are_taken_in_once_and_one_other_number_again(context: StageContext, tmp_path: Path) -> None:
    def add(label: float) -> bool:
        np.savez(tmp_path / "v.npz", features=make_features(3), label=np.array([0.0, 1.0, label]))
        return ingest(context, tiny_spec(), [tmp_path / "v.npz"], "validation.data").cached

    assert [add(2.0), add(2.0), add(2.5), add(2.0)] == [False, True, False, True]


def test_other_bounds_of_a_dim_check_the_data_again(context: StageContext, tmp_path: Path) -> None:
    arrays: Arrays = {name: np.ones((2, 12), np.int64) for name in ("ids", "mask")}
    take_in(context, tmp_path, arrays, spec=tiny_spec(**TEXTS))
    narrow = {**TEXTS, "dims": {**TEXTS["dims"], "sequence": {"min": 4, "opt": 8, "max": 8}}}
    with pytest.raises(InputError, match=r"sequence 12, outside dims.sequence 4..8"):
        take_in(context, tmp_path, arrays, spec=tiny_spec(**narrow))


BOUNDED = {
    "inputs": {
        "x": {"dtype": "float32", "shape": ["batch", "time"]},
        "lengths": {"dtype": "int64", "shape": ["batch"], "range": [1, "time"]},
    },
    "dims": {
        "batch": {"min": 1, "opt": 4, "max": 8},
        "time": {"min": 4, "opt": 8, "max": 16, "multiple_of": 4},
    },
}


@pytest.mark.parametrize(
    ("extent", "lengths", "said"),
    [
        (8, [1, 9], r"lengths leaves its range \[1, time\] of model.yaml, here 1 to 8, in 1 samples \(first: 1\)"),
        (6, [1, 2], r"x has time 6, and model.yaml says dims.time.multiple_of 4; pad those samples to 8"),
    ],
)
def test_values_beyond_their_range_and_extents_between_multiples_are_refused(
    context: StageContext, tmp_path: Path, extent: int, lengths: list[int], said: str
) -> None:
    arrays = {"x": np.zeros((2, extent), np.float32), "lengths": np.array(lengths)}
    with pytest.raises(InputError, match=said):
        take_in(context, tmp_path, arrays, spec=tiny_spec(**BOUNDED))


SHARED = {
    "inputs": {
        "features": {"dtype": "float32", "shape": ["batch", 4]},
        "scale": {"dtype": "float32", "shape": []},
    }
}


@pytest.mark.parametrize("scale", [np.float32(2), np.array([2, 1, 2, 3, 1], np.float32)])
def test_samples_of_a_shard_share_what_a_call_shares_and_keep_their_labels(
    context: StageContext, tmp_path: Path, scale: np.ndarray[Any, Any]
) -> None:
    arrays = {"features": make_features(5), "scale": scale, "label": np.arange(5)}
    found = take_in(context, tmp_path, arrays, spec=tiny_spec(**SHARED))
    rows = []
    beside = context.store.fetch(found.annotations, tmp_path / "beside")
    for path in shard_paths(context.store.fetch(found.inputs, tmp_path / "inputs")):
        shard = load_arrays(path)
        labels = load_arrays(beside / path.name)["label"]
        assert len(set(shard["scale"].tolist())) == 1
        np.testing.assert_array_equal(shard["features"], arrays["features"][labels])
        np.testing.assert_array_equal(shard["scale"], np.broadcast_to(scale, 5)[labels])
        rows += labels.tolist()
    assert sorted(rows) == list(range(5))
