"""Takes the declared outputs out of what a module returns. Runs in child processes only: it imports torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence


def named_values(returned: Any) -> dict[str, Any] | None:
    """What a mapping, a dataclass or a named tuple holds, by name; None of anything else."""
    if hasattr(returned, "keys"):
        return {str(name): returned[name] for name in returned.keys()}  # noqa: SIM118 - it may be no dict
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    return None


def take_outputs(returned: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The outputs called `names`; without such names, all tensors in their order, or what a tuple holds but None.

    How many there are is for `refuse_other_count` to check.
    """
    if isinstance(returned, Tensor):
        return (returned,)
    found = named_values(returned)
    if found is None:
        return tuple(value for value in returned if value is not None) if _is_sequence(returned) else (returned,)
    if set(names) <= set(found):
        return tuple(found[name] for name in names)
    return tuple(value for value in found.values() if isinstance(value, Tensor))


def _is_sequence(returned: Any) -> bool:
    return isinstance(returned, (tuple, list))


def left_out(returned: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Names of what a module returns beside the declared outputs, and what each is: `hidden [8, 32]`."""
    found = named_values(returned)
    if found is None or not set(names) <= set(found):
        return ()
    return tuple(f"{name} {_described(value)}" for name, value in found.items() if name not in names)


def _described(value: Any) -> str:
    return f"[{', '.join(map(str, value.shape))}]" if isinstance(value, Tensor) else f"({type(value).__name__})"


def refuse_other_count(returned: Any, outputs: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse what has not the declared outputs.

    Raises:
        InputError: naming what there is.
    """
    found = named_values(returned)
    absent = [] if found is None else [name for name in names if name not in found]
    if found is not None and absent and (len(outputs) != len(names) or len(absent) < len(names)):
        raise InputError(
            f"{SPEC_FILE}: outputs.{absent[0]}: the module returns nothing of that name, but"
            f" {', '.join(f'{name} {_described(value)}' for name, value in found.items())}; declare outputs by these"
            " names; those that are not declared are left out"
        )
    if len(outputs) != len(names):
        raise InputError(
            f"{SPEC_FILE}: outputs: the module returns {len(outputs)} outputs without names, but {len(names)} are"
            f" declared ({', '.join(names)}); declare them all, in their order, or return a dict, of which outputs are"
            " taken by name"
        )
