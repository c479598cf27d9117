"""`torchscript: file`: a module that torch.jit.save wrote, code and weights in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.model.model_directory import SPEC_FILE
from tasks.sources.archive_file import ArchiveFile
from tasks.sources.interface import ORIGIN, ModuleRequest
from tasks.sources.zip_archive import names_in, refuse_state_dict

if TYPE_CHECKING:
    from pathlib import Path


class TorchScriptFile(ArchiveFile):
    """Its code is TorchScript, whose loader is no Python and knows of no imports: so its pickles are its own."""

    kind = "torchscript"

    def inspect(self, path: Path, origin: str) -> None:
        """Refuse what is no such archive."""
        names = names_in(path, origin)
        refuse_state_dict(names, origin, path)
        if "constants.pkl" not in names or not any(name.startswith("code/") for name in names):
            raise InputError(f"{origin}: holds no TorchScript; write it by torch.jit.script(model.eval()).save(…)")

    def load(self, request: ModuleRequest) -> object:
        """The module; see the interface."""
        import torch  # noqa: PLC0415 - the other methods run where there is no torch

        from tasks.sources.archived_module import ScriptedModule, refuse_other_inputs  # noqa: PLC0415 - as above

        origin = f"{ORIGIN}.torchscript"
        try:
            module = torch.jit.load(self.laid_out(request.folder), map_location="cpu")  # type: ignore[no-untyped-call]
            module.eval()
        except Exception as error:  # noqa: BLE001 - torch raises many classes for an archive of another release
            raise InputError(
                f"{origin}: torch {torch.__version__} cannot load it: {self.told(error, request)}; save it again with"
                " this release, by torch.jit.script(model.eval()).save(…)"
            ) from None
        taken = [argument.name for argument in module.forward.schema.arguments[1:]]
        refuse_other_inputs(taken, request.spec, origin)
        for name, declared in request.spec.inputs.items():
            if declared.batch_axis != 0:
                raise InputError(
                    f"{SPEC_FILE}: inputs.{name}.shape: TorchScript is exported as it is: the samples come first"
                )
        scripted = ScriptedModule(module, taken)
        if scripted.fills_dict:
            raise InputError(
                f"{origin}: its forward fills a dict step by step, for which TorchScript has no ONNX; write it out"
                " where it is returned, as {'score': score}, or return a NamedTuple"
            )
        return scripted
