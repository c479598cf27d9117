"""`.npz`, safetensors or Parquet, one file or a folder of them: each array or column is an input, or beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.readers.annotations import is_annotation, number_labels, refuse_holes, rename
from tasks.readers.drawing import draw_rows, told_draw
from tasks.readers.interface import Reading, ReadRequest
from tasks.readers.lazy_groups import GroupStore, LazyGroups
from tasks.readers.text_files import TextRows, read_texts
from tasks.samples.blocks import SampleFile, open_samples
from tasks.samples.data_spec import LABEL
from tasks.samples.formats import DATA_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
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
        """All files, each a group, or several where it is large; see the interface."""
        files = _files(request.path)
        total, labels = _look_through(files, request)
        groups = _kept(_drawn(files, total, request), files, request.folder)
        notes = told_draw(total, request.most)
        columns = groups[0]
        if any(array.dtype.kind == "U" for name, array in columns.items() if not is_annotation(name)):
            parts = list(groups)
            joined = {name: np.concatenate([part[name] for part in parts]).tolist() for name in columns}
            drawn = TextRows(joined, range(FIRST_ROW, FIRST_ROW + len(next(iter(joined.values())))), labels, notes)
            return read_texts(drawn, request)
        return replace(_with_numbers(groups, request, labels), notes=notes)


def _look_through(files: Sequence[Path], request: ReadRequest) -> tuple[int, frozenset[str]]:
    """How many samples there are, and all labels that are texts; nothing is kept where all will be read anyhow."""
    if request.most is None:
        return 0, frozenset()
    total, labels = 0, set()
    for path in files:
        opened, names = _open(path, request)
        total += opened.rows
        wanted = [old for old, new in names.items() if new == LABEL] or list(names)[:1]
        for block in opened.blocks(wanted):
            arrays = _renamed(block.arrays, names)
            if LABEL in arrays and arrays[LABEL].dtype.kind == "U":
                labels |= {text for text in arrays[LABEL].ravel().tolist() if text.strip()}
    return total, frozenset(labels)


def _drawn(files: Sequence[Path], total: int, request: ReadRequest) -> Iterator[tuple[Path, Arrays]]:
    """The arrays of all files in blocks, with the drawn rows alone."""
    rows = None if request.most is None or total <= request.most else np.array(draw_rows(total, request.most))
    start = 0
    for path in files:
        opened, names = _open(path, request)
        for block in opened.blocks(list(names)):
            arrays = _renamed(block.arrays, names)
            if rows is not None:
                first = start + block.first
                within = rows[(rows >= first) & (rows < first + block.rows)] - first
                arrays = {name: array[within] for name, array in arrays.items()}
            yield path, arrays
        start += opened.rows


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and file.suffix in DATA_SUFFIXES)
    return [path] if path.suffix in DATA_SUFFIXES else []


def _open(path: Path, request: ReadRequest) -> tuple[SampleFile, dict[str, str]]:
    """A file whose arrays that are kept agree in their first axis, and the new name of each of these."""
    opened = open_samples(path)
    names = rename(list(opened.names), request.columns, request.left_out, path.name)
    if not opened.rows or not names:
        opened = _kept_alone(opened, names, path)
    return opened, names


def _kept_alone(opened: SampleFile, names: Mapping[str, str], path: Path) -> SampleFile:
    """Without the arrays that are left out, which may be of any shape."""
    (block,) = opened.blocks(list(names))
    shapes = {new: block.arrays[old].shape for old, new in names.items()}
    counts = {shape[:1] for shape in shapes.values()}
    if not shapes or () in counts or len(counts) != 1:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no array"
        raise InputError(f"{path.name}: arrays must agree in their first axis, the samples, and there is {shown}")
    if counts == {(0,)}:
        raise InputError(f"{path.name}: holds no rows; remove the file, or fill it")
    return replace(opened, rows=next(iter(counts))[0])


def _renamed(arrays: Arrays, names: Mapping[str, str]) -> Arrays:
    return {names[old]: array for old, array in arrays.items()}


def _kept(parts: Iterator[tuple[Path, Arrays]], files: Sequence[Path], folder: Path | None) -> Sequence[Arrays]:
    """A group a file, or several of a large one; written to `folder` where there is one, and they are many."""
    kept = GroupStore(folder)
    known: set[str] | None = None
    before: Path | None = None
    for path, part in parts:
        if path != before:
            kept.end_group()
        before = path
        known = set(part) if known is None else known
        other = sorted(set(part) ^ known)
        if other:
            raise InputError(
                f"{path.name}: {other[0]} is in one of {path.name} and {files[0].name} only; every file needs the same"
                " arrays"
            )
        kept.add(part)
    return kept.groups()


def _with_numbers(groups: Sequence[Arrays], request: ReadRequest, others: Collection[str]) -> Reading:
    """The groups, with labels as numbers that are the same in every file."""
    if LABEL not in groups[0]:
        return Reading(groups)
    columns = [group[LABEL] for group in groups]
    values: list[Any] = [value for column in columns for value in column.tolist()]
    refuse_holes([value for value in values if not isinstance(value, list)], LABEL, request.origin)
    if columns[0].dtype.kind != "U":
        return Reading(groups)
    labels = number_labels(values, request.label_numbers, request.origin, others)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    numbered = [partial(_numbered, groups, *each) for each in enumerate(np.split(labels.numbers, ends))]
    return Reading(LazyGroups(numbered), labels=labels.table, from_model=labels.from_model)


def _numbered(groups: Sequence[Arrays], place: int, numbers: np.ndarray[Any, Any]) -> Arrays:
    return {**groups[place], LABEL: numbers}
