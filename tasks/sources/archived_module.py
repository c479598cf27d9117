"""Modules out of archives behind a plain one. Runs in child processes only: it imports torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.readers.interface import UNNAMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.export import ExportedProgram

    from tasks.specs import ModelSpec


class ArchivedModule(nn.Module):
    """Called by keyword. What it holds was saved in the mode that it runs in, and cannot be given another.

    `taken` are its inputs in its own order.
    """

    def __init__(self, held: Any, taken: Sequence[str]) -> None:
        super().__init__()
        self.held, self.taken = held, tuple(taken)

    def train(self, mode: bool = True) -> ArchivedModule:  # noqa: ARG002 - torch's own signature
        """Leave it as it was saved."""
        return self

    def forward(self, **inputs: Tensor) -> Any:
        """Whatever was saved returns."""
        return self.held(**inputs)


class ProgramModule(ArchivedModule):
    """An exported program, called with its inputs where they stood when it was exported: by place, by keyword, nested.

    Arguments that are no tensors are those that it was exported with.
    """

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature.input_specs
        leaves = [spec.arg for spec in signature if spec.kind is InputKind.USER_INPUT]
        taken = [leaf.name for leaf in leaves if isinstance(leaf, TensorArgument)]
        super().__init__(program.module(), taken)
        self._constants = {leaf.name: leaf.value for leaf in leaves if not isinstance(leaf, TensorArgument)}
        self._order = [leaf.name for leaf in leaves]
        self._places = program.call_spec.in_spec

    def forward(self, **inputs: Tensor) -> Any:
        """Whatever the exported module returned."""
        given = {**self._constants, **inputs}
        leaves = [given[name] for name in self._order]
        arguments, keywords = _pytree.tree_unflatten(leaves, self._places)
        return self.held(*arguments, **keywords)


class ScriptedModule(ArchivedModule):
    """TorchScript, which one exporter alone takes, and only as it is."""

    def __init__(self, held: Any, taken: Sequence[str]) -> None:
        super().__init__(held, taken)
        returned = str(held.forward.schema.returns[0].type.annotation_str)
        self._is_dict, self._is_named_tuple = returned.startswith("Dict["), returned.startswith("__torch__.")
        self._returned: tuple[str, ...] = ()

    @property
    def fills_dict(self) -> bool:
        """Whether it builds a dict step by step: the exporter takes one that is written out at once alone."""
        graph = self.held.inlined_graph  # its nodes live as long as it does
        made = graph.findAllNodes("prim::DictConstruct")
        uses = {use.user.kind() for node in made for use in node.output().uses()}
        return bool(uses - {"aten::__getitem__", "prim::Return"})

    @property
    def scripted(self) -> ScriptedModule:
        """Itself; other modules have no such attribute."""
        return self

    def forward(self, **inputs: Tensor) -> Any:
        """Whatever was saved returns."""
        found = self.held(**inputs)
        if self._is_dict or self._is_named_tuple:
            self._returned = tuple(found) if self._is_dict else found._fields
        return found

    def with_outputs(self, names: Sequence[str]) -> Any:
        """TorchScript that returns its outputs in the order of `names`, taken by name where it names them.

        It has run before, so that its names are known: what has others than `names` is taken in its own order.
        """
        if not self._returned:
            return self.held
        wanted = names if set(names) <= set(self._returned) else self._returned
        taken = [f"found[{json.dumps(name)}]" if self._is_dict else f"found.{name}" for name in wanted]
        arguments = ", ".join(self.taken)
        ordered = _Ordered(self.held)
        ordered.define(
            f"def forward(self, {arguments}):\n    found = self.held({arguments})\n    return ({', '.join(taken)},)\n"
        )
        return ordered.eval()


class _Ordered(torch.jit.ScriptModule):
    """Around TorchScript, for a `forward` that is defined by its text."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


def refuse_other_inputs(taken: Sequence[str], spec: ModelSpec, origin: str) -> None:
    """Refuse an archive whose inputs, in its own order, are not those of model.yaml.

    Raises:
        InputError: naming the first that only one has.
    """
    if list(spec.inputs) == [UNNAMED]:  # an import, which asks what the input is called
        return
    listed = ", ".join(taken) or "nothing"
    for name in spec.inputs:
        if name not in taken:
            raise InputError(f"{SPEC_FILE}: inputs.{name}: {origin} takes {listed}; rename it")
    for name in taken:
        if name not in spec.inputs:
            raise InputError(f"{SPEC_FILE}: inputs: {origin} also takes {name}; declare it, or save it without")
