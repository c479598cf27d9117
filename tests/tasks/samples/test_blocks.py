from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tasks.errors import InputError
from tasks.readers import lazy_groups, read_data
from tasks.readers.interface import ReadRequest
from tasks.samples import blocks
from tasks.samples.blocks import open_samples
from tasks.samples.formats import read_arrays

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 50
FILES = ("plain.npz", "packed.npz", "rows.safetensors", "rows.parquet", "one-group.parquet")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files that hold the same samples."""
    rng = np.random.default_rng(1)
    numbers = {"x": rng.normal(size=(ROWS, 3, 4)).astype(np.float32), "label": np.arange(ROWS), "b": np.ones(ROWS, "?")}
    texts = {"slice.lang": np.array([f"l{row % 12}" for row in range(ROWS)])}
    np.savez(tmp_path / "plain.npz", **numbers, **texts)
    np.savez_compressed(tmp_path / "packed.npz", **numbers, **texts)
    save_file(numbers, tmp_path / "rows.safetensors")
    columns = {
        "x": numbers["x"].tolist(), "label": numbers["label"], "b": numbers["b"],
        "slice.lang": pa.array(texts["slice.lang"].tolist()).dictionary_encode(),
        "slice": pa.FixedShapeTensorArray.from_numpy_ndarray(numbers["x"]),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=20)
    pq.write_table(pa.table(columns), tmp_path / "one-group.parquet")
    return tmp_path


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", FILES)
def test_the_blocks_of_a_file_are_the_file(files: Path, name: str) -> None:
    opened = open_samples(files / name)
    whole = read_arrays(files / name)
    found = list(opened.blocks())
    assert (opened.rows, sorted(opened.names)) == (ROWS, sorted(whole))
    assert len(found) > 3
    assert [block.first for block in found] == np.cumsum([0, *(block.rows for block in found[:-1])]).tolist()
    for key, array in whole.items():
        joined = np.concatenate([block.arrays[key] for block in found])
        assert joined.dtype == array.dtype
        np.testing.assert_array_equal(joined, array)
    labels = list(opened.blocks(["label"]))
    assert {tuple(block.arrays) for block in labels} == {("label",)}
    assert [row for block in labels for row in block.arrays["label"].tolist()] == list(range(ROWS))


@pytest.mark.parametrize("name", FILES)
def test_a_small_file_is_one_block(files: Path, name: str) -> None:
    (block,) = open_samples(files / name).blocks()
    assert (block.rows, block.in_words) == (ROWS, "")


@pytest.mark.usefixtures("small_blocks")
def test_arrays_without_a_common_first_axis_and_those_of_fortrans_order_are_read_whole(tmp_path: Path) -> None:
    for arrays in ({"x": np.zeros((900, 2)), "y": np.array(1.0)}, {"x": np.asfortranarray(np.ones((900, 2)))}):
        np.savez(tmp_path / "odd.npz", **arrays)
        (block,) = open_samples(tmp_path / "odd.npz").blocks()
        assert {name: array.shape for name, array in block.arrays.items()} == {n: a.shape for n, a in arrays.items()}


@pytest.mark.usefixtures("small_blocks")
def test_a_pickle_is_refused_in_a_large_file_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((900, 2)), y=np.array([{}] * 900, object))
    with pytest.raises(InputError, match="array 'y' cannot be read without pickle"):
        open_samples(tmp_path / "a.npz")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", FILES)
def test_a_large_file_that_is_damaged_is_told_by_name(files: Path, name: str) -> None:
    content = bytearray((files / name).read_bytes())
    if name == "plain.npz":
        content[200] ^= 255  # within the values of x, which only a checksum finds
        (files / name).write_bytes(content)
    else:
        (files / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"^{name}: is no readable"):
        list(open_samples(files / name).blocks())


@pytest.mark.parametrize("suffix", ["npz", "parquet", "safetensors"])
def test_samples_of_a_large_file_never_lie_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(lazy_groups, "GROUP_BYTES", 1 << 20)
    rows: Any = np.arange(8192, dtype=np.float32)[:, None] + np.zeros((1, 1024), np.float32)
    np.savez(tmp_path / "a.npz", x=rows)
    save_file({"x": rows}, tmp_path / "a.safetensors")
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 1024)
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet", row_group_size=1024)
    size = rows.nbytes
    del rows, column
    (tmp_path / "kept").mkdir()
    tracemalloc.start()
    try:
        reading = read_data(ReadRequest(tmp_path / f"a.{suffix}", most=8000, folder=tmp_path / "kept"))
        assert sum(len(group["x"]) for group in reading.groups) == 8000
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()
    firsts = np.concatenate([group["x"][:, 0] for group in reading.groups])
    assert len(np.unique(firsts)) == 8000
    assert (np.diff(firsts) > 0).all()
