"""What a source itself says of its inputs, without a module being loaded: one reader a kind of source."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.imports.draft import BATCH
from tasks.imports.logged_example import EXAMPLE
from tasks.readers.interface import UNNAMED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.imports.origin import Origin

SERIALISED = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
SERIALISED_BOOL = 12
"""Numbers of dtypes in the archives of torch.export."""
MOST_BYTES = 256 << 20
SIGNATURE = "the signature in MLmodel"
SEQUENCE, MASK = "sequence", "attention_mask"


@dataclass(frozen=True)
class DeclaredInput:
    """An input: dtype, a name or an extent for each axis, the largest whole number that it may hold, and its padding.

    The first axis is the samples; None is an axis of which the data say whether it varies. `example` is an array of it
    that the source carries.
    """

    dtype: str
    shape: tuple[str | int | None, ...]
    highest: int | None = None
    pad: int = 0
    example: NDArray[Any] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Declared:
    """Inputs by name, and the least and the largest extent of dimensions that have some.

    `outputs` are names that the source's loader asks for; empty where the module says them when it is run.
    """

    inputs: Mapping[str, DeclaredInput]
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    by: str = ""
    outputs: tuple[str, ...] = ()


def read_declared(origin: Origin) -> Declared | None:
    """What the source says of its inputs; None where it says nothing.

    Raises:
        InputError: the archive cannot be read.
    """
    if origin.config:
        return _of_config(origin.config)
    if origin.tensors:
        return _of_signature(origin.tensors, origin.example.arrays)
    if origin.example.arrays:
        return _of_example(origin.example.arrays)
    kind = next(iter(origin.written)) if isinstance(origin.written, dict) else ""
    reader = READERS_OF_ARCHIVES.get(kind)
    return None if reader is None or origin.file is None else reader(origin.file)


def _of_config(config: Mapping[str, Any]) -> Declared | None:
    """Tokens of a text model, pixels of an image model; of others config.json does not say enough."""
    vision, size = config.get("vision_config") or config, None
    if isinstance(vision, dict):
        size = vision.get("image_size")
    if isinstance(size, int) and "vocab_size" not in config:
        channels = int(vision.get("num_channels", 3))
        return Declared({"pixel_values": DeclaredInput("float32", (BATCH, channels, size, size))}, by="config.json")
    vocabulary = config.get("vocab_size")
    if not isinstance(vocabulary, int) or vocabulary < 1 or config.get("is_encoder_decoder"):
        return None
    pad = config.get("pad_token_id")
    tokens = DeclaredInput("int64", (BATCH, SEQUENCE), vocabulary - 1, pad if isinstance(pad, int) else 0)
    mask = DeclaredInput("int64", (BATCH, SEQUENCE), 1)
    return Declared({"input_ids": tokens, MASK: mask}, by="config.json")


def _of_signature(tensors: Sequence[Mapping[str, Any]], example: Mapping[str, NDArray[Any]]) -> Declared:
    """Inputs of an MLflow model; the name is left to the data or to forward where it says none."""
    inputs: dict[str, DeclaredInput] = {}
    bounds: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        name = str(tensor.get("name") or UNNAMED)
        extents = [max(0, extent) for extent in tensor["tensor-spec"]["shape"]]
        axes = _named(name if name != UNNAMED else "input", extents, bounds, SIGNATURE)
        shown = example.get(name)
        fits = shown is not None and shown.ndim == len(axes)
        inputs[name] = DeclaredInput(str(tensor["tensor-spec"]["dtype"]), axes, example=shown if fits else None)
    return Declared(inputs, bounds, SIGNATURE)


def _of_example(example: Mapping[str, NDArray[Any]]) -> Declared:
    """Inputs of an MLflow model without a signature: one example does not say which of its axes may vary."""
    inputs = {
        name: DeclaredInput(array.dtype.name, (BATCH, *(None for _ in array.shape[1:])), example=array)
        for name, array in example.items()
    }
    return Declared(inputs, by=EXAMPLE)


def _of_onnx(path: Path) -> Declared:
    import onnx  # noqa: PLC0415 - few need it

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # noqa: BLE001 - protobuf's own errors
        raise InputError(f"{path.name}: is no readable ONNX file ({error}); export it again") from None
    weights = {tensor.name for tensor in graph.initializer}
    inputs: dict[str, DeclaredInput] = {}
    bounds: dict[str, tuple[int, int]] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        extents = [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]
        inputs[value.name] = DeclaredInput(dtype, _named(value.name, extents, bounds, path.name))
    return Declared(inputs, bounds, path.name, tuple(value.name for value in graph.output))


def _named(
    name: str, extents: list[int | str], bounds: dict[str, tuple[int, int]], origin: str
) -> tuple[str | int, ...]:
    """A shape whose first axis is the samples; axes without a name get one."""
    if not extents:
        raise InputError(f"{origin}: input {name} is a scalar, which data cannot bring; make it a constant")
    if isinstance(extents[0], int) and extents[0]:
        bounds[BATCH] = (extents[0], extents[0])
    rest = [extent or f"{_plain(name)}_axis{axis}" for axis, extent in enumerate(extents[1:], 1)]
    return (BATCH, *(axis if isinstance(axis, int) else _plain(axis) for axis in rest))


def _plain(name: str) -> str:
    found = "".join(each if each.isalnum() or each == "_" else "_" for each in name)[:48]
    return found if found[:1].isalpha() or found[:1] == "_" else f"dim_{found}"


def _of_pt2(path: Path) -> Declared:
    """From the JSON in the archive: nothing of it is unpickled."""
    content = _read_pt2(path)
    inputs: dict[str, DeclaredInput] = {}
    bounds: dict[str, tuple[int, int]] = {}
    try:
        module = content["graph_module"]
        values = module["graph"]["tensor_values"]
        specs = [spec["user_input"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
        symbols = {key: (each["min_val"], each["max_val"]) for key, each in content["range_constraints"].items()}
        for name in (spec["arg"]["as_tensor"]["name"] for spec in specs):
            extents = [_extent(size) for size in values[name]["sizes"]]
            inputs[name] = DeclaredInput(_dtype(values[name]["dtype"]), _named(name, extents, bounds, path.name))
            for axis, extent in zip(inputs[name].shape, extents, strict=True):
                if isinstance(extent, str) and extent in symbols:
                    bounds[str(axis)] = _bounded(symbols[extent])
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path.name}: does not say its inputs as torch.export of 2.9 or later does ({error!r}); export it again,"
            " with tensors as inputs"
        ) from None
    return Declared(inputs, bounds, path.name)


def _read_pt2(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(each for each in archive.infolist() if each.filename.endswith("models/model.json"))
            # A member that says it is small is not read further than that.
            found: dict[str, Any] = json.loads(archive.open(member).read(MOST_BYTES))
            return found
    except (zipfile.BadZipFile, OSError, ValueError, StopIteration) as error:
        why = str(error) or "it holds no models/model.json"
        raise InputError(f"{path.name}: is no archive of torch.export ({why}); save it by torch.export.save") from None


def _extent(size: Mapping[str, Any]) -> int | str:
    if "as_int" in size:
        return int(size["as_int"])
    text = str(size["as_expr"]["expr_str"])
    return text.split("'")[1] if "'" in text else text


def _bounded(bounds: tuple[int | None, int | None]) -> tuple[int, int]:
    low, high = bounds
    return max(1, low or 1), high or 1 << 20


def _dtype(number: int) -> str:
    return "bool" if number == SERIALISED_BOOL else SERIALISED[number]


READERS_OF_ARCHIVES: Mapping[str, Callable[[Path], Declared]] = {"onnx": _of_onnx, "pt2": _of_pt2}
