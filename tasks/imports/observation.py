"""What a module that is being imported returns on a few samples: a child loads and runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, read_model_directory
from tasks.readers.annotations import is_annotation
from tasks.readers.interface import UNNAMED
from tasks.samples.npz import load_arrays, save_shard, shard_paths
from tasks.torch_side.interface import ObserveReply, ObserveRequest
from tasks.torch_side.module_source import call_with_module, lay_out, module_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.samples.npz import Arrays

SIZES = (16, 24)
"""Samples of a call, in turn: two sizes where there may be, so that an output that does not grow with them is found."""
MOST_SHAPES = 6


class Observation(NamedTuple):
    """The outputs on some groups, those groups' inputs, and the name of an input that the data do not name.

    `only` is the one number of samples that the module takes; there are no outputs then.
    """

    outputs: list[Arrays]
    inputs: list[Arrays]
    renamed: Mapping[str, str]
    only: int | None = None


def observe_module(
    context: StageContext, folder: Path, groups: Sequence[Arrays], *, least: int, most: int, origin: str
) -> Observation:
    """Run the module of a model directory that says nothing true of its outputs yet.

    Args:
        context: the stage's surroundings.
        folder: the model directory, whose validation data are of no importance.
        groups: samples of one shape each.
        least: the fewest samples of a call.
        most: the most.
        origin: the data's name, for errors.

    Raises:
        InputError: the source or the weights are at fault, the inputs are not the module's, or it returns no tensors.
    """
    directory = read_model_directory(folder)
    parts = _parts(groups, _sizes(least, most))
    with context.store.scratch() as scratch:
        for name in ("samples", "seen"):
            (scratch / name).mkdir()
        for number, part in enumerate(parts):
            save_shard(scratch / "samples", number, part)
        source = str(directory.spec.source)
        try:
            request = ObserveRequest(
                module=lay_out(directory, scratch, module_key(directory)),
                samples=scratch / "samples",
                seen=scratch / "seen",
                unnamed=UNNAMED if UNNAMED in directory.spec.inputs else None,
            )
            reply = call_with_module(
                context, "tasks.torch_side.torch_observe:observe", request, ObserveReply, scratch, source=source
            )
        except InputError as error:
            raise _of_data(error, origin) from None
        return Observation(
            [load_arrays(path) for path in shard_paths(scratch / "seen")], parts, reply.renamed, reply.only
        )


def _of_data(error: InputError, origin: str) -> InputError:
    """The error in the words of who imports: the data's columns, where model.yaml has inputs that nobody wrote."""
    columns = str(error).replace(f"{SPEC_FILE}: inputs.", f"{origin}: column ")
    columns = columns.replace("; rename it", "; rename it by --column NAME=AS")
    return InputError(columns.replace(f"{SPEC_FILE}: inputs:", f"{origin}:").replace(f"{SPEC_FILE}: source", "source"))


def _sizes(least: int, most: int) -> tuple[int, int]:
    return min(max(SIZES[0], least), max(least, most - 1)), min(max(SIZES[1], least), most)


def _parts(groups: Sequence[Arrays], sizes: tuple[int, int]) -> list[Arrays]:
    """A few samples of some groups, among them the smallest and the largest; a lone group twice."""
    order = sorted(range(len(groups)), key=lambda place: sum(a[0].size for a in groups[place].values()))
    places = sorted({order[round(place)] for place in np.linspace(0, len(order) - 1, MOST_SHAPES)})
    places = places if len(places) > 1 else places * len(sizes)
    parts = []
    for number, place in enumerate(places):
        size = sizes[number % len(sizes)]
        samples = len(next(iter(groups[place].values())))
        rows = np.arange(size) % samples
        parts.append({name: array[rows] for name, array in groups[place].items() if not is_annotation(name)})
    return parts
