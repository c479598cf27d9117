"""Folders of media files: those right in it, or a folder for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import InputError
from tasks.readers.annotations import Labels, number_labels
from tasks.readers.drawing import draw_rows, told_draw
from tasks.readers.lazy_groups import Collector
from tasks.samples.data_spec import LABEL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from tasks.readers.interface import ReadRequest
    from tasks.samples.npz import Arrays


class LabelledFiles(NamedTuple):
    """Files in the order of their names, their labels, where folders have them, and what is to be told."""

    paths: list[Path]
    labels: Labels | None
    notes: tuple[str, ...]


def holds_files(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether a folder, or one right in it, holds a file of these suffixes."""
    return folder.is_dir() and any(path.suffix.lower() in suffixes for path in _visible_files(folder))


def find_files(request: ReadRequest, suffixes: Collection[str], what: str) -> LabelledFiles:
    """The files of a folder.

    Raises:
        InputError: a file of another kind lies there, some files lie in a folder and others do not, or a label is not
            the model's.
    """
    paths = list(_visible_files(request.path))
    for path in paths:
        if path.suffix.lower() not in suffixes:
            place = path.relative_to(request.path)
            raise InputError(
                f"{request.origin}: {place} is no {what} ({', '.join(sorted(suffixes))}); move it elsewhere"
            )
    folders = {path.parent for path in paths}
    rows, notes = draw_rows(len(paths), request.most), told_draw(len(paths), request.most)
    taken = [paths[row] for row in rows]
    if folders == {request.path}:
        return LabelledFiles(taken, None, notes)
    if request.path in folders:
        loose = next(path for path in paths if path.parent == request.path)
        raise InputError(f"{request.origin}: {loose.name} lies beside folders of labels; move it into one")
    names = [path.parent.name for path in paths]
    labels = number_labels(names, request.label_numbers, request.origin)
    return LabelledFiles(taken, labels._replace(numbers=labels.numbers[rows]), notes)


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith("."))
        else:
            yield path


def grouped(
    rows: Iterable[np.ndarray[Any, Any]], name: str, labels: Labels | None, folder: Path | None
) -> Sequence[Arrays]:
    """Samples of one input in groups of one shape, with their labels; many are written to `folder`, if there is one."""
    collector = Collector(folder)
    for number, row in enumerate(rows):
        collector.add(name, row, {} if labels is None else {LABEL: labels.numbers[number]})
    return collector.groups()
