"""Columns beside the inputs: labels become numbers, `slice.<name>` and `group` texts or whole numbers."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.samples.data_spec import GROUP, LABEL, SLICE
from tasks.samples.npz import FIRST_INDICES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tasks.samples.npz import Arrays

MOST_CLASSES = 10_000


class Labels(NamedTuple):
    """Numbers [samples], and the table that made them of texts: empty where they were numbers already."""

    numbers: np.ndarray[Any, Any]
    table: dict[str, int]
    from_model: bool


def is_annotation(name: str) -> bool:
    """Whether a column goes beside the inputs."""
    return name in {LABEL, GROUP} or name.startswith(SLICE)


def rename(names: Sequence[str], columns: Mapping[str, str], left_out: Collection[str], origin: str) -> dict[str, str]:
    """The new name of each column that is kept.

    Raises:
        InputError: a column that was to be renamed or left out is not there, or two get one name.
    """
    for asked in (*columns, *left_out):
        if asked not in names:
            nearest = difflib.get_close_matches(asked, names, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(names) or 'none'}"
            raise InputError(f"{origin}: has no column {asked!r}; {hint}")
    found = {name: columns.get(name, name) for name in names if name not in left_out}
    for new in found.values():
        if list(found.values()).count(new) > 1:
            raise InputError(f"{origin}: two columns would be called {new!r}; give one another name, or leave it out")
    return found


def refuse_holes(values: Sequence[object], field: str, origin: str, numbers: Sequence[int] | None = None) -> None:
    """Raise InputError where a value is missing, blank or NaN; `numbers` are those of the rows, from 0 unless given."""
    holes = [row for row, value in zip(numbers or range(len(values)), values, strict=True) if _is_hole(value)]
    if holes:
        rows = ", ".join(map(str, holes[:FIRST_INDICES]))
        where = "row" if len(holes) == 1 else "rows"
        raise InputError(
            f"{origin}: {field} is missing in {len(holes):,} of {len(values):,} rows ({where} {rows}"
            f"{', …' if len(holes) > FIRST_INDICES else ''}); fill them, or remove those rows"
        )


def _is_hole(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def number_labels(values: Sequence[Any], own: Mapping[str, int], origin: str, others: Collection[str] = ()) -> Labels:
    """Numbers of labels: those of the model's `own` table, else of the texts in their order; numbers stay.

    `others` are texts of rows that were not drawn, which have numbers too.

    Raises:
        InputError: labels are texts and numbers, or the model does not know one.
    """
    if not any(isinstance(value, str) for value in values):
        numbers = _plain_numbers(values, origin)
        return Labels(numbers, {}, from_model=False)
    odd = next((value for value in values if not isinstance(value, str)), None)
    if odd is not None:
        raise InputError(f"{origin}: {LABEL} holds texts, and {odd!r} too; write all of them as text")
    texts = sorted({*values, *others})
    if len(texts) > MOST_CLASSES:
        raise InputError(f"{origin}: {LABEL} has {len(texts):,} values, too many for classes; name another column")
    known = set(texts) & set(own)
    if known:
        strange = [text for text in texts if text not in own]
        if strange:
            raise InputError(
                f"{origin}: {LABEL} {strange[0]!r} is not in the model's table (label2id of config.json:"
                f" {', '.join(list(own)[:FIRST_INDICES])}{', …' if len(own) > FIRST_INDICES else ''}); correct one of"
                " them"
            )
    table = dict(own) if known else {text: number for number, text in enumerate(texts)}
    return Labels(np.array([table[text] for text in values], np.int64), table, from_model=bool(known))


def _plain_numbers(values: Sequence[Any], origin: str) -> np.ndarray[Any, Any]:
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of differing lengths
        numbers = np.asarray([None])
    if numbers.dtype.kind not in "iufb":
        raise InputError(f"{origin}: {LABEL} holds values of differing kinds or lengths; write a number or a text each")
    return numbers.astype(np.int64 if numbers.dtype.kind in "iub" else np.float32)


def texts_of(values: Sequence[object]) -> np.ndarray[Any, Any]:
    """Values of a slice or a group as texts [samples]."""
    return np.array([str(value) for value in values], np.str_)


def annotate(
    columns: Mapping[str, Sequence[Any]],
    own: Mapping[str, int],
    origin: str,
    numbers: Sequence[int],
    others: Collection[str] = (),
) -> AnnotatedRows:
    """The arrays of all columns that go beside inputs; `numbers` are those of the rows, `others` further labels.

    Raises:
        InputError: a value is missing, or labels do not fit together.
    """
    arrays: Arrays = {}
    labels = Labels(np.zeros(0), {}, from_model=False)
    for name, values in columns.items():
        refuse_holes(values, name, origin, numbers)
        if name == LABEL:
            labels = number_labels(values, own, origin, others)
            arrays[name] = labels.numbers
        else:
            arrays[name] = texts_of(values)
    return AnnotatedRows(arrays, labels)


class AnnotatedRows(NamedTuple):
    """Arrays beside the inputs, each [samples], and how labels were numbered."""

    arrays: Arrays
    labels: Labels
