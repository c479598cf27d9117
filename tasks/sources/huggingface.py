"""`huggingface: folder`: a checkpoint as Transformers saves it, config.json and safetensors, in shards too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.model.toolchain import release_of
from tasks.source_spec import SourceSpec
from tasks.sources.interface import (
    ORIGIN,
    SOURCE_FOLDER,
    ModuleRequest,
    copy_file,
    digests_outside,
    explain,
    named,
)
from tasks.sources.safetensors_files import checkpoint_files, read_json
from tasks.store.digests import digest_once

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.model.model_directory import ModelDirectory

FIELD = f"{ORIGIN}.huggingface"
CONFIG = "config.json"
MOST_NAMES = 6


class HuggingFaceFolder:
    """The configuration and the weights are all that is laid out; with `trust_remote_code`, Python files too."""

    packages: tuple[str, ...] = ("torch", "safetensors", "numpy", "transformers")

    def takes(self, source: str | SourceSpec) -> bool:
        """`{huggingface: folder}`; see the interface."""
        return isinstance(source, SourceSpec) and source.kind == "huggingface"

    def key(self, directory: ModelDirectory) -> dict[str, object]:
        """Digests of the files by name, shards and index among them; see the interface."""
        files = {name: digest_once(path) for name, path in _files(directory).items()}
        return {"source": named(directory).model_dump(mode="json"), "checkpoint": files}

    def outside(self, directory: ModelDirectory) -> dict[str, str]:
        """The release of Transformers, and digests of a folder beside the directory; see the interface."""
        found = {"transformers": release_of("transformers") or "none"}
        root = directory.source_path
        if root is None or root.is_relative_to(directory.root):
            return found
        return {**found, **digests_outside(directory, _files(directory))}

    def lay_out(self, directory: ModelDirectory, folder: Path, key: dict[str, object]) -> None:
        """Copy the files; see the interface."""
        digests = key["checkpoint"]
        assert isinstance(digests, dict)  # noqa: S101 - as `key` made it
        for name, path in _files(directory).items():
            copy_file(path, folder / SOURCE_FOLDER / name, digests.get(name, ""))

    def load(self, request: ModuleRequest) -> object:
        """Have Transformers load it from the folder alone, in float32; see the interface."""
        source = request.spec.source
        assert isinstance(source, SourceSpec)  # noqa: S101 - `takes` said so
        return load_checkpoint(request, request.folder, source, FIELD)


def load_checkpoint(request: ModuleRequest, folder: Path, source: SourceSpec, field: str) -> object:
    """Have Transformers load a laid out folder, offline and in float32. Runs in a child.

    Raises:
        InputError: Transformers is missing or cannot load it, or weights would be drawn at random.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        import transformers  # noqa: PLC0415 - takes seconds, and torch with it
    except ImportError as error:
        raise InputError(f"{field}: Transformers cannot be imported ({error}); pip install '.[huggingface]'") from None
    try:
        loaded, told = _class_for(transformers, source, folder).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=source.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            dtype="float32",
        )
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - Transformers, and the folder's code, raise anything
        raise InputError(
            f"{field}: {source.value}: Transformers {transformers.__version__} raised {explain(error, request)};"
            " correct the folder, or name another class"
        ) from None
    _refuse_misfits(told, source)
    return loaded


def _files(directory: ModelDirectory) -> dict[str, Path]:
    """What is laid out, by name relative to the folder, with the configuration read and the weights found whole."""
    root = directory.source_path
    assert root is not None  # noqa: S101 - the kind has a path
    return find_checkpoint(root, named(directory))


def find_checkpoint(root: Path, source: SourceSpec) -> dict[str, Path]:
    """The files of a checkpoint that are laid out, by path from `root`.

    Raises:
        InputError: one is missing or not whole, or the model is code, and trust_remote_code is not set.
    """
    config = read_json(root / CONFIG, f"{FIELD}: {source.value}", "save the model with save_pretrained")
    architectures = config.get("architectures")
    if source.auto_class is None and not (isinstance(architectures, list) and architectures):
        raise InputError(
            f"{FIELD}: {source.value}/{CONFIG}: architectures: missing, so nothing says which class this is; name it:"
            f" source: {{huggingface: {source.value}, class: AutoModel}}"
        )
    if config.get("auto_map") and not source.trust_remote_code and _own_code(config, source) is not None:
        raise InputError(
            f"{FIELD}: {source.value}/{CONFIG}: auto_map: the model is Python code of the folder; read it, and write"
            " trust_remote_code: true beside huggingface to have it run"
        )
    code = sorted(root.rglob("*.py")) if source.trust_remote_code else []
    paths = [root / CONFIG, *checkpoint_files(root, f"{FIELD}: {source.value}"), *code]
    return {path.relative_to(root).as_posix(): path for path in paths}


def _own_code(config: dict[str, Any], source: SourceSpec) -> str | None:
    """The auto class by which the folder's own code is found, where it is what would be loaded."""
    mapped = config["auto_map"]
    if not isinstance(mapped, dict):
        return None
    wanted = source.auto_class or str(config.get("architectures", [""])[0])
    names = [auto for auto, place in mapped.items() if wanted == auto or str(place).rpartition(".")[2] == wanted]
    return names[0] if names else None


def _class_for(transformers: Any, source: SourceSpec, folder: Path) -> Any:
    config = read_json(folder / CONFIG, f"{FIELD}: {source.value}", "")
    own = _own_code(config, source) if config.get("auto_map") and source.trust_remote_code else None
    name = own or source.auto_class or str(config["architectures"][0])
    found = getattr(transformers, name, None)
    if hasattr(found, "from_pretrained"):
        return found
    place = f"{ORIGIN}.class" if source.auto_class is not None else f"{FIELD}: {source.value}/{CONFIG}: architectures"
    raise InputError(
        f"{place}: Transformers {transformers.__version__} has no model class {name!r}; install a release that has it,"
        " or name another under class, such as AutoModelForSequenceClassification"
    )


def _refuse_misfits(told: dict[str, Any], source: SourceSpec) -> None:
    missing = sorted(told.get("missing_keys") or ())
    misshapen = sorted(
        str(entry[0] if isinstance(entry, tuple) else entry) for entry in told.get("mismatched_keys") or ()
    )
    for names, what in ((missing, "has no weights for"), (misshapen, "has weights of another shape for")):
        if names:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            raise InputError(
                f"{FIELD}: {source.value} {what} {', '.join(names[:MOST_NAMES])}{more}, which would be drawn at random;"
                " complete the checkpoint, or name under class what it was saved as"
            )
