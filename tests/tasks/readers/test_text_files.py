from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.readers import read_data
from tasks.readers.interface import ReadRequest
from tests.tasks.readers.tokenizers_on_disk import PAD, save_tokenizer, write_rows

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"text": "where is my parcel", "label": "ship", "slice.lang": "en"},
    {"text": "money back", "label": "refund", "slice.lang": "us"},
    {"text": " ".join(["parcel"] * 30), "label": "ship", "slice.lang": "en"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("model"))


def read(path: Path, folder: Path | None, **options: Any) -> Any:
    return read_data(ReadRequest(path, folder, **options))


def test_texts_are_tokenised_and_padded_and_keep_what_lies_beside_them(tmp_path: Path, folder: Path) -> None:
    reading = read(write_rows(tmp_path / "rows.jsonl", ROWS), folder)
    short, long = reading.groups
    assert short["input_ids"].tolist() == [[2, 4, 5, 6, 7, 3, PAD, PAD], [2, 8, 9, 3, PAD, PAD, PAD, PAD]]
    assert short["attention_mask"].sum(axis=1).tolist() == [6, 4]
    assert reading.labels == {"refund": 0, "ship": 1}
    assert (short["label"].tolist(), long["label"].tolist()) == ([1, 0], [1])
    assert short["slice.lang"].tolist() == ["en", "us"]


def test_texts_longer_than_the_model_takes_are_cut_and_told(tmp_path: Path, folder: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    reading = read(path, folder)
    assert reading.groups[-1]["input_ids"].shape == (1, 12)
    assert reading.notes == ("1 of 3 texts are longer than the 12 tokens that the model takes: cut",)
    assert read(path, folder, longest=9).groups[-1]["input_ids"].shape == (1, 9)
    exact = write_rows(tmp_path / "exact.jsonl", [{"text": " ".join(["parcel"] * 10)}])
    assert read(exact, folder).notes == (), "twelve tokens with the two around them"


def test_a_tokenizer_without_a_word_is_refused_and_one_of_other_words_told(tmp_path: Path, folder: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "parcel parcel colis paquet"}])
    assert read(path, folder).notes == (
        "33% of the tokens are the unknown one: is this the model's tokenizer, and its language?",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="empty: holds a tokenizer without a word in it"):
        read(path, empty)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"text": "is"}\n{"text": "\\ud800"}\n', "rows.jsonl: row 2: text holds '.*', half a character"),
        ("rows.csv", "text,text\nis,my\n", "rows.csv: line 1: two columns are called 'text'; rename one"),
    ],
)
def test_what_no_tokenizer_or_table_can_hold_is_told_with_its_line(
    tmp_path: Path, folder: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, folder)


def test_labels_are_numbered_by_the_models_own_table(tmp_path: Path, folder: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    reading = read(path, folder, label_numbers={"ship": 0, "refund": 1, "hello": 2})
    assert reading.from_model
    assert reading.groups[0]["label"].tolist() == [0, 1]
    with pytest.raises(InputError, match="label 'refund' is not in the model's table"):
        read(path, folder, label_numbers={"ship": 0, "hello": 1})


def test_csv_has_numbers_and_pairs_of_texts(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('utterance,text_pair,grade\n"where, now",money,0.5\nmy parcel,back,1\n')
    reading = read(path, folder, columns={"utterance": "text", "grade": "label"})
    (group,) = reading.groups
    assert group["label"].dtype == np.float32
    assert group["label"].tolist() == [0.5, 1.0]
    assert group["input_ids"][1].tolist() == [2, 6, 7, 3, 9, 3, PAD, PAD]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "rows.jsonl: holds no rows; fill it"),
        ([{"text": "now", "label": None}, {"text": "now"}], {}, "label is missing in 2 of 2 rows (rows 1, 2); fill"),
        ([{"text": "now"}, {"text": "  "}], {}, "text is missing in 1 of 2 rows (row 2)"),
        ([{"text": "now", "id": 3}], {}, "column 'id' is none of text, .* leave it out with --leave-out id"),
        ([{"utterance": "now"}], {}, "has no column 'text' .utterance.; say which it is, as --column NAME=text"),
        ([{"text": "now"}], {"columns": {"txt": "label"}}, "has no column 'txt'; did you mean 'text'?"),
        ([{"text": "now", "label": "a"}, {"text": "is", "label": 1}], {}, "label holds texts, and 1 too"),
        ([{"text": ["now"]}], {}, "row 1: text is no text; write a string"),
    ],
)
def test_rows_that_do_not_do_are_refused_with_file_field_and_remedy(
    tmp_path: Path, folder: Path, rows: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        read(write_rows(tmp_path / "rows.jsonl", rows), folder, **options)


def test_a_tokenizer_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folder with a tokenizer; name it: --processor DIR"):
        read(path, None)
    with pytest.raises(InputError, match=r"empty: holds no tokenizer that can be read .*save_pretrained"):
        read(path, tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "now"\n', "line 1: is no JSON"),
        ("a.jsonl", b'["now"]\n', "line 1: is no object"),
        ("a.jsonl", b"\xff\xfe\x00", "is not UTF-8"),
        ("a.csv", b"text,label\nwhere, is, my\n", "line 2: has another number of fields than the head"),
        ("a.csv", b"text,label\n", "holds no rows"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, None)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_of_many_texts_so_many_are_drawn_and_rows_and_labels_are_those_of_the_file(
    tmp_path: Path, folder: Path, suffix: str
) -> None:
    path = tmp_path / f"rows.{suffix}"
    rows = [{"text": "is " * (number % 7 + 1), "label": f"l{number:03d}"} for number in range(200)]
    write_rows(path, rows) if suffix == "jsonl" else path.write_text(
        "".join(["text,label\n", *(f"{row['text']},{row['label']}\n" for row in rows)])
    )
    reading = read(path, folder, most=50)
    assert reading.samples == 50
    for group in reading.groups:
        for tokens, label in zip(group["input_ids"], group["label"], strict=True):
            assert (tokens == 5).sum() == label % 7 + 1
    blank = [{**row, "text": " "} for row in rows]
    with pytest.raises(InputError, match=r"text is missing in 50 of 50 rows \(rows (\d+), ") as told:
        read(write_rows(tmp_path / "blank.jsonl", blank), folder, most=50)
    assert "rows 1, 2, 3, 4" not in str(told.value), "rows are counted as in the file"
