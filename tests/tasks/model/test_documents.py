"""The one reader of the documents that people write: YAML 1.2, bounded, and every mistake with its place."""

from __future__ import annotations

import os
from datetime import date
from math import inf
from typing import TYPE_CHECKING, Literal

import pytest

from tasks.declared import Frozen
from tasks.errors import InputError
from tasks.model.documents import parse, read_yaml, write_yaml

if TYPE_CHECKING:
    from pathlib import Path

LINES = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
LINES += [
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
]
BOMB = "\n".join(LINES)  # a thousand million texts in 400 bytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key 'a' is given twice; remove one"),
        ("dims:\n  batch: {min: 1, min: 2}\n", "line 2: key 'min' is given twice"),
        ("a: [1\n", "cannot be read as YAML"),
        ("- a\n- b\n", "must hold keys and values, not list"),
        ("", "must hold keys and values, not NoneType"),
        ("? [a]\n: 1\n", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        ("a: 2024-13-45\n", "cannot be read as YAML"),
        (f"a: {'9' * 5000}\n", "cannot be read as YAML"),
        (f"a: {'[' * 3000}{']' * 3000}\n", "is nested too deep"),
        ("a: \x01\n", "cannot be read as YAML"),
        ("a: \udcff\n", "is no UTF-8"),
        ("name: &a [*a]\n", "the alias *a names nothing, or what it lies in itself"),
        *((f"a: !!{kind} maybe\n", "cannot be read as YAML") for kind in ("bool", "timestamp", "float", "int", "set")),
        (BOMB, "is nested too deep, or too large with its aliases"),
        ("a: {<<: {b: 1}}\n#" + "x" * (1 << 20), "has more than 1 MiB"),
    ],
)
def test_yaml_that_cannot_be_taken_is_refused_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith("model.yaml: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("-1.5E+3", -1500.0), ("+.5", 0.5), ("7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31)),
        *((".inf", inf), ("true", True), ("~", None), ("", None), ("2026-11-30", date(2026, 11, 30))),
        *(("1:30", "1:30"), ("on", "on"), ("yes", "yes"), ("1_000", "1_000"), ("'1e-3'", "1e-3")),
    ],
)
def test_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "policy.yaml").write_text(f"a: {text}\n")
    (found,) = read_yaml(tmp_path / "policy.yaml").values()
    assert (type(found), found) == (type(value), value)


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    texts = ["1e-3", "on", "1:30", "0o17", "010", "2026-11-30", "~", "", "true", ".5", "<<"]
    document = {"texts": texts, "keys": dict.fromkeys(texts, 1), "numbers": [1e-7, 3, -0.0, 1e300]}
    (tmp_path / "a.yaml").write_text(write_yaml(document))
    assert read_yaml(tmp_path / "a.yaml") == document


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(InputError, match=r"model.yaml: is not a regular file; replace it"):
        read_yaml(tmp_path / "model.yaml")


class Ordered(Frozen):
    """A document with a word and a number."""

    method: Literal["entropy", "minmax"] = "entropy"
    count: int = 0


def test_a_mistake_is_told_with_its_place_the_nearest_right_word_and_not_at_length() -> None:
    with pytest.raises(InputError) as caught:
        parse(Ordered, {"method": "entropie", "count": ["x" * 10_000] * 1000, "cuont": 1}, "model.yaml")
    method, count, unknown = str(caught.value).splitlines()
    assert method.startswith("model.yaml: method: ")
    assert method.endswith("(given: 'entropie'); did you mean 'entropy'?")
    assert count.startswith("model.yaml: count: ")
    assert len(count) < 800
    assert unknown == "model.yaml: cuont: unknown key; did you mean 'count'?"
