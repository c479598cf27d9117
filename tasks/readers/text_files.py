"""`.jsonl` or `.csv` with a row a text: `text`, perhaps `text_pair`, and `label`, `slice.<name>`, `group` beside."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.readers.annotations import annotate, is_annotation, refuse_holes, rename
from tasks.readers.interface import Reading, ReadRequest
from tasks.readers.tokens import tokenise
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TEXT, PAIR = "text", "text_pair"
TEXT_SUFFIXES = (".jsonl", ".csv")
FIRST_ROWS = {".jsonl": 1, ".csv": 2}
"""The line of the first row, as an editor counts."""


class TextFiles:
    """Texts, tokenised by the tokenizer of the model's folder."""

    formats = "a .jsonl or .csv file of texts"

    def takes(self, path: Path) -> bool:
        """By suffix; see the interface."""
        return path.is_file() and path.suffix in TEXT_SUFFIXES

    def read(self, request: ReadRequest) -> Reading:
        """All rows; see the interface."""
        refuse_special(request.path, request.origin)
        refuse_pointer(request.path, request.origin)
        try:
            rows = _read_jsonl(request) if request.path.suffix == ".jsonl" else _read_csv(request)
        except UnicodeDecodeError as error:
            raise InputError(f"{request.origin}: is not UTF-8 ({error.reason}); save it as UTF-8") from None
        if not rows:
            raise InputError(f"{request.origin}: holds no rows; fill it, or name another file")
        names = list(dict.fromkeys(name for row in rows for name in row))
        kept = rename(names, request.columns, request.left_out, request.origin)
        columns = {new: [row.get(old) for row in rows] for old, new in kept.items()}
        return read_texts(columns, request, FIRST_ROWS[request.path.suffix])


def _read_jsonl(request: ReadRequest) -> list[dict[str, Any]]:
    rows = []
    with request.path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{request.origin}: line {number}: is no JSON ({error}); correct it") from None
            if not isinstance(row, dict):
                raise InputError(f'{request.origin}: line {number}: is no object; write {{"text": …, "label": …}}')
            rows.append(row)
    return rows


def _read_csv(request: ReadRequest) -> list[dict[str, Any]]:
    try:
        with request.path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            _refuse_repeats(reader.fieldnames or (), request.origin)
            rows: list[dict[str, Any]] = []
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{request.origin}: line {reader.line_num}: has another number of fields than the head; put"
                        " texts with commas in quotes"
                    )
                rows.append(row)
    except csv.Error as error:
        raise InputError(f"{request.origin}: is no readable CSV ({error}); write it anew") from None
    for name in list(rows[0]) if rows else []:
        _take_numbers(rows, name)
    return rows


def _refuse_repeats(names: Sequence[str], origin: str) -> None:
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{origin}: line 1: two columns are called {repeated!r}; rename one")


def _take_numbers(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Whole columns of numbers as numbers, since CSV has texts alone."""
    for kind in (int, float):
        try:
            values = [kind(row[name]) for row in rows]
        except ValueError:
            continue
        for row, value in zip(rows, values, strict=True):
            row[name] = value
        return


def read_texts(columns: Mapping[str, Sequence[Any]], request: ReadRequest, first_row: int) -> Reading:
    """Tokenise the texts of some columns, and put what goes beside them there; rows are counted from `first_row`.

    Raises:
        InputError: there is no text, a column that is neither, a hole, or no tokenizer.
    """
    texts = {name: values for name, values in columns.items() if name in {TEXT, PAIR}}
    _refuse_unknown(columns, request.origin)
    for name, values in texts.items():
        refuse_holes(values, name, request.origin, first_row)
        odd = next((row for row, value in enumerate(values, first_row) if not isinstance(value, str)), None)
        if odd is not None and not all(isinstance(value, int | float) for value in values):
            raise InputError(f"{request.origin}: row {odd}: {name} is no text; write a string")
        _refuse_half_characters(values, name, request.origin, first_row)
    beside = {name: values for name, values in columns.items() if is_annotation(name)}
    rows = annotate(beside, request.label_numbers, request.origin, first_row)
    found = tokenise([list(map(str, texts[name])) for name in (TEXT, PAIR) if name in texts], request)
    groups = tuple(
        {**tokens, **{name: array[places] for name, array in rows.arrays.items()}} for places, tokens in found.buckets
    )
    return Reading(groups, found.hints, found.notes, rows.labels.table, rows.labels.from_model)


def _refuse_half_characters(values: Sequence[Any], name: str, origin: str, first_row: int) -> None:
    """JSON can write half a character of two halves, which no tokenizer takes."""
    for row, value in enumerate(values, first_row):
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise InputError(f"{origin}: row {row}: {name} holds {half!r}, half a character; write it whole") from None


def _refuse_unknown(columns: Mapping[str, Sequence[Any]], origin: str) -> None:
    there = ", ".join(columns)
    if TEXT not in columns:
        raise InputError(f"{origin}: has no column {TEXT!r} ({there}); say which it is, as --column NAME={TEXT}")
    for name in columns:
        if name not in {TEXT, PAIR} and not is_annotation(name):
            raise InputError(
                f"{origin}: column {name!r} is none of text, text_pair, label, group and slice.…; name it, as"
                f" --column {name}=label or --column {name}=slice.{name}, or leave it out with --leave-out {name}"
            )
