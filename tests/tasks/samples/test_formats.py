from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from tasks.errors import InputError
from tasks.samples.formats import read_arrays

if TYPE_CHECKING:
    from pathlib import Path

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
NUMBERS = st.sampled_from(
    [np.float32, np.float16, np.float64, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
)


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def assert_same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@SAME_FOLDER
@given(st.data(), NUMBERS)
def test_numbers_come_back_alike_from_every_format(tmp_path: Path, data: st.DataObject, dtype: Any) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    values = data.draw(hnp.arrays(dtype, shape))
    np.savez(tmp_path / "a.npz", x=values)
    save_file({"x": values}, tmp_path / "a.safetensors")
    column = pa.array(values.ravel())
    for extent in reversed(shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, extent)
    write_parquet(tmp_path / "a.parquet", {"x": column})
    for suffix in ("npz", "safetensors", "parquet"):
        assert_same(read_arrays(tmp_path / f"a.{suffix}")["x"], values)


@SAME_FOLDER
@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4)), st.integers(1, 3))
def test_lists_of_lists_are_an_array_whatever_the_row_groups(
    tmp_path: Path, values: np.ndarray[Any, Any], rows: int
) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"x": values.tolist()}, row_group_size=rows)
    assert_same(read_arrays(path)["x"], values)


def test_text_is_numpy_text_also_where_it_is_dictionary_encoded(tmp_path: Path) -> None:
    scripts = ["printed", "handwritten", "printed"]
    columns = {
        "slice.script": scripts,
        "slice.coded": pa.array(scripts).dictionary_encode(),
        "slice.large": pa.array(scripts, pa.large_string()),
        "slice.level": pa.array([1, 2, 1]).dictionary_encode(),
    }
    found = read_arrays(write_parquet(tmp_path / "a.parquet", columns, row_group_size=2))
    for name in ("slice.script", "slice.coded", "slice.large"):
        assert_same(found[name], np.array(scripts))
    assert_same(found["slice.level"], np.array([1, 2, 1]))


def test_tensors_of_arrow_keep_their_shape(tmp_path: Path) -> None:
    pictures = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    columns = {"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pictures)}
    assert_same(read_arrays(write_parquet(tmp_path / "a.parquet", columns))["image"], pictures)


def test_what_is_read_may_be_written_to(tmp_path: Path) -> None:
    save_file({"x": np.zeros(3)}, tmp_path / "a.safetensors")
    write_parquet(tmp_path / "a.parquet", {"x": np.zeros(3)})
    for suffix in ("safetensors", "parquet"):
        found = read_arrays(tmp_path / f"a.{suffix}")["x"]
        found[0] = 1
        assert_same(found, np.array([1.0, 0.0, 0.0]))


def test_no_rows_are_an_empty_array(tmp_path: Path) -> None:
    columns = {"x": pa.array([], pa.list_(pa.float32())), "y": pa.array([], pa.string())}
    found = read_arrays(write_parquet(tmp_path / "a.parquet", columns))
    assert found["x"].shape == (0, 0)
    assert found["x"].dtype == np.float32
    assert found["y"].shape == (0,)


BAD_COLUMNS: dict[str, tuple[Any, str]] = {
    "ragged": ([[1, 2], [1, 2], [1]], "row 2: its rows differ in length; pad them, .*: 1 values there, 2 before"),
    "ragged within": ([[[1], [2]], [[3], [4, 5]]], "row 1: its rows differ in length"),
    "nulls": ([1, None, 2, None], r"has nulls in 2 rows \(first: 1, 3\); fill them"),
    "a null list": ([[1], None], r"has nulls in 1 rows \(first: 1\)"),
    "nulls in a list": ([[1, 2], [None, None], [3, None]], r"has nulls in 2 rows \(first: 1, 2\)"),
    "null text": (["a", None], r"has nulls in 1 rows \(first: 1\)"),
    "null in a dictionary": (pa.array(["a", None]).dictionary_encode(), r"has nulls in 1 rows \(first: 1\)"),
    "nothing but nulls": (pa.nulls(2), "has type null; use numbers, booleans or text"),
    "bytes": ([b"pickle"], "has type binary"),
    "dates": (pa.array([1, 2], pa.timestamp("s")), "has type timestamp"),
    "records": ([{"a": 1}], "has type struct"),
    "null in a tensor": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int64(), [2]), pa.array([[1, 2], [None, 3]], pa.list_(pa.int64(), 2))
        ),
        r"has nulls in 1 rows \(first: 1\)",
    ),
}


@pytest.mark.parametrize(("column", "words"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_a_bad_column_is_refused_by_name_and_row(tmp_path: Path, column: Any, words: str) -> None:
    path = write_parquet(tmp_path / "set.parquet", {"mel": column})
    with pytest.raises(InputError, match=rf"set.parquet: column 'mel'.*{words}"):
        read_arrays(path)


def test_rows_that_differ_between_row_groups_are_told_by_their_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"x": [[1, 2]] * 4 + [[1]] * 2}, row_group_size=2)
    with pytest.raises(InputError, match=r"column 'x', row 4: its rows differ in length"):
        read_arrays(path)
    path = write_parquet(tmp_path / "a.parquet", {"x": [1, 2, 3, None]}, row_group_size=2)
    with pytest.raises(InputError, match=r"column 'x' has nulls in 1 rows \(first: 3\)"):
        read_arrays(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: 2 columns are called 'x'; rename"):
        read_arrays(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
def test_a_damaged_file_is_an_input_error_that_names_it(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"set.{suffix}"
    np.savez(tmp_path / "set.npz", x=np.arange(1000))
    save_file({"x": np.arange(1000)}, tmp_path / "set.safetensors")
    write_parquet(tmp_path / "set.parquet", {"x": np.arange(1000)})
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"x" * 99, "cut": whole[: len(whole) // 2]}.get(damage, whole))
    if damage == "missing":
        path.unlink()
    with pytest.raises(InputError, match=rf"^set.{suffix}: is no readable"):
        read_arrays(path)


@SAME_FOLDER
@given(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=8), st.sampled_from(["safetensors", "parquet"]))
def test_damage_anywhere_is_an_input_error_or_gives_arrays_that_need_no_pickle(
    tmp_path: Path, where: int, noise: bytes, suffix: str
) -> None:
    path = tmp_path / f"set.{suffix}"
    save_file({"x": np.arange(50)}, tmp_path / "set.safetensors")
    write_parquet(tmp_path / "set.parquet", {"x": [[1, 2]] * 20, "y": ["a", "b"] * 10})
    content = bytearray(path.read_bytes())
    start = where % len(content)
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    found: dict[str, Any] = {}
    with suppress(InputError):
        found = read_arrays(path)
    assert all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in found.values())


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 4), ("F8_E4M3", 2)])
def test_a_tensor_that_numpy_cannot_hold_is_named(tmp_path: Path, dtype: str, size: int) -> None:
    header = json.dumps({"mel": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "set.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    words = f"set.safetensors: array 'mel' is {dtype}, which numpy lacks; save it as float32"
    with pytest.raises(InputError, match=words):
        read_arrays(path)


def test_without_safetensors_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"needs the package safetensors; install enginegate\[export\]"):
        read_arrays(tmp_path / "set.safetensors")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.array([{}], object))
    with pytest.raises(InputError, match=r"set.npz: array 'x' cannot be read without pickle"):
        read_arrays(tmp_path / "set.npz")


@pytest.mark.parametrize("name", ["set.pkl", "set", "set.NPZ"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: is no data file; .* .npz, .safetensors, .parquet"):
        read_arrays(tmp_path / name)
