"""Folders of media files: those right in it, or a folder for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.readers.annotations import Labels, number_labels
from tasks.samples.data_spec import LABEL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from tasks.readers.interface import ReadRequest
    from tasks.samples.npz import Arrays


class LabelledFiles(NamedTuple):
    """Files in the order of their names, and their labels, where folders have them."""

    paths: list[Path]
    labels: Labels | None


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
    if folders == {request.path}:
        return LabelledFiles(paths, None)
    if request.path in folders:
        loose = next(path for path in paths if path.parent == request.path)
        raise InputError(f"{request.origin}: {loose.name} lies beside folders of labels; move it into one")
    names = [path.parent.name for path in paths]
    return LabelledFiles(paths, number_labels(names, request.label_numbers, request.origin))


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith("."))
        else:
            yield path


def grouped(rows: Sequence[np.ndarray[Any, Any]], name: str, labels: Labels | None) -> tuple[Arrays, ...]:
    """Samples of one input in groups of one shape, with their labels."""
    places: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault(row.shape, []).append(number)
    groups = []
    for shape in sorted(places):
        group: Arrays = {name: np.stack([rows[place] for place in places[shape]])}
        if labels is not None:
            group[LABEL] = labels.numbers[places[shape]]
        groups.append(group)
    return tuple(groups)
