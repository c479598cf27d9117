"""Whether a module is a function of its inputs, and if not, why. Runs in child processes only: it imports torch."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.samples.differences import allowed_difference, difference_in_words, largest_difference
from tasks.torch_side.torch_module import PositionalModule, load_module, run_module, seed_generators

if TYPE_CHECKING:
    from tasks.samples.npz import Arrays
    from tasks.sources.interface import ModuleRequest

MOST_LOADED_TWICE_BYTES = 4 << 30
MOST_NAMES = 3


def refuse_other_outputs(
    module: PositionalModule, request: ModuleRequest, feeds: Arrays, first: Arrays, again: Arrays, label: str
) -> None:
    """Refuse a module that gave other outputs when it was called again on the same inputs, `feeds` among them.

    Raises:
        InputError: an output differs by more than the order of sums explains; it is named, and why that is.
    """
    differs = _difference(first, again)
    if differs:
        raise InputError(
            f"{SPEC_FILE}: source: {request.spec.source} is not a function of its inputs: called twice on the same"
            f" {label}, {differs}. {_cause(module, request, feeds, label)}"
        )


def refuse_remembered_calls(
    module: PositionalModule, request: ModuleRequest, feeds: Arrays, first: Arrays, other: Arrays
) -> None:
    """Refuse a module that gives other outputs on `feeds` after it was called on `other`, or when it is loaded anew.

    `first` is what it gave on `feeds`. It is loaded a second time where there is room for that.

    Raises:
        InputError: an output differs; it is named, and why that is.
    """
    run_module(module, request, other, "other inputs")
    again = run_module(module, request, feeds, "the same inputs")
    refuse_other_outputs(module, request, feeds, first, again, "inputs, with others between")
    if sum(tensor.nbytes for tensor in module.state_dict().values()) > MOST_LOADED_TWICE_BYTES:
        return
    state = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002 - see seed_generators
    try:
        anew = load_module(request)
        run_module(anew, request, other, "other inputs")
        found = run_module(anew, request, feeds, "the same inputs")
    except InputError:  # a source that can be loaded once a process, as one that registers operators
        return
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002 - as above
        random.setstate(state[2])
    differs = _difference(first, found)
    if differs:
        raise InputError(
            f"{SPEC_FILE}: source: {request.spec.source} is not a function of its inputs: loaded anew, and called on"
            f" others first, it gives other outputs on the same inputs: {differs}. It keeps what its first call saw, or"
            " its source draws weights that no seed fixes; save the weights to a file, and take out what is kept"
        )


def _difference(first: Arrays, again: Arrays) -> str:
    """What differs, in words; nothing where nothing does."""
    for name, expected in first.items():
        found, allowed = again[name], allowed_difference(expected)
        largest = largest_difference(found, expected) if found.shape == expected.shape else math.inf
        if not largest <= allowed:
            far, most = (difference_in_words(number, expected) for number in (largest, allowed))
            return f"output {name} differs by {far}, and {most} is the most that rounding explains"
    return ""


def _cause(module: PositionalModule, request: ModuleRequest, feeds: Arrays, label: str) -> str:
    """Random where calls in a row differ, and do not where the generators are seeded before each."""
    free = [run_module(module, request, feeds, label) for _ in range(2)]
    seeded = []
    for _ in range(2):
        seed_generators()
        before = _state(module)
        seeded.append(run_module(module, request, feeds, label))
    if _difference(*free) and not _difference(*seeded):
        return "It draws random numbers at inference: call eval(), and take out dropout, noise or sampling"
    now = _state(module)
    moved = [name for name, mark in now.items() if before.get(name) != mark]
    named = f" ({', '.join(moved[:MOST_NAMES])} changed)" if moved else ""
    return (
        f"It keeps something from one call to the next{named}, or draws from a generator of its own: call eval(), and"
        " take out what a call changes; a running mean must stand still at inference"
    )


def _state(module: PositionalModule) -> dict[str, object]:
    """A mark of each tensor and number that the module keeps, which changes with it."""
    found: dict[str, object] = {}
    for path, part in module.module.named_modules():
        kept = {**part.__dict__, **part._buffers, **part._parameters}  # noqa: SLF001 - no public way names them all
        for name, value in kept.items():
            if isinstance(value, Tensor):
                found[f"{path}.{name}".strip(".")] = (id(value), value._version)  # noqa: SLF001 - torch has no public name for it
            elif isinstance(value, (int, float, str)):
                found[f"{path}.{name}".strip(".")] = value
            elif isinstance(value, (list, dict)):
                found[f"{path}.{name}".strip(".")] = len(value)
    return found
