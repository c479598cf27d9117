"""`.npz`, safetensors or Parquet, one file or a folder of them: each array or column is an input, or beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.readers.annotations import is_annotation, number_labels, refuse_holes, rename
from tasks.readers.drawing import draw_rows, told_draw
from tasks.readers.interface import Reading, ReadRequest
from tasks.readers.text_files import TextRows, read_texts
from tasks.samples.data_spec import LABEL
from tasks.samples.formats import DATA_SUFFIXES, read_arrays

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from tasks.samples.npz import Arrays

FIRST_ROW = 0


class ArrayFiles:
    """Arrays as they are; texts in them are tokenised."""

    formats = ".npz, .safetensors or .parquet files or a folder of them"

    def takes(self, path: Path) -> bool:
        """By suffix; see the interface."""
        return bool(_files(path))

    def read(self, request: ReadRequest) -> Reading:
        """All files, each a group; see the interface."""
        files = _files(request.path)
        counts, labels = _look_through(files, request)
        parts = _drawn(files, counts, request)
        _refuse_other_arrays(parts, files)
        parts = [part for part in parts if len(next(iter(part.values())))]
        notes = told_draw(sum(counts), request.most)
        columns = parts[0]
        if any(array.dtype.kind == "U" for name, array in columns.items() if not is_annotation(name)):
            joined = {name: np.concatenate([part[name] for part in parts]).tolist() for name in columns}
            drawn = TextRows(joined, range(FIRST_ROW, FIRST_ROW + len(next(iter(joined.values())))), labels, notes)
            return read_texts(drawn, request)
        return replace(_with_numbers(parts, request, labels), notes=notes)


def _look_through(files: Sequence[Path], request: ReadRequest) -> tuple[list[int], frozenset[str]]:
    """How many samples each file has, and all labels that are texts; nothing is kept where all will be read anyhow."""
    if request.most is None:
        return [], frozenset()
    counts, labels = [], set()
    for path in files:
        arrays = _read_file(path, request)
        counts.append(len(next(iter(arrays.values()))))
        if LABEL in arrays and arrays[LABEL].dtype.kind == "U":
            labels |= {text for text in arrays[LABEL].ravel().tolist() if text.strip()}
    return counts, frozenset(labels)


def _drawn(files: Sequence[Path], counts: Sequence[int], request: ReadRequest) -> list[Arrays]:
    """The arrays of all files, with the drawn rows alone; one file at a time lies in memory whole."""
    if request.most is None or sum(counts) <= request.most:
        return [_read_file(path, request) for path in files]
    rows = np.array(draw_rows(sum(counts), request.most))
    parts, start = [], 0
    for path, count in zip(files, counts, strict=True):
        within = rows[(rows >= start) & (rows < start + count)] - start
        parts.append({name: array[within] for name, array in _read_file(path, request).items()})
        start += count
    return parts


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and file.suffix in DATA_SUFFIXES)
    return [path] if path.suffix in DATA_SUFFIXES else []


def _read_file(path: Path, request: ReadRequest) -> Arrays:
    arrays = read_arrays(path)
    names = rename(list(arrays), request.columns, request.left_out, path.name)
    found = {new: arrays[old] for old, new in names.items()}
    counts = {name: array.shape[:1] for name, array in found.items()}
    if not found or () in counts.values() or len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items()) or "no array"
        raise InputError(f"{path.name}: arrays must agree in their first axis, the samples, and there is {shown}")
    return found if next(iter(counts.values())) != (0,) else _refuse_empty(path)


def _refuse_empty(path: Path) -> Arrays:
    raise InputError(f"{path.name}: holds no rows; remove the file, or fill it")


def _refuse_other_arrays(parts: Sequence[Arrays], files: Sequence[Path]) -> None:
    for part, path in zip(parts, files, strict=True):
        other = sorted(set(part) ^ set(parts[0]))
        if other:
            raise InputError(
                f"{path.name}: {other[0]} is in one of {path.name} and {files[0].name} only; every file needs the same"
                " arrays"
            )


def _with_numbers(parts: Sequence[Arrays], request: ReadRequest, others: Collection[str]) -> Reading:
    """The groups, with labels as numbers that are the same in every file."""
    if LABEL not in parts[0]:
        return Reading(tuple(parts))
    values: list[Any] = [value for part in parts for value in part[LABEL].tolist()]
    refuse_holes([value for value in values if not isinstance(value, list)], LABEL, request.origin)
    if parts[0][LABEL].dtype.kind != "U":
        return Reading(tuple(parts))
    labels = number_labels(values, request.label_numbers, request.origin, others)
    ends = np.cumsum([len(part[LABEL]) for part in parts])[:-1]
    numbered: list[Mapping[str, np.ndarray[Any, Any]]] = [
        {**part, LABEL: numbers} for part, numbers in zip(parts, np.split(labels.numbers, ends), strict=True)
    ]
    return Reading(tuple(dict(part) for part in numbered), labels=labels.table, from_model=labels.from_model)
