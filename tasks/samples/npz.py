"""Reads and writes `.npz` files: shards of samples, and arrays that people bring. Pickles are refused."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Arrays = dict[str, np.ndarray[Any, Any]]

FIRST_INDICES = 5
"""So many indices of what is wrong are named in an error."""
# What numpy and the zip format raise on a damaged file.
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save_shard(folder: Path, number: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write shard `number` as `{number:05d}.npz`. The same arrays give the same bytes."""
    # numpy.savez would take an array named `file` for its own argument.
    with zipfile.ZipFile(folder / f"{number:05d}.npz", "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("*.npz"))


def load_arrays(path: Path) -> Arrays:
    """Read all arrays of an `.npz` file; pickled ones are refused.

    Raises:
        InputError: naming the file, and the array where one is at fault.
    """
    refuse_special(path, path.name)
    refuse_pointer(path, path.name)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise zipfile.BadZipFile("it holds one array without a name")
        with content as archive:
            return {name: _load_array(archive, name, path.name) for name in archive.files}
    except UNREADABLE as error:
        raise unreadable_npz(path, error) from None


def unreadable_npz(path: Path, error: Exception) -> InputError:
    """The error of a damaged file."""
    return InputError(f"{path.name}: is no readable .npz file ({error}); write it with numpy.savez")


def _load_array(archive: Mapping[str, Any], name: str, origin: str) -> np.ndarray[Any, Any]:
    try:
        array = archive[name]
    except ValueError as error:
        raise InputError(
            f"{origin}: array {name!r} cannot be read without pickle ({error}); pickles can run code,"
            " so save it with a numeric or string dtype"
        ) from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{origin}: {name!r} is no array; write the file with numpy.savez")
    return array
