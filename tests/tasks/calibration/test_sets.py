from __future__ import annotations

import datetime as dt
import hashlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tasks.calibration import sets
from tasks.calibration.sets import count_strata, read_set
from tasks.declared import InputSpec
from tasks.errors import InputError, RefusedError, StageError
from tasks.model.set_manifest import CalibrationManifest, SetFile, make_manifest, read_manifest, write_manifest
from tasks.samples.formats import read_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.calibration.sets import CalibrationSet

SHIPPED = Path(__file__).parents[3] / "calibration_sets"
DAY = dt.date(2026, 11, 20)
BUCKET = "calibration"


def save(path: Path, samples: int = 40, seed: int = 0, **slices: Any) -> None:
    features = np.random.default_rng(seed).standard_normal((samples, 4)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=features, **{f"slice.{name}": values for name, values in slices.items()})


def describe(folder: Path, **changes: Any) -> CalibrationManifest:
    """Write the manifest of the data in a folder; keywords replace fields."""
    made = make_manifest(
        folder,
        name="tiny",
        inputs={"features": InputSpec(dtype="float32", shape=("batch", 4))},
        source="Made by this test.",
        collected=(DAY, DAY),
    ).model_copy(update=changes)
    write_manifest(folder, made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two files of 40 samples: printed ones, and as many written by hand."""
    save(tmp_path / "set" / "a.npz", seed=1, script=np.array(["printed"] * 40))
    save(tmp_path / "set" / "b" / "a.npz", seed=2, script=np.array(["handwritten"] * 40))
    describe(tmp_path / "set")
    return tmp_path / "set"


def read(folder: Path) -> CalibrationSet:
    return read_set(folder, folder.parent / "downloads")


def test_the_files_of_a_whole_set_are_found_in_the_manifests_order(folder: Path) -> None:
    made = read_manifest(folder)
    write_manifest(folder, made.model_copy(update={"files": made.files[::-1]}))
    found = read(folder)
    assert found.files == ((folder / "b" / "a.npz").resolve(), (folder / "a.npz").resolve())
    assert found.manifest.files == made.files[::-1]
    assert found.folder == folder


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob("*/manifest.yaml")))
def test_the_shipped_sets_are_whole_and_hold_what_they_say(tmp_path: Path, name: str) -> None:
    found = read_set(SHIPPED / name, tmp_path)
    assert count_strata(found, map(read_arrays, found.files)) == found.manifest.strata
    assert list(tmp_path.iterdir()) == []


def test_every_file_that_differs_is_listed_with_both_digests(folder: Path) -> None:
    expected = {file.path: file.sha256 for file in read_manifest(folder).files}
    for path in expected:
        (folder / path).write_bytes(b"other " + path.encode())
    with pytest.raises(RefusedError, match=r"2 of 2 files are not those of manifest.yaml") as caught:
        read(folder)
    assert caught.value.exit_code == 5
    assert str(caught.value).splitlines()[1:] == [
        f"{path}: expected {digest}, is {hashlib.sha256(b'other ' + path.encode()).hexdigest()}"
        for path, digest in sorted(expected.items())
    ]


def test_a_file_that_is_missing_is_named_by_field(folder: Path) -> None:
    (folder / "b" / "a.npz").unlink()
    words = r"calibration set tiny: manifest.yaml: files.1.path: b/a.npz is no file; correct the path"
    with pytest.raises(InputError, match=words):
        read(folder)


def test_files_that_the_manifest_does_not_know_are_listed(folder: Path) -> None:
    for name in ("c.npz", "b/c.safetensors", "c.parquet"):
        (folder / name).write_bytes(b"")
    (folder / "notes.txt").write_text("no data")
    words = "3 data files of the folder are not listed: b/c.safetensors, c.npz, c.parquet; list or remove them"
    with pytest.raises(InputError, match=words):
        read(folder)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_taken(folder: Path, tmp_path: Path) -> None:
    (folder / "a.npz").rename(tmp_path / "a.npz")
    (folder / "a.npz").symlink_to(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"files.0.path: a.npz is a link out of the set's folder; copy"):
        read(folder)
    (folder / "a.npz").unlink()
    (tmp_path / "a.npz").rename(folder / "a.bin")
    (folder / "a.npz").symlink_to("a.bin")
    assert len(read(folder).files) == 2


@pytest.mark.parametrize("path", ["nul\0.npz", "x" * 300 + ".npz"])
def test_what_cannot_be_a_path_is_an_input_error(folder: Path, path: str) -> None:
    made = read_manifest(folder)
    bad = SetFile(path=path, samples=40, sha256="0" * 64)
    write_manifest(folder, made.model_copy(update={"files": (*made.files, bad), "samples": 120}))
    with pytest.raises(InputError, match=r"files.2.path: .* (cannot be a path|is no file)"):
        read(folder)


def counted(folder: Path) -> dict[str, dict[str, int]]:
    found = read(folder)
    return count_strata(found, map(read_arrays, found.files))


def test_samples_are_counted_by_stratum_and_value_with_zero_where_there_is_none(folder: Path) -> None:
    describe(folder, strata={"script": {"printed": 1, "handwritten": 0.5, "cursive": 30}})
    assert counted(folder) == {"script": {"printed": 40, "handwritten": 40, "cursive": 0}}


def test_levels_that_are_numbers_are_counted_as_the_manifests_text(tmp_path: Path) -> None:
    levels = np.arange(40) % 3
    save(tmp_path / "set" / "a.npz", level=levels)
    describe(tmp_path / "set", strata={"level": {"0": 1, "1": 1, "2": 1}})
    assert counted(tmp_path / "set") == {"level": {"0": 14, "1": 13, "2": 13}}
    assert np.bincount(levels).tolist() == [14, 13, 13]


def test_all_values_that_the_manifest_does_not_know_are_named_with_file_and_count(folder: Path) -> None:
    describe(folder, strata={"script": {"cursive": 1}})
    with pytest.raises(InputError) as caught:
        counted(folder)
    remedy = "which manifest.yaml does not know under strata.script; add it or remove them"
    assert str(caught.value).splitlines() == [
        f"calibration set tiny: slice.script holds 'printed' in 40 samples of a.npz, {remedy}",
        f"calibration set tiny: slice.script holds 'handwritten' in 40 samples of b/a.npz, {remedy}",
    ]


def test_a_stratum_that_a_file_lacks_is_named(folder: Path) -> None:
    describe(folder, strata={"noise": {"quiet": 1}})
    with pytest.raises(InputError, match=r"a.npz has no slice.noise, which manifest.yaml has under strata; add"):
        counted(folder)


def test_a_count_of_samples_that_is_wrong_is_named_by_field(folder: Path) -> None:
    made = read_manifest(folder)
    files = [file.model_copy(update={"samples": n}) for file, n in zip(made.files, (39, 41), strict=True)]
    write_manifest(folder, made.model_copy(update={"files": tuple(files)}))
    with pytest.raises(InputError, match=r"manifest.yaml: files.0.samples: 39, but a.npz holds 40; correct"):
        counted(folder)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def connect(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in {
        "ENDPOINT_URL": endpoint,
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "eu-central-1",
        "MAX_ATTEMPTS": "1",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(f"AWS_{name}", value)


@pytest.fixture
def remote(s3: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same set with its second file in S3."""
    connect(monkeypatch, s3)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.upload_file(str(folder / "b" / "a.npz"), BUCKET, "traffic/hand.npz")
    (folder / "b" / "a.npz").unlink()
    move(folder, f"s3://{BUCKET}/traffic/hand.npz")
    yield folder
    for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


def move(folder: Path, path: str) -> None:
    """Give the second file of the manifest another path."""
    made = read_manifest(folder)
    files = (made.files[0], made.files[1].model_copy(update={"path": path}))
    write_manifest(folder, made.model_copy(update={"files": files}))


def test_a_file_in_s3_is_fetched_once_and_kept_by_its_digest(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(remote)
    digest = found.manifest.files[1].sha256
    assert found.files[1] == remote.parent / "downloads" / "sha256" / digest / "hand.npz"
    assert count_strata(found, map(read_arrays, found.files)) == {"script": {"printed": 40, "handwritten": 40}}
    assert list((remote.parent / "downloads" / "scratch").iterdir()) == []
    connect(monkeypatch, "http://127.0.0.1:9")  # nobody listens
    assert read(remote) == found


def test_the_same_bytes_under_another_name_are_not_fetched_again(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(remote)
    move(remote, f"s3://{BUCKET}/traffic/other.npz")
    connect(monkeypatch, "http://127.0.0.1:9")
    second = read(remote)
    assert second.files[1].name == "other.npz"
    assert second.files[1].read_bytes() == first.files[1].read_bytes()


def test_a_download_that_was_damaged_is_fetched_again(remote: Path) -> None:
    path = read(remote).files[1]
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    assert read(remote).files[1].read_bytes() == whole


def test_an_object_with_another_digest_is_refused_along_with_local_ones_and_not_kept(remote: Path) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key="traffic/hand.npz", Body=b"swapped")
    (remote / "a.npz").write_bytes(b"other")
    expected = [file.sha256 for file in read_manifest(remote).files]
    with pytest.raises(RefusedError) as caught:
        read(remote)
    assert str(caught.value).splitlines()[1:] == [
        f"a.npz: expected {expected[0]}, is {hashlib.sha256(b'other').hexdigest()}",
        f"s3://{BUCKET}/traffic/hand.npz: expected {expected[1]}, is {hashlib.sha256(b'swapped').hexdigest()}",
    ]
    assert not [path for path in (remote.parent / "downloads").rglob("*") if path.is_file()]


@pytest.mark.parametrize("path", [f"s3://{BUCKET}/absent.npz", "s3://no-such-bucket/a.npz", "s3://no bucket/a.npz"])
def test_an_object_that_is_not_there_is_an_input_error_by_field(remote: Path, path: str) -> None:
    move(remote, path)
    with pytest.raises(InputError, match=rf"yaml: files.1.path: {path}: cannot fetch: .*; correct the address"):
        read(remote)


def test_an_endpoint_that_is_no_address_is_an_input_error(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    with pytest.raises(InputError, match=r"Invalid endpoint: .*nowhere"):
        read(remote)


def test_missing_credentials_are_an_input_error(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"cannot fetch: Unable to locate credentials; correct .* credentials"):
        read(remote)


def test_a_server_that_does_not_answer_is_no_fault_of_the_set(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        connect(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StageError, match=r"cannot fetch: .*; check the network, .* and run it again"):
            read(remote)


def test_a_download_that_breaks_off_leaves_nothing_behind(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(_body: Any, target: Path) -> str:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sets, "_write", break_off)
    with pytest.raises(KeyboardInterrupt):
        read(remote)
    assert not [path for path in (remote.parent / "downloads").rglob("*") if path.is_file()]


def test_without_boto3_the_error_says_what_to_install(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tasks.objects.s3_client", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"files.1.path: .* needs the package boto3; install enginegate\[s3\]"):
        read(remote)
