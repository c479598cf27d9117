"""Reads files of samples, whatever their format: `.npz`, safetensors or Parquet. None of them can hold a pickle here.

What the arrays must be called and how they must fit together is for the reader's caller.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.npz import FIRST_INDICES, Arrays, load_arrays
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


DATA_SUFFIXES = (".npz", ".safetensors", ".parquet")


def read_arrays(path: Path) -> Arrays:
    """Read all arrays of a file by its suffix: `.npz`, `.safetensors` or `.parquet`.

    Parquet: a column is an array [rows]; one of nested lists, or of Arrow's fixed-shape tensors, is an array
    [rows, …] of the type within; text becomes numpy's str dtype. safetensors holds no text, so that a `slice.<name>`
    in it must be numbers.

    Raises:
        InputError: naming the file and the array or column: an unknown suffix, a damaged file, a type that is no
            number, boolean or text, a null, rows of differing lengths.
    """
    refuse_special(path, path.name)
    refuse_pointer(path, path.name)
    if path.suffix == ".npz":
        return load_arrays(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise InputError(f"{path.name}: is no data file; its name must end in one of {', '.join(DATA_SUFFIXES)}")


def _read_safetensors(path: Path) -> Arrays:
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - extra `export`, and few sets need it
    except ImportError:
        raise InputError(
            f"{path.name}: needs the package safetensors; install enginegate[export], or save the data as .npz"
        ) from None
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _read_tensor(file, name, path.name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, MemoryError) as error:
        raise InputError(
            f"{path.name}: is no readable safetensors file ({error}); write it with safetensors.numpy.save_file"
        ) from None


def _read_tensor(file: Any, name: str, origin: str) -> NDArray[Any]:
    try:
        array = np.asarray(file.get_tensor(name))
    except (TypeError, AttributeError):  # what safetensors makes of a type that numpy lacks
        array = None
    if array is None or array.dtype.kind == "V":  # as such a type is where somebody imported ml_dtypes
        dtype = file.get_slice(name).get_dtype()
        raise InputError(f"{origin}: array {name!r} is {dtype}, which numpy lacks; save it as float32")
    return array


def _read_parquet(path: Path) -> Arrays:
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - 0.1 s, and few sets need it
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped] # noqa: PLC0415 - as above

    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_repeats(names, path.name)
            # By row group: Arrow's lists have 32-bit offsets, and only one group's copy lies in memory.
            groups = (file.read_row_group(number) for number in range(file.num_row_groups))
            found = list(_read_groups(groups if file.num_row_groups else [file.schema_arrow.empty_table()], path.name))
            return {name: np.concatenate([part[name] for part in found]) for name in names}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path.name}: is no readable Parquet file ({error}); write it again") from None


def _refuse_repeats(names: Sequence[str], origin: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{origin}: {names.count(name)} columns are called {name!r}; rename all but one")


def parquet_arrays(file: Any, origin: str, names: Sequence[str], rows: int) -> Iterator[Arrays]:
    """Some columns of an open `ParquetFile` as arrays of at most `rows` rows, in order; see `read_arrays`.

    Raises:
        InputError: naming `origin` and the column: what `read_arrays` refuses.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    batches = file.iter_batches(batch_size=rows, columns=list(names))
    yield from _read_groups((pa.Table.from_batches([batch]) for batch in batches), origin)


def _read_groups(groups: Iterable[Any], origin: str) -> Iterator[Arrays]:
    """The dense parts of the columns, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    first_row = 0
    for group in groups:
        parts: Arrays = {}
        for name in group.column_names:
            place = f"{origin}: column {name!r}"
            parts[name] = _dense(group.column(name).combine_chunks(), place, first_row)
            shape = parts[name].shape[1:]
            if shapes.setdefault(name, shape) != shape:
                raise InputError(f"{_ragged(place, first_row)}: {shape} there, {shapes[name]} before")
        yield parts
        first_row += group.num_rows


def _dense(array: Any, place: str, first_row: int) -> NDArray[Any]:
    """The array [rows, …] of a part of a column; its first row is `first_row` of the column."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    if isinstance(array, pa.FixedShapeTensorArray):
        _leaf(array.storage.flatten(), place, first_row, math.prod(array.type.shape))
        return np.asarray(array.to_numpy_ndarray())
    shape = [len(array)]
    while _is_list(array.type):
        per_row = math.prod(shape[1:])
        _refuse_nulls(array, place, first_row, per_row)
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        differing = np.flatnonzero(lengths != lengths[:1])
        if len(differing):
            row = first_row + int(differing[0]) // per_row
            raise InputError(f"{_ragged(place, row)}: {lengths[differing[0]]} values there, {lengths[0]} before")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        array = array.flatten()
    return _leaf(array, place, first_row, math.prod(shape[1:])).reshape(shape)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - as above

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _leaf(array: Any, place: str, first_row: int, per_row: int) -> NDArray[Any]:
    import pyarrow as pa  # noqa: PLC0415 - as above

    if pa.types.is_dictionary(array.type):
        _refuse_nulls(array, place, first_row, per_row)
        array = array.dictionary_decode()
    kind = array.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{place} has type {kind}; use numbers, booleans or text, or lists of them")
    _refuse_nulls(array, place, first_row, per_row)
    values = array.to_numpy(zero_copy_only=False)
    return np.asarray(values.astype(np.str_) if text else values)


def _refuse_nulls(array: Any, place: str, first_row: int, per_row: int) -> None:
    if array.null_count:
        values = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        rows = first_row + np.unique(values // per_row)
        first = ", ".join(map(str, rows[:FIRST_INDICES]))
        raise InputError(f"{place} has nulls in {len(rows)} rows (first: {first}); fill them, or leave those rows out")


def _ragged(place: str, row: int) -> str:
    return f"{place}, row {row}: its rows differ in length; pad them, or write a file for each length"
