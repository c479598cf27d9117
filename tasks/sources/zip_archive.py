"""What a torch archive holds, by its listing and by the opcodes of its pickles: nothing is unpickled or run to know."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.sources.interface import SAVE_PICKLE

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

LIBRARIES = (".so", ".dll", ".dylib", ".cubin", ".ptx", ".cpp", ".o")
PICKLES = (".pkl", ".pickle")
PICKLE_BEGINS = b"\x80"
MOST_PICKLE_BYTES = 64 << 20
# What torch.save needs for tensors, as `torch.load(weights_only=True)` has it.
HARMLESS = ("torch", "torch._utils", "torch.storage", "torch.serialization", "collections", "_codecs")
HARMLESS_NAMES = ("_rebuild_tensor_v2", "_rebuild_parameter", "OrderedDict", "encode", "Size", "device", "_get_dtype")


def names_in(path: Path, origin: str) -> list[str]:
    """The names in an archive, without the folder that all of them lie in.

    Raises:
        InputError: it is no whole zip file, or holds compiled code.
    """
    _refuse_bare_pickle(path, origin)
    why = "its end is missing"  # of a file that is cut off, the last whole archive within it is found
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [name for name in archive.namelist() if not name.endswith("/")]
            starts_at = min((info.header_offset for info in archive.infolist()), default=0)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        listed, starts_at, why = [], 1, str(error)
    if starts_at:
        raise InputError(
            f"{origin}: is no whole zip archive ({why}), as torch.export.save and torch.jit.save write them; save or"
            " copy it again"
        )
    for name in listed:
        if name.endswith(LIBRARIES):
            raise InputError(
                f"{origin}: holds compiled code, {name}, which would be run unseen; save the"
                " exported program itself, by torch.export.save"
            )
    return [name.partition("/")[2] for name in listed]


def _refuse_bare_pickle(path: Path, origin: str) -> None:
    """Refuse what torch.save wrote before it wrote archives."""
    with path.open("rb") as stream:
        begins = stream.read(len(PICKLE_BEGINS))
    if begins == PICKLE_BEGINS:
        raise InputError(_of_pickle(path, origin))


def refuse_state_dict(names: list[str], origin: str, path: Path) -> None:
    """Refuse an archive that torch.save wrote: a pickle, whose reading can run code."""
    if "data.pkl" in names and not any(name.startswith(("code/", "models/")) for name in names):
        raise InputError(_of_pickle(path, origin))


def _of_pickle(path: Path, origin: str) -> str:
    return (
        f"{origin}: is a pickle as torch.save writes it, which can run code when it is read; where it holds a state"
        " dict, make safetensors of it in a process of its own, and name them as weights beside a callable:"
        f" {SAVE_PICKLE.format(path.name)}"
    )


def refuse_code_in_pickles(path: Path, origin: str) -> None:
    """Refuse an archive with a pickle, also in an archive within it, that names more than tensors are built of.

    Raises:
        InputError: naming the pickle and what it would import.
    """
    with zipfile.ZipFile(path) as archive:
        _refuse_in(archive, origin)


def _refuse_in(archive: zipfile.ZipFile, origin: str) -> None:
    for info in archive.infolist():
        inner = info.filename.endswith((".pt", ".pth"))
        if not inner and not info.filename.endswith(PICKLES):
            continue
        if info.file_size > MOST_PICKLE_BYTES:
            raise InputError(f"{origin}: {info.filename} has {info.file_size:,} bytes, too many to be looked through")
        with archive.open(info) as stream:
            content = stream.read(MOST_PICKLE_BYTES + 1)
        if inner and zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as nested:
                _refuse_in(nested, f"{origin}: {info.filename}")
        else:
            _refuse_imports(io.BytesIO(content), f"{origin}: {info.filename}")


def _refuse_imports(stream: IO[bytes], origin: str) -> None:
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and opcode.name not in {"GLOBAL", "INST"}:
                texts.append(argument)
            if opcode.name in {"GLOBAL", "INST"}:
                _refuse_import(*str(argument).split(" ", 1), origin=origin)
            elif opcode.name == "STACK_GLOBAL":
                _refuse_import(*(texts[-2:] if len(texts) > 1 else ("?", "?")), origin=origin)
    except (ValueError, IndexError, EOFError) as error:
        raise InputError(
            f"{origin}: is a pickle that cannot be read through ({error}); save the archive again"
        ) from None


def _refuse_import(module: str, name: str = "", *, origin: str) -> None:
    is_storage = module == "torch" and (name.endswith("Storage") or name in {"float32", "float16", "int64", "bool"})
    if not is_storage and not (module in HARMLESS and name in HARMLESS_NAMES):
        raise InputError(
            f"{origin}: is a pickle that imports {module}.{name}, which could run code when it is read; save the"
            " archive again, without objects of your own in it"
        )
