from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError
from tasks.readers import read_data, reader_of
from tasks.readers.interface import ReadRequest
from tests.tasks.readers.tokenizers_on_disk import save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


def test_each_file_of_a_folder_is_a_group_and_labels_are_numbered_over_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), label=np.array(["b", "c"]))
    np.savez(tmp_path / "b.npz", x=np.zeros((1, 5)), label=np.array(["a"]))
    reading = read_data(ReadRequest(tmp_path))
    assert [group["x"].shape for group in reading.groups] == [(2, 3), (1, 5)]
    assert [group["label"].tolist() for group in reading.groups] == [[1, 2], [0]]
    assert reading.labels == {"a": 0, "b": 1, "c": 2}


def test_parquet_has_inputs_and_columns_get_other_names(tmp_path: Path) -> None:
    table = pa.table({"f": [[1.0, 2.0], [3.0, 4.0]], "y": [0, 1], "id": [7, 8]})
    pq.write_table(table, tmp_path / "rows.parquet")
    request = ReadRequest(
        tmp_path / "rows.parquet", columns={"f": "features", "y": "label"}, left_out=frozenset({"id"})
    )
    (group,) = read_data(request).groups
    assert group["features"].tolist() == [[1, 2], [3, 4]]
    assert sorted(group) == ["features", "label"]


def test_texts_in_parquet_are_tokenised(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["where is", "now"], "label": ["b", "a"]}), tmp_path / "rows.parquet")
    (group,) = read_data(ReadRequest(tmp_path / "rows.parquet", save_tokenizer(tmp_path / "model"))).groups
    assert group["input_ids"][0, :4].tolist() == [2, 4, 5, 3]
    assert group["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, r"must agree in their first axis.*x \[2, 3\], y \[3\]"),
        ({"x": np.zeros((0, 3))}, "holds no rows; remove the file"),
        ({"x": np.zeros((2, 3)), "label": np.array([1.0, np.nan])}, r"label is missing in 1 of 2 rows \(row 1\)"),
        ({"x": np.zeros((2, 3)), "label": np.array(["a", ""])}, r"label is missing in 1 of 2 rows \(row 1\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_data(ReadRequest(tmp_path / "a.npz"))


def test_files_of_a_folder_must_hold_the_same_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), label=np.zeros(2))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"b\.npz: label is in one of b.npz and a.npz only"):
        read_data(ReadRequest(tmp_path))


def test_what_no_reader_takes_is_refused_with_what_they_take(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(InputError, match=r"a.xlsx: holds no data in a form that is known; bring .npz, .*wav"):
        reader_of(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="does not exist"):
        reader_of(tmp_path / "b.npz")


def test_of_many_rows_so_many_are_drawn_with_what_belongs_to_them(tmp_path: Path) -> None:
    for number in range(3):
        rows = np.arange(100) + 100 * number
        np.savez(tmp_path / f"{number}.npz", x=rows, label=np.array([f"of {row:03d}" for row in rows]))
    reading = read_data(ReadRequest(tmp_path, most=20))
    rows = np.concatenate([group["x"] for group in reading.groups])
    assert len(set(rows.tolist())) == 20
    assert len({row // 100 for row in rows.tolist()}) == 3
    assert (np.concatenate([group["label"] for group in reading.groups]) == rows).all(), "labels that were not drawn"
    assert reading.notes == ("20 of 300 samples were drawn at random by seed 0: take more by --most N",)
    assert read_data(ReadRequest(tmp_path, most=300)).notes == ()
