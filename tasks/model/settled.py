"""What outputs of a module tell that model.yaml leaves open, and whether they are what it declares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.declared import Frozen
from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE, ModelDirectory
from validation.misfits import find_misfit
from validation.outputs import OutputKind, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

    from tasks.specs import ModelSpec


class Settled(Frozen):
    """What model.yaml leaves open of outputs, and the module tells.

    `labels` are declared as tensors and hold whole numbers, or true and false. `last` are of classes and have more than
    two axes, and the module's own configuration says that as many classes are on the last one.
    """

    labels: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def settle_outputs(spec: ModelSpec, outputs: Mapping[str, np.ndarray[Any, Any]], counts: Collection[int]) -> Settled:
    """What outputs say themselves; `counts` are numbers of classes that the module's configuration names."""
    labels, last = [], []
    for name, declared in spec.outputs.items():
        output = outputs.get(name)
        if output is None:
            continue
        if declared.kind is OutputKind.TENSOR and output.dtype.kind in "iub":
            labels.append(name)
        elif _ends_with_classes(output.shape, counts) and _lacks_axis(declared.as_output_spec(), output):
            last.append(name)
    return Settled(labels=tuple(labels), last=tuple(last))


def _ends_with_classes(shape: tuple[int, ...], counts: Collection[int]) -> bool:
    return len(shape) > 1 and shape[-1] in counts and not any(extent in counts for extent in shape[1:-1])


def _lacks_axis(spec: OutputSpec, output: np.ndarray[Any, Any]) -> bool:
    return find_misfit(spec, output) is not None and find_misfit(replace(spec, axis=-1), output) is None


def with_settled(directory: ModelDirectory, settled: Settled) -> ModelDirectory:
    """The directory with these outputs declared as what they are."""
    updates: dict[str, dict[str, object]] = {name: {"kind": OutputKind.LABELS} for name in settled.labels}
    updates |= {name: {"axis": -1} for name in settled.last}
    outputs = {
        name: declared.model_copy(update=updates.get(name, {})) for name, declared in directory.spec.outputs.items()
    }
    return replace(directory, spec=directory.spec.model_copy(update={"outputs": outputs})) if updates else directory


def require_kinds(outputs: Mapping[str, np.ndarray[Any, Any]], spec: ModelSpec, counts: Collection[int] = ()) -> None:
    """Raise InputError for all outputs of the reference that are not what their declared kinds hold.

    What `settle_outputs` tells is taken; `counts` are as there.
    """
    settled = settle_outputs(spec, outputs, counts)
    problems = []
    for name, declared in spec.outputs.items():
        if name in settled.labels or name in settled.last:
            continue
        mask_axes = None if declared.mask is None else len(spec.inputs[declared.mask].shape)
        misfit = find_misfit(declared.as_output_spec(), outputs[name], mask_axes)
        if misfit is not None:
            problems.append(f"{SPEC_FILE}: outputs.{name}: {misfit}")
    if problems:
        raise InputError("\n".join(problems))
