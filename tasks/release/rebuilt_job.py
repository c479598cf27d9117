"""Makes a registered engine's job again from what the registry has of it: graph, policy, reference outputs, options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from tasks.artifact import Artifact
from tasks.backends.trt_plan import ATTENTION_LIBRARY, BY_PLUGIN, PLUGIN_FOLDER
from tasks.errors import InputError
from tasks.fresh_records import FreshArtifact
from tasks.model.toolchain import release_of
from tasks.model.version import VERSION_DIGITS
from tasks.objects.files import writing_to
from tasks.records import ReferenceArtifact, TypedModel
from tasks.registry.evidence import policy_digest
from tasks.runtimes import RUNTIMES
from tasks.specs import BuildSpec, ModelSpec
from tasks.store.digests import artifact_digest, digest_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.process.context import StageContext
    from tasks.records import BackendIdentity, EngineManifest
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry
    from tasks.store.interface import ArtifactStore
    from validation.policy import Policy

    Settings = Mapping[str, Any]

BUILD_OPTIONS = (
    "optimization_level", "memory_limit_mib", "sparsity", "cuda_graph", "attention", "refit", "hardware_compatible",
)  # fmt: skip
"""The builder's options that a manifest holds, by their names in model.yaml's `build`."""
NO_SOURCE = "registry.py:no_source"
"""The source of a model whose module is not at hand: nothing loads it."""
NO_LIMIT = "all"
STAND_IN = (
    "of inputs that are in no file, it was tried on the registry's few alone: those of the conversion are not in this"
    " store"
)


def parse_options(texts: Iterable[str]) -> Settings:
    """Read `KEY=VALUE` texts, each a key of model.yaml's `build`.

    Raises:
        InputError: a key is none of `BUILD_OPTIONS`, or has no such value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or key not in BUILD_OPTIONS:
            raise InputError(f"--build {text}: write KEY=VALUE, with KEY one of {', '.join(BUILD_OPTIONS)}")
        try:
            found[key] = yaml.safe_load(value)
            BuildSpec.model_validate({key: found[key]})
        except (yaml.YAMLError, ValidationError):
            raise InputError(f"--build {text}: {key} has no value {value!r}; see `build` of model.yaml") from None
    return found


def spec_of(manifest: EngineManifest, options: Settings) -> ModelSpec:
    """A registered engine's model.yaml, as far as making the engine takes it, with `options` of the builder changed.

    Raises:
        InputError: its runtime has no such options.
    """
    cell = manifest.cell
    if options and not RUNTIMES[cell.runtime].typed:
        raise InputError(f"--build: {cell.runtime}, which runs {cell.engine_id}, has no such options; leave it out")
    fields = {"inputs", "dims", "outputs", "serving"}
    calibration = manifest.calibration
    return ModelSpec.model_validate(
        {
            **manifest.model_dump(mode="json", include=fields),
            "name": cell.model,
            "source": NO_SOURCE,
            "targets": [cell.target],
            "precisions": [cell.precision.value],
            "calibration": {"set": calibration.name if calibration else "unknown"},
            "validation": {"data": "unknown", "synthetic": manifest.synthetic},
            "build": {**_registered_options(manifest), **options},
        }
    )


def _registered_options(manifest: EngineManifest) -> dict[str, Any]:
    """The builder's options that an engine was built with, as model.yaml writes them; none of a runtime without any."""
    found = {
        key: value
        for key, value in manifest.options.items()
        if key in BUILD_OPTIONS and not value.startswith(BY_PLUGIN)  # which is what `auto` came to
    }
    return {key: None if value == NO_LIMIT else yaml.safe_load(value) for key, value in found.items()}


def is_same(manifest: EngineManifest, identity: BackendIdentity, options: Mapping[str, str]) -> bool:
    """Whether an engine was built by the same runtime on the same device, with the same options."""
    return manifest.backend == identity and all(manifest.options.get(key) == options[key] for key in options)


def upgraded_version(
    engine: SignedManifest, identity: BackendIdentity, options: Mapping[str, str], policy: Policy, again: str | None
) -> str:
    """The version of an engine that is made of a registered one: twelve hexadecimal digits over all that differs.

    The same on every host with this toolchain, so that an upgrade which is run again finds what it made. `again` is a
    reason for another build of the very same.
    """
    named = {
        "upgrade of": engine.digest,
        "backend": identity.model_dump(),
        "options": dict(options),
        "policy": policy_digest(policy),
        "enginegate": release_of("enginegate"),
        **({} if again is None else {"again": again}),
    }
    return digest_json(named).removeprefix("sha256:")[:VERSION_DIGITS]


def typed_of(manifest: EngineManifest) -> TypedModel:
    """The typed graphs that an engine was made of."""
    precision, recipe = manifest.cell.precision, manifest.recipe
    around = {**recipe, "around": "fp16, as registered"}
    half = None if manifest.half is None else TypedModel(onnx=manifest.half, precision=precision, recipe=around)
    return TypedModel(onnx=manifest.onnx, precision=precision, recipe=recipe, half=half)


def plugins_of(manifest: EngineManifest) -> Artifact | None:
    """A model's own plugin libraries, which lie beside an engine's plans; None where it has none."""
    below = f"{PLUGIN_FOLDER}/"
    files = tuple(
        file.model_copy(update={"path": file.path.removeprefix(below)})
        for file in manifest.plan.files
        if file.path.startswith(below) and file.path != below + ATTENTION_LIBRARY
    )
    return Artifact(digest=artifact_digest(files), files=files) if files else None


def reference_of(store: ArtifactStore, manifest: EngineManifest) -> ReferenceArtifact:
    """The reference's outputs; on inputs that are in no file those of the store, where it has them.

    Elsewhere the smoke samples of the registry, a few of both kinds, stand in for these.
    """
    fresh = manifest.fresh
    if fresh is None or not (store.contains(fresh.inputs) and store.contains(fresh.outputs)):
        smoke = manifest.smoke
        draws = tuple("kept in the registry to try the engine on" for _ in smoke.inputs.files)
        fresh = FreshArtifact(
            inputs=smoke.inputs,
            outputs=smoke.reference,
            draws=draws,
            samples=smoke.samples,
            refused=(),
            difference=0.0,
        )
    return ReferenceArtifact(outputs=manifest.reference_outputs, fresh=fresh)


def take_all(context: StageContext, registry: Registry, artifacts: Iterable[Artifact]) -> int:
    """Bring artifacts into the store, each file checked against its digest, unless they are there; return their bytes.

    Raises:
        RefusedError: a file is missing in the registry, or was changed.
    """
    size_bytes = 0
    for artifact in artifacts:
        _take(context, registry, artifact)
        size_bytes += artifact.size_bytes
    return size_bytes


def _take(context: StageContext, registry: Registry, artifact: Artifact) -> None:
    if context.store.contains(artifact):
        return
    with context.store.scratch() as folder:
        files = folder / "files"
        files.mkdir()
        with writing_to(files):
            registry.engines.fetch(artifact, files, context.on_progress)
        context.store.put(files)
