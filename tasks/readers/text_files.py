"""`.jsonl` or `.csv` with a row a text: `text`, perhaps `text_pair`, and `label`, `slice.<name>`, `group` beside."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import InputError
from tasks.readers.annotations import annotate, is_annotation, refuse_holes, rename
from tasks.readers.drawing import draw_rows, told_draw
from tasks.readers.interface import Reading, ReadRequest
from tasks.readers.tokens import tokenise
from tasks.samples.data_spec import LABEL
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
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
            return read_texts(_read_rows(request), request)
        except UnicodeDecodeError as error:
            raise InputError(f"{request.origin}: is not UTF-8 ({error.reason}); save it as UTF-8") from None


def _read_rows(request: ReadRequest) -> TextRows:
    """The drawn rows, of which alone more than the label is kept: the file is read twice."""
    label = _label_column(request)
    names: dict[str, None] = {}
    labels: set[str] = set()
    samples = 0
    for row in _rows_of(request):
        names |= dict.fromkeys(row)
        samples += 1
        if isinstance(row.get(label), str):
            labels.add(row[label])
    if not samples:
        raise InputError(f"{request.origin}: holds no rows; fill it, or name another file")
    kept = rename(list(names), request.columns, request.left_out, request.origin)
    drawn = draw_rows(samples, request.most)
    wanted = set(drawn)
    rows = [row for number, row in enumerate(_rows_of(request)) if number in wanted]
    if request.path.suffix == ".csv":
        labels = set() if _take_numbers(rows, label, labels) else labels
        for name in names:
            if kept.get(name) not in {TEXT, PAIR, LABEL}:
                _take_numbers(rows, name, ())
    first = FIRST_ROWS[request.path.suffix]
    return TextRows(
        {new: [row.get(old) for row in rows] for old, new in kept.items()},
        [first + number for number in drawn],
        frozenset(text for text in labels if text.strip()),
        told_draw(samples, request.most),
    )


def _label_column(request: ReadRequest) -> str:
    return next((old for old, new in request.columns.items() if new == LABEL), LABEL)


def _rows_of(request: ReadRequest) -> Iterator[dict[str, Any]]:
    return _read_jsonl(request) if request.path.suffix == ".jsonl" else _read_csv(request)


def _read_jsonl(request: ReadRequest) -> Iterator[dict[str, Any]]:
    with request.path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{request.origin}: line {number}: is no JSON ({error}); correct it") from None
            if not isinstance(row, dict):
                raise InputError(f'{request.origin}: line {number}: is no object; write {{"text": …, "label": …}}')
            yield row


def _read_csv(request: ReadRequest) -> Iterator[dict[str, Any]]:
    try:
        with request.path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            _refuse_repeats(reader.fieldnames or (), request.origin)
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{request.origin}: line {reader.line_num}: has another number of fields than the head; put"
                        " texts with commas in quotes"
                    )
                yield row
    except csv.Error as error:
        raise InputError(f"{request.origin}: is no readable CSV ({error}); write it anew") from None


def _refuse_repeats(names: Sequence[str], origin: str) -> None:
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{origin}: line 1: two columns are called {repeated!r}; rename one")


def _take_numbers(rows: Sequence[dict[str, Any]], name: str, others: Collection[str]) -> bool:
    """Whether a column is numbers, which CSV has as texts; then they become numbers. `others` are values beside."""
    for kind in (int, float):
        try:
            values: list[int | float] = [kind(row[name]) for row in rows]
            for other in others:
                kind(other)
        except (ValueError, KeyError):
            continue
        for row, value in zip(rows, values, strict=True):
            row[name] = value
        return True
    return False


class TextRows(NamedTuple):
    """Columns by name and the numbers of their rows, all labels of the file that are texts, and what is to be told."""

    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    labels: frozenset[str]
    notes: tuple[str, ...]


def read_texts(given: TextRows, request: ReadRequest) -> Reading:
    """Tokenise the texts of some columns, and put what goes beside them there.

    Raises:
        InputError: there is no text, a column that is neither, a hole, or no tokenizer.
    """
    columns, numbers = given.columns, given.numbers
    texts = {name: values for name, values in columns.items() if name in {TEXT, PAIR}}
    _refuse_unknown(columns, request.origin)
    for name, values in texts.items():
        refuse_holes(values, name, request.origin, numbers)
        odd = next((row for row, value in zip(numbers, values, strict=True) if not isinstance(value, str)), None)
        if odd is not None and not all(isinstance(value, int | float) for value in values):
            raise InputError(f"{request.origin}: row {odd}: {name} is no text; write a string")
        _refuse_half_characters(values, name, request.origin, numbers)
    beside = {name: values for name, values in columns.items() if is_annotation(name)}
    rows = annotate(beside, request.label_numbers, request.origin, numbers, given.labels)
    found = tokenise([list(map(str, texts[name])) for name in (TEXT, PAIR) if name in texts], request)
    groups = tuple(
        {**tokens, **{name: array[places] for name, array in rows.arrays.items()}} for places, tokens in found.buckets
    )
    return Reading(groups, found.hints, (*given.notes, *found.notes), rows.labels.table, rows.labels.from_model)


def _refuse_half_characters(values: Sequence[Any], name: str, origin: str, numbers: Sequence[int]) -> None:
    """JSON can write half a character of two halves, which no tokenizer takes."""
    for row, value in zip(numbers, values, strict=True):
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
