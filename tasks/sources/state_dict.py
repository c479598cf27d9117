"""Loads the weights that model.yaml names into a module. Runs in child processes only: it imports torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE

if TYPE_CHECKING:
    from pathlib import Path


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module, whose state dict it must fit name by name.

    Left out are buffers that the module does not keep in its state dict, as `position_ids` once was, and names that
    its classes declare as ignored (`_keys_to_ignore_on_load_unexpected`, as Hugging Face's do). Floats of another
    width, such as bfloat16, are taken as the module's own.

    Raises:
        InputError: it cannot be read, or a tensor is missing, unexpected or of another shape; all of them are named.
    """
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{SPEC_FILE}: weights: {path.name} is no safetensors file ({error});"
            " save the state dict with safetensors.torch.save_file"
        ) from None
    wanted = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    given = {name: tensor for name, tensor in given.items() if name in wanted or not _is_ignored(module, name)}
    loaded = {wanted[name].data_ptr() for name in given if name in wanted and wanted[name].numel()}
    problems = [
        # safetensors keeps one name of tensors that are tied, so a tied twin is not missing.
        *(f"missing: {n} {_shape(t)}" for n, t in wanted.items() if n not in given and t.data_ptr() not in loaded),
        *(f"unexpected: {name} {_shape(tensor)}" for name, tensor in given.items() if name not in wanted),
        *(
            f"misshapen: {name} {_shape(tensor)}, the module has {_shape(wanted[name])}"
            for name, tensor in given.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
    ]
    if problems:
        raise InputError(
            f"{SPEC_FILE}: weights: {path.name} is not for this module; save the weights of the module that"
            " the source builds:" + "".join(f"\n  {problem}" for problem in sorted(problems))
        )
    module.load_state_dict(given, strict=False)


def _is_ignored(module: nn.Module, name: str) -> bool:
    """Whether the module knows of a tensor that is not in its state dict, and does not load it."""
    path, _, own = name.rpartition(".")
    try:
        if own in module.get_submodule(path)._buffers:  # noqa: SLF001 - named_buffers leaves out those that are None
            return True
    except AttributeError:
        pass  # no such module: it may still be declared as ignored
    return any(
        re.search(pattern, name.removeprefix(f"{prefix}." if prefix else ""))
        for prefix, part in module.named_modules()
        if name.startswith(f"{prefix}." if prefix else "")
        for pattern in getattr(part, "_keys_to_ignore_on_load_unexpected", None) or ()
    )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"
