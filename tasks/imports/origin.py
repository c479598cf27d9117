"""Takes SOURCE of the command line apart: what model.yaml says of it, and which files that takes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.declared import NAME_LENGTH
from tasks.errors import InputError
from tasks.graphs.onnx_files import external_files
from tasks.imports.logged_example import LoggedExample
from tasks.imports.logged_model import LoggedModel, fetch_logged_model, read_logged_model
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.regular import refuse_special
from tasks.sources.interface import SAVE_PICKLE
from tasks.sources.safetensors_files import checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONFIG_FILE = "config.json"
MLFLOW_FILE = "MLmodel"
MLFLOW = ("models:/", "runs:/")
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".ot"})
TORCHSCRIPT = frozenset({".pt", ".pth", ".ts"})
CALLABLE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
PYTHON = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
MOST_FILES = 2000
MOST_CONFIG_BYTES = 16 << 20
OWN_NAMES = frozenset({"model.yaml", "validation", "calibration", "labels.json", "manifest.yaml"})
"""What an import writes itself, or what says that a folder is something else."""
POSITIONS_AFTER_PADDING = frozenset(
    {"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "longformer", "mpnet"}
)
"""Architectures that count positions from the padding token's number on, and so take fewer tokens."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    `written` is what model.yaml says under `source`, and `why` the reason. `files` are what is copied into the model
    directory, by relative path. `folder` may hold a tokenizer or a feature extractor. `config` is config.json of a
    Hugging Face folder, empty of others. `file` is the archive, of sources that are one. `tensors` are the inputs of
    the signature of an MLflow model, and `example` is its input example.
    """

    written: str | dict[str, str]
    why: str
    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None
    weights: str | None = None
    tensors: Sequence[Mapping[str, Any]] = field(default=())
    example: LoggedExample = field(default=LoggedExample())

    @property
    def label_numbers(self) -> dict[str, int]:
        """The model's own table of labels, where config.json has one that somebody gave names."""
        table = self.config.get("label2id") or {}
        named = isinstance(table, dict) and all(isinstance(number, int) for number in table.values())
        return dict(table) if named and not all(text.startswith("LABEL_") for text in table) else {}

    @property
    def longest(self) -> int | None:
        """The most tokens that it takes, where config.json says so."""
        positions = self.config.get("max_position_embeddings")
        if not isinstance(positions, int) or positions <= 0:
            return None
        pad = self.config.get("pad_token_id")
        if self.config.get("model_type") in POSITIONS_AFTER_PADDING and isinstance(pad, int):
            return positions - pad - 1
        return positions


def find_origin(source: str, *, leave_out: Path | None = None) -> Origin:
    """What SOURCE names.

    Args:
        source: a Hugging Face folder, an MLflow model, a `.pt2`, ONNX or TorchScript file, `file.py:callable` or
            `package.module:callable`.
        leave_out: the data, which are not copied although they may lie in the source's folder.

    Raises:
        InputError: there is no such file, or nothing of a known form.
    """
    if source.startswith(MLFLOW):
        name = source.split("/")[1] if source.startswith(MLFLOW[0]) else source.rstrip("/").split("/")[-1]
        logged = fetch_logged_model(source)
        why = "stays in MLflow" if logged.version is None else f"stays in MLflow; version {logged.version} was imported"
        return _logged(Origin({"mlflow": source}, why, slug(name.partition("@")[0])), logged)
    called = CALLABLE.fullmatch(source)
    if called is not None:
        return _callable(Path(called["file"]), called["name"], leave_out)
    path = Path(source)
    if PYTHON.fullmatch(source) and not path.exists():
        module = source.partition(":")[0]
        return Origin({"python": source}, "an installed package's callable", slug(module.rpartition(".")[2]))
    if not path.exists():
        raise InputError(
            f"{source}: does not exist; name a Hugging Face folder, models:/name@alias, a .onnx, .pt2 or .pt file,"
            " file.py:callable or package.module:callable"
        )
    return _folder(path, leave_out) if path.is_dir() else _archive(path)


def slug(text: str) -> str:
    """A name as model.yaml takes it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:NAME_LENGTH].strip("-") or "model"


def _callable(file: Path, name: str, leave_out: Path | None) -> Origin:
    if not file.is_file():
        raise InputError(f"{file}: is no file; correct the path before the colon")
    folder = file.resolve().parent
    files = dict(_files_below(folder, leave_out))
    weights = [path for path in files if path.endswith(".safetensors") and "/" not in path]
    return Origin(
        f"{file.name}:{name}",
        f"copied from {folder.name}/, with all that the code may read there",
        slug(folder.name),
        files,
        folder,
        weights=weights[0] if len(weights) == 1 else None,
    )


def _folder(path: Path, leave_out: Path | None) -> Origin:
    folder = path.resolve()
    files = dict(_files_below(folder, leave_out))
    place = _place(folder.name)
    copies = {f"{place}/{relative}": found for relative, found in files.items()}
    if MLFLOW_FILE in files:
        origin = Origin({"mlflow": f"./{place}"}, "an MLflow model, copied", slug(folder.name), copies, folder)
        return _logged(origin, read_logged_model(folder, str(path)))
    if CONFIG_FILE not in files:
        raise InputError(
            f"{path}: has neither {CONFIG_FILE}, as a Hugging Face folder has, nor {MLFLOW_FILE}, as an MLflow model;"
            " name such a folder, or a file"
        )
    checkpoint_files(folder, str(path))  # found whole before it is copied
    copies = {place: found for place, found in copies.items() if found.suffix not in PICKLES}
    config = _read_config(folder / CONFIG_FILE)
    architecture = ", ".join(config.get("architectures") or ()) or str(config.get("model_type", "no architecture"))
    why = f"a Hugging Face folder, copied; config.json says {architecture}"
    return Origin({"huggingface": f"./{place}"}, why, slug(folder.name), copies, folder, config)


def _logged(origin: Origin, logged: LoggedModel) -> Origin:
    """With what a model of MLflow says of itself."""
    checkpoint = logged.checkpoint
    config = (
        {} if checkpoint is None or not (checkpoint / CONFIG_FILE).is_file() else _read_config(checkpoint / CONFIG_FILE)
    )
    return replace(origin, folder=logged.processor, config=config, tensors=logged.tensors, example=logged.example)


def _archive(path: Path) -> Origin:
    kinds = {".onnx": "onnx", ".pt2": "pt2", **dict.fromkeys(TORCHSCRIPT, "torchscript")}
    kind = kinds.get(path.suffix)
    if path.suffix in PICKLES and kind is None:
        raise InputError(
            f"{path}: is a pickle, which can run code when it is read; where it holds a state dict, make safetensors of"
            f" it in a process of its own, beside the file:callable that builds the module, and import that:"
            f" {SAVE_PICKLE.format(path)}"
        )
    if kind is None:
        raise InputError(
            f"{path}: is no source of a model; name a Hugging Face folder, models:/name@alias, a .onnx, .pt2 or .pt"
            " file, file.py:callable or package.module:callable"
        )
    refuse_special(path, path.name)
    refuse_pointer(path, path.name)
    files = {path.name: path}
    if kind == "onnx":
        files |= external_files(path)
    why = {"onnx": "the reference is this file in FP32 on ONNX Runtime", "pt2": "an archive of torch.export"}
    return Origin(
        {kind: path.name}, why.get(kind, "TorchScript"), slug(path.stem), files, path.resolve().parent, file=path
    )


def _place(name: str) -> str:
    return name if name not in OWN_NAMES and not name.startswith(".") else f"{slug(name)}-source"


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[tuple[str, Path]]:
    """Every visible file of a folder but those that say what is no source.

    Raises:
        InputError: there are too many, or one leads out of it.
    """
    count = 0
    left = None if leave_out is None else leave_out.resolve()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if hidden or parts[0] in OWN_NAMES or not path.is_file():
            continue
        if left is not None and (path == left or left in path.parents):
            continue
        hub = folder.parent.parent / "blobs"  # to where the Hugging Face hub's cache has links
        if folder not in path.resolve().parents and path.resolve().parent != hub:
            raise InputError(f"{folder.name}: {'/'.join(parts)} is a link out of the folder; put the file there")
        count += 1
        if count > MOST_FILES:
            raise InputError(
                f"{folder.name}: holds more than {MOST_FILES:,} files, and all of them would belong to the model; put"
                " the model's own files into a folder of their own"
            )
        yield "/".join(parts), path


def _read_config(path: Path) -> dict[str, Any]:
    refuse_pointer(path, path.name)
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(MOST_CONFIG_BYTES))
    except ValueError as error:
        raise InputError(f"{path.parent.name}: {path.name} is no JSON ({error}); restore it") from None
    if not isinstance(found, dict):
        raise InputError(f"{path.parent.name}: {path.name} is no object; restore it")
    return found
