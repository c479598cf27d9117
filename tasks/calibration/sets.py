"""Finds the files of a calibration set, in its folder or in S3, and checks that they are what its manifest says."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError, RefusedError
from tasks.model.set_manifest import (
    MANIFEST_FILE,
    S3,
    CalibrationManifest,
    SetFile,
    count_samples,
    count_values,
    data_files_in,
    read_manifest,
)
from tasks.samples.data_spec import SLICE
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.store.blobs import link_or_copy
from tasks.store.digests import CHUNK_BYTES, digest_file
from tasks.store.scratch import ScratchSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.samples.npz import Arrays

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CalibrationSet:
    """A set whose files are there with the digests that the manifest gives, `files` in the manifest's order."""

    folder: Path
    manifest: CalibrationManifest
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Found:
    """Where a file of a set lies, or None where its bytes are others and were not kept; and their SHA-256."""

    path: Path | None
    sha256: str


def read_set(folder: Path, downloads: Path) -> CalibrationSet:
    """Read the manifest of a set, find its files, and check every digest.

    A file in S3 is kept below `downloads`, as `sha256/<digest>/<name>`, and not fetched again. Endpoint, region and
    credentials come from where the AWS tools take them.

    Raises:
        InputError: the manifest is wrong, a file is missing, or one is there that the manifest does not know.
        RefusedError: files whose digests differ, all of them, with both digests.
        StageError: S3 failed.
    """
    manifest = read_manifest(folder)
    root = folder.resolve()
    _refuse_unlisted(root, manifest)
    local = {file.path: _find(root, manifest, file) for file in manifest.files if not file.is_remote}
    found = [
        _fetch(manifest, file, downloads)
        if file.is_remote
        else _Found(local[file.path], digest_file(local[file.path])[0].removeprefix("sha256:"))
        for file in manifest.files
    ]
    _refuse_other_digests(manifest, found)
    return CalibrationSet(folder, manifest, tuple(file.path for file in found if file.path is not None))


def _at(manifest: CalibrationManifest, file: SetFile) -> str:
    return f"calibration set {manifest.name}: {MANIFEST_FILE}: files.{manifest.files.index(file)}.path: {file.path}"


def _refuse_unlisted(root: Path, manifest: CalibrationManifest) -> None:
    listed = {str(PurePosixPath(file.path)) for file in manifest.files}
    unlisted = [path for path in data_files_in(root) if path.relative_to(root).as_posix() not in listed]
    if unlisted:
        names = ", ".join(path.relative_to(root).as_posix() for path in unlisted)
        raise InputError(
            f"calibration set {manifest.name}: {MANIFEST_FILE}: files: {len(unlisted)} data files of the folder are not"
            f" listed: {names}; list or remove them"
        )


def _find(root: Path, manifest: CalibrationManifest, file: SetFile) -> Path:
    try:
        path = (root / file.path).resolve()
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name too long, a NUL in it
        raise InputError(f"{_at(manifest, file)} cannot be a path ({error}); correct it") from None
    if not path.is_relative_to(root):
        raise InputError(f"{_at(manifest, file)} is a link out of the set's folder; copy the file into it")
    if not there:
        raise InputError(f"{_at(manifest, file)} is no file; correct the path, or put the file there")
    refuse_pointer(path, _at(manifest, file))
    return path


def _refuse_other_digests(manifest: CalibrationManifest, found: Sequence[_Found]) -> None:
    differing = [
        f"{file.path}: expected {file.sha256}, is {actual.sha256}"
        for file, actual in zip(manifest.files, found, strict=True)
        if file.sha256 != actual.sha256
    ]
    if differing:
        heading = (
            f"calibration set {manifest.name}: {len(differing)} of {len(found)} files are not those of {MANIFEST_FILE}"
            " (SHA-256); bring them back, or make the manifest again if the change is meant:"
        )
        raise RefusedError("\n".join([heading, *sorted(differing)]))


def _fetch(manifest: CalibrationManifest, file: SetFile, downloads: Path) -> _Found:
    target = downloads / "sha256" / file.sha256 / PurePosixPath(file.path).name
    if _is_kept(target, file.sha256):
        return _Found(target, file.sha256)
    with ScratchSpace(downloads / "scratch").folder() as folder:
        staged = folder / "file"
        digest = _download(file, staged, _at(manifest, file))
        if digest != file.sha256:
            return _Found(None, digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(target)
    return _Found(target, digest)


def _is_kept(target: Path, sha256: str) -> bool:
    # The folder is named by the digest; another set may know the same bytes by another name.
    for path in sorted(target.parent.glob("*"), key=lambda path: path != target):
        if digest_file(path)[0] == f"sha256:{sha256}":
            if path != target:
                link_or_copy(path, target)
            return True
        path.unlink()  # damaged since
    return False


def _download(file: SetFile, target: Path, place: str) -> str:
    """Write an object of S3 to `target`, and return its SHA-256 in hexadecimal."""
    try:
        from tasks.objects.s3_client import connect, explained  # noqa: PLC0415 - extra `s3`, and 0.3 s
    except ImportError:
        raise InputError(f"{place} needs the package boto3; install enginegate[s3]") from None
    bucket, _, key = file.path.removeprefix(S3).partition("/")
    client = connect(bucket, connections=1, timeout_s=TIMEOUT_S)
    with explained("fetch", place), closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
        return _write(body, target)


def _write(body: Any, target: Path) -> str:
    hasher = hashlib.sha256()
    with target.open("wb") as stream:
        while chunk := body.read(CHUNK_BYTES):
            hasher.update(chunk)
            stream.write(chunk)
    return hasher.hexdigest()


def count_strata(found: CalibrationSet, files: Iterable[Arrays]) -> dict[str, dict[str, int]]:
    """How many samples each value of each stratum has; 0 for a value that only the manifest knows.

    Args:
        found: the set.
        files: the arrays of each of its files, in their order; taken one after another, so they may be read lazily.

    Raises:
        InputError: a file holds another number of samples than the manifest says or lacks a stratum; or values of
            strata are not in the manifest: all of them, each with file and count.
    """
    manifest = found.manifest
    place = f"calibration set {manifest.name}"
    counts = {stratum: dict.fromkeys(minima, 0) for stratum, minima in manifest.strata.items()}
    unknown: list[str] = []
    for number, (file, arrays) in enumerate(zip(manifest.files, files, strict=True)):
        samples = count_samples(arrays, manifest.inputs, f"{place}: {file.path}")
        if samples != file.samples:
            raise InputError(
                f"{place}: {MANIFEST_FILE}: files.{number}.samples: {file.samples}, but {file.path} holds {samples};"
                " correct the one that is wrong"
            )
        for stratum, values in counts.items():
            unknown += [f"{place}: {text}" for text in _add_values(stratum, values, file, arrays)]
    if unknown:
        raise InputError("\n".join(unknown))
    return counts


def _add_values(stratum: str, counts: dict[str, int], file: SetFile, arrays: Arrays) -> list[str]:
    """Count the values of a file, and say which are not known."""
    array = arrays.get(f"{SLICE}{stratum}")
    if array is None:
        return [f"{file.path} has no {SLICE}{stratum}, which {MANIFEST_FILE} has under strata; add the array"]
    unknown = []
    for value, samples in count_values(array).items():
        if value in counts:
            counts[value] += samples
        else:
            unknown.append(
                f"{SLICE}{stratum} holds {value!r} in {samples} samples of {file.path}, which {MANIFEST_FILE} does not"
                f" know under strata.{stratum}; add it or remove them"
            )
    return unknown
