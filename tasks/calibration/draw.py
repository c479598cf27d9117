"""Draws a calibration set from samples of traffic; `choose` says which, this module reads and writes them."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.calibration.choose import Cell, choose_samples, values_of
from tasks.calibration.features import sample_digests
from tasks.errors import InputError
from tasks.model.set_manifest import LARGEST_STRATUM, LEAST_SAMPLES, count_samples, make_manifest, write_manifest
from tasks.samples.blocks import open_samples
from tasks.samples.data_spec import GROUP, SLICE
from tasks.samples.npz import FIRST_INDICES, Arrays

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tasks.declared import InputSpec
    from tasks.model.set_manifest import CalibrationManifest

FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class _Sample:
    """All samples of the files, in order: digest, file, row in it, and the values of the strata `by`."""

    by: Cell
    digests: list[str]
    files: NDArray[np.int64]
    rows: NDArray[np.int64]
    cells: list[Cell]
    slices: tuple[str, ...]


def draw_set(
    sample_files: Sequence[Path],
    out: Path,
    *,
    size: int,
    by: Sequence[str],
    inputs: Mapping[str, InputSpec],
    batch_dim: str,
    validation_digests: Collection[str],
    scores: NDArray[Any] | None,
    seed: int,
    name: str,
    source: str,
    resembles: str | None,
    collected: tuple[dt.date, dt.date] | None = None,
) -> CalibrationManifest:
    """Draw `size` samples without replacement, and write them to the new folder `out` with their manifest.

    The same files, seed and options give the same bytes. Labels are left out, and so are slices and groups that some
    file lacks. The strata of the manifest are `by`, and their minima what was drawn.

    Args:
        sample_files: `.npz`, safetensors or Parquet files; each is read twice, one at a time.
        out: the set's folder: new, or empty.
        size: samples to draw, 32 or more.
        by: slices. Each joint cell of their values gets the same number of samples, as far as it has them.
        inputs: the model's inputs. Nothing else but slices and `group` gets into the set.
        batch_dim: the dimension that counts samples.
        validation_digests: digests by `sample_digests` of samples that may not be drawn.
        scores: the model's score of each sample [n], in the order of the files; None: no tails are looked for.
        seed: 0 or more.
        name: the set's name.
        source: where the samples come from, in a sentence. What was drawn from how many, and how, is added to it.
        resembles: the sample that the set must look like, relative to `out`.
        collected: days of the first and the last sample; None: those on which the files were last written (UTC).

    Raises:
        InputError: the samples, the size, a stratum, the scores or the folder cannot be used; nothing is written.
    """
    refuse_request(out, size, seed)
    sample = _index(sample_files, tuple(dict.fromkeys(by)), inputs, batch_dim)
    free, left_out = _free_to_draw(sample, set(validation_digests), size)
    known = None if scores is None else _checked_scores(scores, len(sample.digests))[free]
    cells = [sample.cells[index] for index in free]
    rng = np.random.default_rng(seed)
    chosen = free[choose_samples(cells, known, size, rng)]
    drawn = f"{size:,} of {len(sample.digests):,} samples drawn by {', '.join(sample.by) or 'chance'} with seed {seed}"
    with new_folder(out) as folder:
        _write_files(folder, _gather(sample_files, sample, chosen, inputs, batch_dim))
        manifest = make_manifest(
            folder,
            name=name,
            inputs=inputs,
            source=f"{source.rstrip('. ')}. {drawn}; {left_out}.",
            collected=collected or _days_of(sample_files),
            strata=_strata(sample.by, [sample.cells[index] for index in chosen]),
            resembles=resembles,
        )
        write_manifest(folder, manifest)
    return manifest


def refuse_request(out: Path, size: int, seed: int) -> None:
    """Raise InputError for what `draw_set` cannot do whatever the samples are."""
    if size < LEAST_SAMPLES:
        raise InputError(f"size {size}: a calibration set needs {LEAST_SAMPLES} samples or more; raise the size")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more; choose another")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already, and not an empty folder; choose another, or remove it")


def _index(files: Sequence[Path], by: Cell, inputs: Mapping[str, InputSpec], batch_dim: str) -> _Sample:
    digests: list[str] = []
    cells: list[Cell] = []
    counts: list[int] = []
    slices: set[str] | None = None
    for path in files:
        counts.append(0)
        for block in open_samples(path).blocks():
            arrays, rows = block.arrays, _check(block.arrays, by, inputs, f"{path.name}{block.in_words}")
            counts[-1] += rows
            digests += sample_digests({key: arrays[key] for key in inputs}, inputs, batch_dim)
            columns = [arrays[f"{SLICE}{stratum}"].astype(np.str_).tolist() for stratum in by]
            cells += list(zip(*columns, strict=True)) if by else [()] * rows
            found = {key for key in arrays if key.startswith(SLICE) or (key == GROUP and key not in inputs)}
            slices = found if slices is None else slices & found
    _refuse_many_values(by, cells)
    return _Sample(
        by=by,
        digests=digests,
        files=np.repeat(np.arange(len(counts)), counts),
        rows=np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)]),
        cells=cells,
        slices=tuple(sorted(slices or ())),
    )


def _check(arrays: Arrays, by: Cell, inputs: Mapping[str, InputSpec], origin: str) -> int:
    """Return the number of samples of a file; raise InputError where they cannot be drawn from."""
    samples = count_samples(arrays, inputs, origin)
    for key, spec in inputs.items():
        array = arrays[key]
        fits = len(spec.shape) == array.ndim and all(
            isinstance(axis, str) or axis == extent for axis, extent in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype.name != spec.dtype or not fits:
            raise InputError(
                f"{origin}: {key} is {array.dtype.name} {list(array.shape)}, but the model takes {spec.dtype}"
                f" {list(spec.shape)}; convert it"
            )
        if array.dtype.kind == "f":
            _refuse_not_finite(array, f"{origin}: {key}")
    for stratum in by:
        if f"{SLICE}{stratum}" not in arrays:
            there = ", ".join(sorted(key for key in arrays if key.startswith(SLICE))) or "no slice"
            raise InputError(f"{origin}: has no {SLICE}{stratum} to draw by ({there} found); add the array")
    return samples


def _refuse_not_finite(values: NDArray[Any], place: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        first = ", ".join(map(str, bad[:FIRST_INDICES]))
        raise InputError(f"{place} holds NaN or Inf in {len(bad)} samples (first: {first}); remove or mend them")


def _refuse_many_values(by: Cell, cells: Sequence[Cell]) -> None:
    for place, stratum in enumerate(by):
        values = len({cell[place] for cell in cells})
        if values > LARGEST_STRATUM:
            raise InputError(
                f"{SLICE}{stratum} has {values:,} values, more than {LARGEST_STRATUM}, too many to draw alike from;"
                " join them into groups"
            )


def _checked_scores(scores: NDArray[Any], samples: int) -> NDArray[np.float64]:
    if scores.shape != (samples,):
        raise InputError(f"scores: {scores.shape} for {samples:,} samples; give one for each")
    values = scores.astype(np.float64)
    _refuse_not_finite(values, "scores")
    return values


def _free_to_draw(sample: _Sample, validation: set[str], size: int) -> tuple[NDArray[np.int64], str]:
    """The samples that may be drawn, each once, and what was left out, in words."""
    first: dict[str, int] = {}
    for index, digest in enumerate(sample.digests):
        first.setdefault(digest, index)
    free = np.array([index for digest, index in first.items() if digest not in validation], np.int64)
    total = len(sample.digests)
    held = sum(digest in validation for digest in sample.digests)
    if held and held == total:
        raise InputError(
            f"all {total:,} samples are validation data, which a model may not be calibrated on; draw from others"
        )
    left_out = f"left out: {held:,} of the validation data, {total - held - len(free):,} duplicates"
    if len(free) < size:
        raise InputError(
            f"size {size}: {len(free):,} of {total:,} samples can be drawn ({left_out}); lower the size, or bring more"
        )
    lost = sorted(values_of(sample.cells) - values_of(sample.cells[index] for index in free))
    if lost:
        named = ", ".join(f"{sample.by[place]}={value}" for place, value in lost)
        raise InputError(f"every sample of {named} is validation data, so that the set would lack it; bring others")
    return free, left_out


def _strata(by: Cell, cells: Sequence[Cell]) -> dict[str, dict[str, int]]:
    return {stratum: dict(sorted(Counter(cell[place] for cell in cells).items())) for place, stratum in enumerate(by)}


def _days_of(files: Sequence[Path]) -> tuple[dt.date, dt.date]:
    today = dt.datetime.now(dt.timezone.utc).date()
    days = [dt.datetime.fromtimestamp(path.stat().st_mtime, dt.timezone.utc).date() for path in files]
    return min(*days, today), min(max(days), today)


def _gather(
    files: Sequence[Path],
    sample: _Sample,
    chosen: NDArray[np.int64],
    inputs: Mapping[str, InputSpec],
    batch_dim: str,
) -> list[Arrays]:
    """The chosen samples, joined where all their inputs have the same shapes; by shapes, then in their order."""
    parts: dict[tuple[tuple[int, ...], ...], list[Arrays]] = {}
    for number, path in enumerate(files):
        wanted = chosen[sample.files[chosen] == number]
        if len(wanted) == 0:
            continue
        part = _rows_of(path, sample.rows[wanted], [*inputs, *sample.slices])
        found = sample_digests({key: part[key] for key in inputs}, inputs, batch_dim)
        if found != [sample.digests[index] for index in wanted]:
            raise _changed(path)
        parts.setdefault(tuple(part[key].shape[1:] for key in inputs), []).append(part)
    return [
        {key: np.concatenate([part[key] for part in parts[shapes]]) for key in parts[shapes][0]}
        for shapes in sorted(parts)
    ]


def _rows_of(path: Path, rows: NDArray[np.int64], names: Sequence[str]) -> Arrays:
    """Some rows of a file, which must have them."""
    opened = open_samples(path)
    if not set(names) <= set(opened.names):
        raise _changed(path)
    found = []
    for block in opened.blocks(names):
        within = rows[(rows >= block.first) & (rows < block.first + block.rows)] - block.first
        found.append({key: array[within[within < len(array)]] for key, array in block.arrays.items()})
    if any(sum(len(part[key]) for part in found) != len(rows) for key in names):
        raise _changed(path)
    return {key: np.concatenate([part[key] for part in found]) for key in names}


def _changed(path: Path) -> InputError:
    return InputError(f"{path.name}: changed while it was read; draw again")


def _write_files(folder: Path, groups: Sequence[Arrays]) -> None:
    number = 0
    for arrays in groups:
        samples = len(next(iter(arrays.values())))
        rows = max(1, FILE_BYTES * samples // max(1, sum(array.nbytes for array in arrays.values())))
        for start in range(0, samples, rows):
            part = {key: array[start : start + rows] for key, array in arrays.items()}
            _write_file(folder / f"samples-{number:03d}.npz", part)
            number += 1


def _write_file(path: Path, arrays: Arrays) -> None:
    # numpy.savez_compressed would take an array named `file` for its own argument.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            member = zipfile.ZipInfo(f"{key}.npy")  # dated 1980, so that the same arrays give the same bytes
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all went well, and is removed otherwise."""
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.replace(target)  # an empty folder may stand there
    finally:
        shutil.rmtree(folder, ignore_errors=True)
