"""Reads files of samples in blocks of rows, so that one larger than memory can be gone through."""

from __future__ import annotations

import math
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.samples.formats import parquet_arrays, read_arrays
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.npz import UNREADABLE, Arrays, unreadable_npz
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

BLOCK_BYTES = 64 << 20
"""Files that hold no more are read whole."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
NUMPY_HAS = frozenset({"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})
"""Of the types of safetensors."""
PARQUET_BUFFER = 1 << 20
"""Read ahead of each column; else a row group lies in memory as it is in the file, and with `pre_buffer` all do."""
GUESSED_ROWS = 256
"""Rows of a Parquet file that say how large the others are."""


class Block(NamedTuple):
    """Rows of a file from number `first` on, and how many rows the file has."""

    first: int
    arrays: Arrays
    of: int

    @property
    def rows(self) -> int:
        """How many samples are in it; 0 where its arrays have no first axis."""
        return next((len(array) for array in self.arrays.values() if array.ndim), 0)

    @property
    def in_words(self) -> str:
        """`, rows 0 to 999` of a part of a file; nothing of a whole one."""
        return "" if self.of in {0, self.rows} else f", rows {self.first:,} to {self.first + self.rows - 1:,}"


@dataclass(frozen=True)
class SampleFile:
    """A file's arrays by name, how many rows they have, and a way to go through them.

    `rows` is 0 where they do not agree in their first axis: the one block then is the file as it is.
    """

    names: tuple[str, ...]
    rows: int
    reader: Callable[[Sequence[str], Callable[[int], int]], Iterator[Arrays]]

    def blocks(
        self, names: Sequence[str] | None = None, rows_of: Callable[[int], int] | None = None
    ) -> Iterator[Block]:
        """The rows in order, in at least one block.

        Args:
            names: the arrays that are wanted; all unless given.
            rows_of: rows of a block by the bytes of a row; within 64 MiB unless given.

        Raises:
            InputError: the file is damaged; see `read_arrays`.
        """
        first = 0
        for arrays in self.reader(self.names if names is None else names, rows_of or _rows_of):
            block = Block(first, arrays, self.rows)
            yield block
            first += block.rows


def open_samples(path: Path) -> SampleFile:
    """Look at a file of samples; one that is large is not read yet.

    Raises:
        InputError: it cannot be read; see `read_arrays`.
    """
    refuse_special(path, path.name)
    refuse_pointer(path, path.name)
    opener = {".npz": _open_npz, ".parquet": _open_parquet, ".safetensors": _open_safetensors}.get(path.suffix)
    large = opener(path) if opener is not None else None
    if large is not None:
        return large
    arrays = read_arrays(path)
    counts = {array.shape[:1] for array in arrays.values()}
    rows = next(iter(counts))[0] if len(counts) == 1 and () not in counts else 0
    return SampleFile(tuple(arrays), rows, partial(_of_memory, arrays))


def _rows_of(bytes_of_row: int) -> int:
    return max(1, BLOCK_BYTES // max(1, bytes_of_row))


def _of_memory(arrays: Arrays, names: Sequence[str], _: Callable[[int], int]) -> Iterator[Arrays]:
    yield {name: arrays[name] for name in names}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def _large(headers: Mapping[str, _Header]) -> int:
    """How many rows arrays have that are read in blocks; 0 of such as are read whole."""
    rows = {header.shape[:1] for header in headers.values()}
    if len(rows) != 1 or () in rows or any(header.dtype.hasobject for header in headers.values()):
        return 0
    (count,) = next(iter(rows))
    return count if count * sum(header.row_bytes for header in headers.values()) > BLOCK_BYTES else 0


def _open_npz(path: Path) -> SampleFile | None:
    """None where the file is small, or holds what is read whole: then `read_arrays` says what is wrong, if anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {}
            for member in archive.infolist():
                with archive.open(member) as stream:
                    header = _read_header(stream)
                if header is None or not member.filename.endswith(".npy"):
                    return None
                headers[member.filename.removesuffix(".npy")] = header
    except UNREADABLE:
        return None
    rows = _large(headers)
    return SampleFile(tuple(headers), rows, partial(_npz_blocks, path, headers)) if rows else None


def _read_header(stream: Any) -> _Header | None:
    """None of arrays in Fortran's order, whose rows do not lie together, and of versions that nothing writes."""
    reader = HEADERS.get(np.lib.format.read_magic(stream))
    if reader is None:
        return None
    shape, fortran, dtype = reader(stream)
    return _Header(shape, dtype) if not fortran or len(shape) < 2 else None  # noqa: PLR2004 - a matrix has an order


def _npz_blocks(
    path: Path, headers: Mapping[str, _Header], names: Sequence[str], rows_of: Callable[[int], int]
) -> Iterator[Arrays]:
    step = rows_of(sum(header.row_bytes for header in headers.values()))
    try:
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in names}
            for name, stream in streams.items():
                if _read_header(stream) != headers[name]:
                    raise ValueError("it changed while it was read")
            rows = headers[names[0]].shape[0]
            for start in range(0, rows, step):
                count = min(step, rows - start)
                yield {name: _read_rows(stream, headers[name], count) for name, stream in streams.items()}
            for stream in streams.values():
                stream.read(1)  # the checksum is looked at behind the last byte
    except UNREADABLE as error:
        raise unreadable_npz(path, error) from None


def _read_rows(stream: Any, header: _Header, rows: int) -> np.ndarray[Any, Any]:
    array = np.empty((rows, *header.shape[1:]), header.dtype)
    if array.nbytes and stream.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise EOFError("it ends too early")
    return array


def _open_safetensors(path: Path) -> SampleFile | None:
    try:
        from safetensors import safe_open  # noqa: PLC0415 - extra `export`, and few sets need it

        with safe_open(path, framework="numpy") as file:
            names = tuple(file.keys())
            slices = [file.get_slice(name) for name in names]
            shapes, dtypes = [each.get_shape() for each in slices], {each.get_dtype() for each in slices}
    except Exception:  # noqa: BLE001 - read_arrays says what is wrong
        return None
    rows = {tuple(shape[:1]) for shape in shapes}
    if path.stat().st_size <= BLOCK_BYTES or len(rows) != 1 or () in rows or not dtypes <= NUMPY_HAS:
        return None
    return SampleFile(names, shapes[0][0], partial(_safetensors_blocks, path, shapes[0][0]))


def _safetensors_blocks(path: Path, rows: int, names: Sequence[str], rows_of: Callable[[int], int]) -> Iterator[Arrays]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - as above

    step = rows_of(path.stat().st_size // max(1, rows))
    try:
        for start in range(0, rows, step):
            with safe_open(path, framework="numpy") as file:  # anew: what is mapped stays in memory
                block = {name: np.array(file.get_slice(name)[start : min(rows, start + step)]) for name in names}
            yield block
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path.name}: is no readable safetensors file ({error}); write it again") from None


def _open_parquet(path: Path) -> SampleFile | None:
    from pyarrow import ArrowException  # type: ignore[import-untyped] # noqa: PLC0415 - 0.1 s, and few sets need it
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # noqa: PLC0415 - as above

    try:
        with ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as file:
            names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
            if len(set(names)) < len(names) or not rows:
                return None
            guessed = next(parquet_arrays(file, path.name, names, min(rows, GUESSED_ROWS)))
    except (ArrowException, OSError, ValueError, MemoryError, InputError):
        return None
    size = sum(array.nbytes for array in guessed.values()) // min(rows, GUESSED_ROWS)
    return SampleFile(names, rows, partial(_parquet_blocks, path, size)) if size * rows > BLOCK_BYTES else None


def _parquet_blocks(path: Path, size: int, names: Sequence[str], rows_of: Callable[[int], int]) -> Iterator[Arrays]:
    from pyarrow import ArrowException  # noqa: PLC0415 - as above
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - as above

    try:
        with ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as file:
            yield from parquet_arrays(file, path.name, names, rows_of(size))
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path.name}: is no readable Parquet file ({error}); write it again") from None
