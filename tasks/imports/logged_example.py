"""The input example that a model of MLflow carries: JSON, read by MLflow itself; nothing of it is unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.readers.interface import UNNAMED
from tasks.samples.regular import refuse_special

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

EXAMPLE = "the input example in MLmodel"
MOST_BYTES = 64 << 20
"""JSON becomes many times as large in memory."""
MATRIX = 2


class LoggedExample(NamedTuple):
    """Arrays by name, UNNAMED where it says none, whose first axis is the samples; and what is to be told, if any."""

    arrays: Mapping[str, NDArray[Any]] = {}
    note: str = ""


def read_example(folder: Path, said: object) -> LoggedExample:
    """Read what `saved_input_example_info` of MLmodel names; texts and other things that are no numbers are left out.

    A damaged one is told, and no error: the model can be imported without it.
    """
    if not isinstance(said, dict):
        return LoggedExample()
    try:
        path = (folder / str(said.get("artifact_path"))).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise ValueError(f"{said.get('artifact_path')} is no file of the model")  # noqa: TRY301 - told below
        refuse_special(path, path.name)
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")  # noqa: TRY301 - as above
        return LoggedExample(_arrays_of(_load(folder)))
    except Exception as error:  # noqa: BLE001 - MLflow, pandas and json raise many classes
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return LoggedExample(note=f"{EXAMPLE} cannot be read and is not used ({first}); log the model with another")


def _load(folder: Path) -> object:
    from mlflow.models import Model  # noqa: PLC0415 - takes seconds

    return Model.load(str(folder)).load_input_example(str(folder))


def _arrays_of(example: object) -> dict[str, NDArray[Any]]:
    """What a model of PyTorch gets of it; a table is one matrix of float32, as MLflow's own wrapper makes it."""
    if hasattr(example, "columns") and hasattr(example, "to_numpy"):
        numeric = all(dtype.kind in "iufb" for dtype in example.dtypes)  # type: ignore[attr-defined]  # pandas'
        return {UNNAMED: example.to_numpy(np.float32)} if numeric else {}
    named = example if isinstance(example, dict) else {UNNAMED: example}
    try:
        arrays = {str(name): _in_32_bits(np.asarray(value)) for name, value in named.items()}
    except ValueError:  # lists of differing lengths
        return {}
    usable = all(array.dtype.kind in "iufb" and array.size and np.isfinite(array).all() for array in arrays.values())
    alike = len({array.shape[:1] for array in arrays.values()}) == 1
    batched = any(array.ndim >= MATRIX for array in arrays.values())
    return arrays if usable and alike and batched else {}


def _in_32_bits(array: NDArray[Any]) -> NDArray[Any]:
    """JSON has one kind of fraction, and modules are run in float32."""
    return array.astype(np.float32) if array.dtype == np.float64 else array
