"""manifest.yaml of a calibration set: what the set holds, where it comes from, and what it must cover.

Words: a *stratum* is an array `slice.<name>` of the data that the set must cover; its *values* are compared as text.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from tasks.declared import ArrayName, Declared, InputSpec
from tasks.errors import InputError
from tasks.layouts import samples_first
from tasks.model.documents import parse, read_yaml, write_yaml
from tasks.samples.data_spec import SLICE, slices_in
from tasks.samples.formats import DATA_SUFFIXES, read_arrays
from tasks.samples.regular import refuse_special
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tasks.samples.npz import Arrays

MANIFEST_FILE = "manifest.yaml"
LEAST_SAMPLES = 32
"""Fewest samples that ranges of activations may be taken from."""
LARGEST_STRATUM = 64
"""Most values of a slice that is taken for a stratum unasked; one with more names samples, or measures them."""
S3 = "s3://"
CLOCKS_DIFFER = dt.timedelta(days=1)
ROUNDING = 1e-9


def _stratum_keys(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    known: dict[str, object] = {}
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise ValueError(f"value {value!r} is neither text nor a whole number; write it in quotes")
        if str(value) in known:
            raise ValueError(f"{known[str(value)]!r} and {value!r} are the same value; remove one")
        known[str(value)] = value
    return {str(value): minimum for value, minimum in values.items()}


def _minimum(value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError(
        f"{value!r} is no minimum; give a whole number of samples, 0 or more, or a share above 0 and below 1"
    )


def _shares_fit(values: dict[str, int | float]) -> dict[str, int | float]:
    total = sum(minimum for minimum in values.values() if isinstance(minimum, float))
    if total > 1 + ROUNDING:
        raise ValueError(f"the shares sum to {total:g}, above 1; lower them")
    return values


def _data_path(path: str) -> str:
    bucket, _, key = path.removeprefix(S3).partition("/")
    if path.startswith(S3):
        if not bucket or not key:
            raise ValueError(f"{path!r} names no object; write s3://bucket/key")
    elif not path or "\\" in path or "://" in path or PurePosixPath(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path!r} must be a path inside the set's folder, or s3://bucket/key; put the file there")
    if PurePosixPath(path).suffix not in DATA_SUFFIXES:
        raise ValueError(f"{path!r} is no data file; its name must end in one of {', '.join(DATA_SUFFIXES)}")
    return path


def _relative(path: str) -> str:
    if PurePosixPath(path).is_absolute() or "://" in path:
        raise ValueError(f"{path!r} is no path relative to the set's folder; give one, as ../../examples/…/validation")
    return path


Stratum = Annotated[
    dict[str, Annotated[int | float, PlainValidator(_minimum)]],
    BeforeValidator(_stratum_keys),
    AfterValidator(_shares_fit),
    Field(min_length=1),
]
"""Least samples by value: an int counts samples, a float is a share of the set's samples."""


class Collected(Declared):
    """Days on which the first and the last sample came in; `from` and `to` in the file."""

    first: dt.date = Field(alias="from")
    last: dt.date = Field(alias="to")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        unknown = sorted(str(key) for key in set(content) - {"from", "to"}) if isinstance(content, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; the keys are from and to")
        return content

    @model_validator(mode="after")
    def _in_order(self) -> Collected:
        if self.first > self.last:
            raise ValueError(f"from {self.first} is after to {self.last}; swap them")
        today = _today()
        if self.last > today + CLOCKS_DIFFER:
            raise ValueError(f"to {self.last} is in the future, today is {today}; correct it")
        return self


class SetFile(Declared):
    """One file of a set: its path inside the set's folder or `s3://bucket/key`, and SHA-256 in hexadecimal."""

    path: Annotated[str, AfterValidator(_data_path)]
    samples: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def is_remote(self) -> bool:
        """Whether the file lies in S3."""
        return self.path.startswith(S3)


class CalibrationManifest(Declared):
    """manifest.yaml. What the files hold is checked by `tasks.calibration.sets`, not here."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+([-_][a-z0-9]+)*$", max_length=64)]
    inputs: Annotated[dict[ArrayName, InputSpec], Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    collected: Collected
    samples: int
    files: Annotated[tuple[SetFile, ...], Field(min_length=1, strict=False)]
    strata: dict[Annotated[str, Field(min_length=1)], Stratum] = Field(default_factory=dict)
    max_age_days: Annotated[int, Field(ge=1)] | None = None
    resembles: Annotated[str, Field(min_length=1), AfterValidator(_relative)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _samples_are_first(cls, written: object) -> object:
        return samples_first(written)

    @model_validator(mode="after")
    def _files_are_told_apart(self) -> CalibrationManifest:
        repeated = [path for path, times in Counter(file.path for file in self.files).items() if times > 1]
        if repeated:
            raise ValueError(f"files: {', '.join(sorted(repeated))} is listed twice; remove one")
        return self

    @model_validator(mode="after")
    def _samples_add_up(self) -> CalibrationManifest:
        total = sum(file.samples for file in self.files)
        if total != self.samples:
            raise ValueError(f"samples: {self.samples}, but the files sum to {total}; correct one of them")
        if self.samples < LEAST_SAMPLES:
            raise ValueError(
                f"samples: {self.samples}, but a calibration set needs {LEAST_SAMPLES} or more; add"
                f" {LEAST_SAMPLES - self.samples}"
            )
        return self


def _today() -> dt.date:
    return dt.datetime.now(dt.timezone.utc).date()


def age_days(manifest: CalibrationManifest, today: dt.date) -> int:
    """Days since the set's last sample came in. Whether that is too old is the caller's to say."""
    return (today - manifest.collected.last).days


def read_manifest(folder: Path) -> CalibrationManifest:
    """Read and check `folder`/manifest.yaml.

    Raises:
        InputError: it is missing, or wrong: a line for each mistake, `manifest.yaml: field: what, why, remedy`.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {MANIFEST_FILE}, so nothing says what this calibration set should hold; make a set with"
            " `enginegate calibration draw`, or write the file (calibration_sets/README.md says how)"
        )
    return parse(CalibrationManifest, read_yaml(path), MANIFEST_FILE)


def write_manifest(folder: Path, manifest: CalibrationManifest) -> None:
    """Write `folder`/manifest.yaml so that nobody sees a part of it. The same manifest gives the same bytes."""
    content = manifest.model_dump(by_alias=True, exclude_defaults=True)
    if manifest.strata:
        content["strata"] = {name: _plain_keys(values) for name, values in manifest.strata.items()}
    text = write_yaml(content)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, prefix=".manifest-", delete=False) as staged:
        try:
            staged.write(text)
            staged.flush()
            os.fsync(staged.fileno())
            Path(staged.name).chmod(0o644)
            Path(staged.name).replace(folder / MANIFEST_FILE)
        except BaseException:
            Path(staged.name).unlink(missing_ok=True)
            raise


def _plain_keys(values: Mapping[str, int | float]) -> dict[str | int, int | float]:
    # `3:` reads better than `'3':`, and is read back as the same text; `'03'` is not.
    numbers = {value: int(value) for value in values if value.isascii() and value.isdigit()}
    return {
        numbers[value] if value in numbers and str(numbers[value]) == value else value: minimum
        for value, minimum in values.items()
    }


def data_files_in(folder: Path) -> list[Path]:
    """The data files in a folder and below, by path; hidden ones are none.

    Raises:
        InputError: one of them is a pipe, a socket or a device.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in DATA_SUFFIXES
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    for path in found:
        refuse_special(path, path.relative_to(folder).as_posix())
    return [path for path in found if path.is_file()]


def count_samples(arrays: Arrays, inputs: Collection[str], origin: str) -> int:
    """The number of samples in the arrays of one file.

    Raises:
        InputError: an input is missing, or inputs and slices differ in their number of samples.
    """
    for name in inputs:
        if name not in arrays:
            found = ", ".join(sorted(arrays)) or "none"
            raise InputError(f"{origin}: input {name!r} is missing (arrays found: {found}); save it under that name")
    first = next(iter(inputs))
    shapes = {name: arrays[name].shape for name in [*inputs, *(name for name in arrays if name.startswith(SLICE))]}
    samples = shapes[first][0] if shapes[first] else 0
    for name, shape in shapes.items():
        if shape[:1] != (samples,) or (name.startswith(SLICE) and len(shape) > 1):
            raise InputError(f"{origin}: {name} has shape {shape}, but {first} has {samples} samples; they must agree")
    return int(samples)


def count_values(array: np.ndarray[Any, Any]) -> Counter[str]:
    """How many samples hold each value of a slice [samples]; values as text, in their order."""
    values, counts = np.unique(array.astype(np.str_), return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _describe(folder: Path, path: Path, arrays: Arrays, inputs: Collection[str]) -> SetFile:
    relative = path.relative_to(folder).as_posix()
    samples = count_samples(arrays, inputs, relative)
    if samples == 0:
        raise InputError(f"{relative}: holds no samples; remove the file or fill it")
    return SetFile(path=relative, samples=samples, sha256=digest_file(path)[0].removeprefix("sha256:"))


def make_manifest(
    folder: Path,
    *,
    name: str,
    inputs: Mapping[str, InputSpec],
    source: str,
    collected: tuple[dt.date, dt.date],
    strata: Mapping[str, Mapping[str, int | float]] | None = None,
    max_age_days: int | None = None,
    resembles: str | None = None,
) -> CalibrationManifest:
    """The manifest of the data files in a folder, which are read for it. Nothing is written: see `write_manifest`.

    Args:
        folder: the set's folder.
        name: the set's name.
        inputs: the inputs that every file holds.
        source: where the samples come from, in a sentence.
        collected: the days of the first and the last sample.
        strata: least samples by stratum and value; None: every slice with at most 64 values is a stratum, and what
            was found its minimum.
        max_age_days: days after the last sample from which on the set is too old.
        resembles: the sample that the set must look like, relative to the folder.

    Raises:
        InputError: a file cannot be used, or the manifest would be wrong.
    """
    files, counts = [], []
    for path in data_files_in(folder):
        arrays = read_arrays(path)
        files.append(_describe(folder, path, arrays, inputs))
        counts.append({name: count_values(array) for name, array in slices_in(arrays).items()})
    content = {
        "name": name,
        "inputs": {key: spec.model_dump() for key, spec in inputs.items()},
        "source": source,
        "collected": {"from": collected[0], "to": collected[1]},
        "samples": sum(file.samples for file in files),
        "files": [file.model_dump() for file in files],
        "strata": _strata_found(counts) if strata is None else {key: dict(values) for key, values in strata.items()},
        "max_age_days": max_age_days,
        "resembles": resembles,
    }
    return parse(CalibrationManifest, content, MANIFEST_FILE)


def _strata_found(counts: Sequence[Mapping[str, Counter[str]]]) -> dict[str, dict[str, int]]:
    totals: dict[str, Counter[str]] = {}
    for name in sorted({name for of_file in counts for name in of_file}):
        files = [of_file[name] for of_file in counts if name in of_file]
        if len(files) < len(counts):
            raise InputError(f"{SLICE}{name} is in {len(files)} of {len(counts)} files; every file needs it, or none")
        totals[name] = sum(files, Counter())
    return {name: dict(sorted(values.items())) for name, values in totals.items() if len(values) <= LARGEST_STRATUM}
