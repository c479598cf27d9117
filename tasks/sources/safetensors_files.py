"""The safetensors files of a checkpoint, found whole before anything loads them: one, or the shards of an index."""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.sources.interface import SAVE_PICKLE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLED_WEIGHTS = "pytorch_model"
"""So the weights are called beside pickles of the training's own."""
LENGTH_BYTES = 8
BFLOAT16, FLOATS = "BF16", {"BF16", "F16", "F32", "F64"}
MOST_HEADER_BYTES = 100 << 20
"""The format's own bound (huggingface/safetensors, "Format")."""


def checkpoint_files(root: Path, origin: str) -> list[Path]:
    """The weights in `root`, and the index where they are sharded; `origin` begins the messages.

    Raises:
        InputError: there are none, only pickles, a shard is missing, or a file is not whole.
    """
    if (root / SINGLE).is_file():
        files = [root / SINGLE]
    elif (root / INDEX).is_file():
        files = _shards(root, origin)
    else:
        raise InputError(_without_weights(root, origin))
    for path in files:
        _refuse_half(path, origin)
    return files if files == [root / SINGLE] else [root / INDEX, *files]


def read_json(path: Path, origin: str, remedy: str) -> dict[str, Any]:
    """A JSON file that holds one mapping.

    Raises:
        InputError: it is missing, or none.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{origin}: has no {path.name}; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}/{path.name}: cannot be read as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{origin}/{path.name}: must hold keys and values, not {type(content).__name__}; {remedy}")
    return content


def _shards(root: Path, origin: str) -> list[Path]:
    weights = read_json(root / INDEX, origin, "copy it again").get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{origin}/{INDEX}: weight_map: missing or empty; copy the whole folder again")
    names = sorted({str(name) for name in weights.values()})
    for name in names:
        if name != name.replace("\\", "/").rpartition("/")[2] or not name.endswith(".safetensors"):
            raise InputError(f"{origin}/{INDEX}: weight_map: {name!r} is no safetensors file beside it; correct it")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{origin}/{INDEX}: weight_map: names {', '.join(missing)}, and there is no such file; download the missing"
            f" {'shard' if len(missing) == 1 else 'shards'} ({len(names) - len(missing)} of {len(names)} are there)"
        )
    return [root / name for name in names]


def _without_weights(root: Path, origin: str) -> str:
    pickles = sorted(path.name for path in root.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return (
            f"{origin}: has neither {SINGLE} nor {INDEX}; save the model with save_pretrained, or download its weights"
        )
    weights = [name for name in pickles if name.startswith(PICKLED_WEIGHTS)] or pickles
    return (
        f"{origin}: its weights are a pickle ({', '.join(weights)}), which can run code when it is read; make"
        f" safetensors of it, in a process of its own: cd {root} && {SAVE_PICKLE.format(' '.join(weights))}"
    )


def bfloat16_share(paths: Iterable[Path]) -> float:
    """Of the floats in safetensors files, the share that is stored as bfloat16, by their headers alone.

    Raises:
        InputError: a file is not whole.
    """
    found: Counter[str] = Counter()
    for path in paths:
        refuse_pointer(path, path.name)
        header, problem = _header(path)
        if problem:
            raise InputError(f"{path.name}: is not a whole safetensors file: {problem}; copy or download it again")
        for name, tensor in header.items():
            if name != "__metadata__":
                found[str(tensor["dtype"])] += prod(tensor["shape"])
    floats = sum(count for dtype, count in found.items() if dtype in FLOATS)
    return found[BFLOAT16] / floats if floats else 0.0


def _refuse_half(path: Path, origin: str) -> None:
    """Refuse a file that ends before the tensors that its header names do, as after a download that broke off."""
    refuse_pointer(path, f"{origin}/{path.name}")
    _, problem = _header(path)
    if problem:
        raise InputError(f"{origin}/{path.name}: is not a whole safetensors file: {problem}; copy or download it again")


def _header(path: Path) -> tuple[dict[str, Any], str]:
    """What a file says of its tensors, and what is wrong with it, or nothing."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if length > min(MOST_HEADER_BYTES, size - LENGTH_BYTES):
            return {}, "its header is cut off"
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            wanted = LENGTH_BYTES + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}, "its header cannot be read"
    return header, f"it has {size:,} of {wanted:,} bytes" if wanted != size else ""
