"""`pt2: file`: a program that torch.export.save wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.sources.archive_file import ArchiveFile
from tasks.sources.interface import ORIGIN, ModuleRequest
from tasks.sources.zip_archive import names_in, refuse_code_in_pickles, refuse_state_dict

if TYPE_CHECKING:
    from pathlib import Path

SAVE = "torch.export.save(torch.export.export(model.eval(), (), inputs_by_name, dynamic_shapes=…), 'model.pt2')"


class ExportedProgramFile(ArchiveFile):
    """A graph with its weights; what shapes it takes was said when it was exported."""

    kind = "pt2"

    def inspect(self, path: Path, origin: str) -> None:
        """Refuse what is no such archive, and pickles in it that name more than tensors."""
        names = names_in(path, origin)
        refuse_state_dict(names, origin, path)
        if not any(name.startswith("models/") and name.endswith(".json") for name in names):
            raise InputError(f"{origin}: holds no exported program; write it by {SAVE}")
        refuse_code_in_pickles(path, origin)

    def load(self, request: ModuleRequest) -> object:
        """The program as a module; see the interface."""
        import torch  # noqa: PLC0415 - the other methods run where there is no torch

        from tasks.sources.archived_module import ProgramModule, refuse_other_inputs  # noqa: PLC0415 - as above

        origin = f"{ORIGIN}.pt2"
        try:
            module = ProgramModule(torch.export.load(self.laid_out(request.folder)))
        except Exception as error:  # noqa: BLE001 - torch raises many classes for an archive of another release
            raise InputError(
                f"{origin}: torch {torch.__version__} cannot load it: {self.told(error, request)}; export it again with"
                f" this release: {SAVE}"
            ) from None
        refuse_other_inputs(module.taken, request.spec, origin)
        return module
