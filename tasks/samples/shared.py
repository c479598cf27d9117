"""Inputs that all samples of a call share, such as a scalar: files may give one value, or one for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tasks.samples.data_spec import DataSpec
    from tasks.samples.npz import Arrays


def with_shared(arrays: Arrays, spec: DataSpec) -> Arrays:
    """The arrays of a file, with the samples first in the shared inputs too: one value stands for all samples."""
    samples = next((len(arrays[n]) for n, s in spec.inputs.items() if not s.is_shared and _has_axis(arrays, n)), None)
    found = dict(arrays)
    for name, declared in spec.inputs.items():
        if declared.is_shared and name in arrays and samples and arrays[name].ndim == len(declared.shape) - 1:
            found[name] = np.repeat(arrays[name][None], samples, axis=0)
    return found


def _has_axis(arrays: Arrays, name: str) -> bool:
    return name in arrays and arrays[name].ndim > 0


def alike_in_shared(arrays: Arrays, spec: DataSpec) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """The rows that have equal shared inputs, in groups: all rows in one where there are none.

    Rows of one shard run together, and a call has one value of a shared input.
    """
    shared = [arrays[name] for name, declared in spec.inputs.items() if declared.is_shared]
    samples = len(arrays[next(iter(spec.inputs))])
    if not shared:
        return [np.arange(samples)]
    bytes_of = [
        np.ascontiguousarray(array).reshape(samples, -1).view(np.uint8).reshape(samples, -1) for array in shared
    ]
    _, group = np.unique(np.concatenate(bytes_of, axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    return [np.flatnonzero(group == number) for number in range(int(group.max(initial=-1)) + 1)]
