"""Reads a model directory: model.yaml, and the files it names, which must lie inside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.errors import InputError
from tasks.model.documents import parse, read_yaml
from tasks.model.own_output import is_own_output
from tasks.model.set_manifest import CalibrationManifest, read_manifest
from tasks.samples.lfs_pointer import refuse_pointer
from tasks.samples.regular import refuse_special
from tasks.source_spec import SourceSpec
from tasks.specs import ModelSpec, Precision
from tasks.store.digests import digest_once
from validation.metrics import METRICS
from validation.policy import Policy, PolicyError, default_policy, policy_from_mapping
from validation.rules import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


Found = TypeVar("Found")
SPEC_FILE = "model.yaml"
WEIGHTS_SUFFIX = ".safetensors"
FOLDERS = ("huggingface", "mlflow")


@dataclass(frozen=True)
class CalibrationFolder:
    """A calibration set before its files are read."""

    path: Path
    manifest: CalibrationManifest


@dataclass(frozen=True)
class ModelDirectory:
    """A model directory whose files were found. All paths are resolved; none leaves `root` but the calibration set.

    `calibration` is that set's folder and its manifest, None where that folder is not there yet, or empty: INT8 and
    FP8 alone need it, and `require_calibration` asks for it. Its files are read when they are needed.
    """

    root: Path
    spec: ModelSpec
    weights: Path | None
    validation: tuple[Path, ...]
    policy_file: Path | None
    calibration: CalibrationFolder | None
    plugins: tuple[Path, ...] = ()
    onnxruntime_plugins: tuple[Path, ...] = ()

    def source_files(self) -> dict[str, str]:
        """Digest by relative path of every file that the module's code may read; see `source_paths`."""
        return {name: digest_once(path) for name, path in self.source_paths().items()}

    @property
    def source_path(self) -> Path | None:
        """The folder or file that a `source` of more than code names; it may lie outside of `root`."""
        source = self.spec.source
        if not isinstance(source, SourceSpec) or source.path is None:
            return None
        return (self.root / source.path).resolve()

    def source_paths(self) -> dict[str, Path]:
        """Every file that the module's code may read, by its path relative to `root`.

        That is every file of the directory but model.yaml, the weights, the data, the policy, hidden files, compiled
        Python and what this command prints into. The export child gets a copy of just these, so nothing that it
        depends on goes unnoticed.

        Raises:
            InputError: a link leads out of the directory, or a file is a pointer of git LFS.
        """
        others = {self.root / SPEC_FILE, self.weights, self.policy_file}
        others |= {*self.validation, *self.plugins, *self.onnxruntime_plugins, *self._not_found()}
        shared = () if self.calibration is None else (self.calibration.path,)
        files = {}
        for path in sorted(self.root.rglob("*")):
            relative = path.relative_to(self.root)
            if any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
                continue
            inside(self.root, str(relative), "source", folder_too=True)
            if not path.is_file() or path in others or any(path.is_relative_to(folder) for folder in shared):
                continue
            if not is_own_output(path):
                refuse_pointer(path, relative.as_posix())
                files[relative.as_posix()] = path
        return files

    def _not_found(self) -> set[Path]:
        """Files that have another use and are at fault, which `survey_model_directory` tells: they are no source."""
        spec = self.spec
        found = {
            spec.weights: self.weights is not None,
            spec.validation.data: bool(self.validation),
            spec.validation.policy: self.policy_file is not None,
        }
        return {self.root / name for name, is_found in found.items() if name is not None and not is_found}

    def policy(self, precision: Precision, slices: Collection[str] | None = None, *, labelled: bool = True) -> Policy:
        """The policy of an engine of `precision`: the model's own, or the default of its outputs' kinds.

        `slices` are those of the validation data, None while these have not been read; `labelled` says whether these
        have a label.

        Raises:
            InputError: the model's own policy has a mistake, or names a slice or needs a label that the data lack.
        """
        outputs = self.spec.output_specs()
        if self.policy_file is None:
            return default_policy(outputs, precision.value, slices or ())
        origin = self.policy_file.name
        try:
            policy = policy_from_mapping(read_yaml(self.policy_file), outputs, origin=origin)
        except PolicyError as error:
            raise InputError(str(error)) from None
        if slices is not None:
            refuse_unknown_slices(policy, slices, origin)
        if not labelled:
            refuse_rules_on_labels(policy, origin)
        return policy


def refuse_unknown_slices(policy: Policy, slices: Collection[str], origin: str) -> None:
    """Raise InputError for the first rule by a slice that the data lack."""
    for index, rule in enumerate(policy.rules):
        if rule.by is not None and rule.by not in slices:
            remedy = suggest(rule.by, slices) if slices else "they have no slice at all"
            raise InputError(f"{origin}: rules[{index}].by: the data have no slice.{rule.by}; {remedy}")


def refuse_rules_on_labels(policy: Policy, origin: str) -> None:
    """Raise InputError for the first rule that can have no value on data without a label."""
    for index, rule in enumerate(policy.rules):
        if METRICS[rule.metric].needs_label:
            raise InputError(
                f"{origin}: rules[{index}]: {rule.output} {rule.metric} compares with labels, and the data have none;"
                " add an array `label` to them, or remove the rule"
            )


def read_model_directory(path: Path) -> ModelDirectory:
    """Read and check `path`/model.yaml and find the files it names.

    Raises:
        InputError: naming the file and the field, of each mistake.
    """
    directory, problems = survey_model_directory(path)
    if problems:
        raise InputError("\n".join(problems))
    return directory


def survey_model_directory(path: Path) -> tuple[ModelDirectory, tuple[str, ...]]:
    """A model directory as far as its files were found, and what is wrong with the others and with the policy.

    Raises:
        InputError: model.yaml itself is missing, or has a mistake.
    """
    root = path.resolve()
    spec_file = root / SPEC_FILE
    if not spec_file.is_file():
        raise InputError(f"{path}: has no {SPEC_FILE}; name a model directory (examples/ has one)")
    spec = parse(ModelSpec, read_yaml(spec_file), SPEC_FILE)
    problems: list[str] = []
    _tried(problems, lambda: _source_path(root, spec))
    directory = ModelDirectory(
        root=root,
        spec=spec,
        weights=_tried(problems, lambda: _weights_file(root, spec)),
        validation=_tried(problems, lambda: _validation_files(root, spec)) or (),
        policy_file=_tried(problems, lambda: _policy_file(root, spec)),
        calibration=_tried(problems, lambda: _calibration_folder(root, spec)),
        plugins=_tried(problems, lambda: _plugin_files(root, spec.build.plugins, "plugins")) or (),
        onnxruntime_plugins=_tried(
            problems, lambda: _plugin_files(root, spec.build.onnxruntime_plugins, "onnxruntime_plugins")
        )
        or (),
    )
    for precision in spec.precisions:  # a bad policy is refused before any work
        _tried(problems, lambda precision=precision: directory.policy(precision))  # type: ignore[misc]
    return directory, tuple(dict.fromkeys(problems))


def require_calibration(directory: ModelDirectory) -> CalibrationFolder:
    """The calibration set that a model names, which INT8 and FP8 need.

    Raises:
        InputError: the model names none, or its folder is not there.
    """
    if directory.calibration is not None:
        return directory.calibration
    needing = next((one.value for one in directory.spec.precisions if one.is_quantized), Precision.INT8.value)
    if directory.spec.calibration is None:
        raise InputError(
            f"{SPEC_FILE}: calibration: missing, and precision {needing} needs it; name a calibration set, or drop"
            f" {needing}"
        )
    raise InputError(
        f"{SPEC_FILE}: calibration.set: {directory.spec.calibration.set} is no folder with a calibration set, which"
        f" {needing} needs; make it with `enginegate calibration draw`, name another, or choose --precision"
    )


def _tried(problems: list[str], find: Callable[[], Found]) -> Found | None:
    """What is found; None where it is at fault, which is added to `problems`."""
    try:
        return find()
    except InputError as error:
        problems.append(str(error))
        return None


def _source_path(root: Path, spec: ModelSpec) -> Path | None:
    if not isinstance(spec.source, SourceSpec):
        return inside(root, spec.source.rpartition(":")[0], "source")
    if spec.source.path is None:
        return None
    path, kind, is_folder = (root / spec.source.path).resolve(), spec.source.kind, spec.source.kind in FOLDERS
    # As a calibration set, a checkpoint may lie beside the directory: engines' versions hold its digests.
    if not (path.is_dir() if is_folder else path.is_file()):
        what = "folder" if is_folder else "file"
        raise InputError(
            f"{SPEC_FILE}: source.{kind}: {spec.source.path} is no {what} here; correct the path (relative to the"
            " directory; in a repository, inside of it)"
        )
    return path


def _weights_file(root: Path, spec: ModelSpec) -> Path | None:
    if spec.weights is None:
        return None
    if not spec.weights.endswith(WEIGHTS_SUFFIX):
        raise InputError(
            f"{SPEC_FILE}: weights: {spec.weights} is not {WEIGHTS_SUFFIX}; a pickle can run code when it is"
            " read, so save the state dict with safetensors.torch.save_file"
        )
    return inside(root, spec.weights, "weights")


def _validation_files(root: Path, spec: ModelSpec) -> tuple[Path, ...]:
    return data_files(inside(root, spec.validation.data, "validation.data", folder_too=True), "validation.data")


def _policy_file(root: Path, spec: ModelSpec) -> Path | None:
    return None if spec.validation.policy is None else inside(root, spec.validation.policy, "validation.policy")


def _calibration_folder(root: Path, spec: ModelSpec) -> CalibrationFolder | None:
    # The one path that may leave the model directory: calibration sets are shared between models.
    if spec.calibration is None:
        return None
    folder = (root / spec.calibration.set).resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{SPEC_FILE}: calibration.set: {spec.calibration.set} is no folder; name a calibration set")
    if not folder.exists() or not any(folder.iterdir()):
        return None  # `calibration draw` is yet to make it
    try:
        return CalibrationFolder(folder, read_manifest(folder))
    except InputError as error:
        lines = str(error).splitlines()
        raise InputError("\n".join(f"{SPEC_FILE}: calibration.set: {line}" for line in lines)) from None


def _plugin_files(root: Path, libraries: tuple[str, ...], field: str) -> tuple[Path, ...]:
    files = tuple(inside(root, library, f"build.{field}") for library in libraries)
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise InputError(f"{SPEC_FILE}: build.{field}: {', '.join(names)}: two have the same name; rename one")
    return files


def inside(root: Path, relative: str, field: str, *, folder_too: bool = False) -> Path:
    """Resolve a path of model.yaml, which must exist and, links followed, lie inside `root`."""
    try:
        path = (root / relative).resolve()
        found = path.exists() and (folder_too or path.is_file())
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name too long, a NUL in it
        raise InputError(f"{SPEC_FILE}: {field}: {relative!r} cannot be a path ({error}); correct it") from None
    if Path(relative).is_absolute() or not path.is_relative_to(root):
        raise InputError(
            f"{SPEC_FILE}: {field}: {relative} leaves the model directory; copy the file into it, so that the"
            " directory alone says what the model is"
        )
    if not found:
        raise InputError(f"{SPEC_FILE}: {field}: {relative} is no file; correct the path (relative to the directory)")
    if not folder_too:
        refuse_pointer(path, f"{SPEC_FILE}: {field}: {relative}")
    return path


def data_files(path: Path, field: str) -> tuple[Path, ...]:
    """The `.npz` files at `path`: itself, or those of the folder, by name."""
    if path.is_dir():
        files = tuple(sorted(path.glob("*.npz")))
        for file in files:
            if not file.resolve().is_relative_to(path):
                raise InputError(
                    f"{SPEC_FILE}: {field}: {file.name} is a link out of its folder; copy the file into it"
                )
    else:
        files = (path,) if path.suffix == ".npz" else ()
    for file in files:
        refuse_special(file, f"{SPEC_FILE}: {field}: {file.name}")
        refuse_pointer(file, f"{SPEC_FILE}: {field}: {file.name}")
    if not files:
        raise InputError(f"{SPEC_FILE}: {field}: {path.name} holds no .npz file; save arrays with numpy.savez")
    return files
