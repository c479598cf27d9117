"""Triton's names of the types of arrays, and NumPy's."""

from __future__ import annotations

from tasks.errors import RefusedError

# `DataType` of Triton's model_config.proto, and `datatype` of its HTTP protocol. Triton has no complex numbers, no FP8
# and no 4 bits; its BF16 has no type in NumPy but by ml_dtypes.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def datatype_of(dtype: str, what: str) -> str:
    """Triton's name of a NumPy dtype, as its HTTP protocol writes it: `FP32` of `float32`.

    Args:
        dtype: by NumPy's name.
        what: the input or output that has it, in the error.

    Raises:
        RefusedError: Triton lacks it.
    """
    if dtype not in DATATYPES:
        known = ", ".join(DATATYPES)
        raise RefusedError(f"{what} is of dtype {dtype}, which Triton lacks; make it one of {known}, and convert again")
    return DATATYPES[dtype]
