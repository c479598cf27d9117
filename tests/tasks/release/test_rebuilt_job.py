from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends.trt import TensorRtBackend
from tasks.backends.trt_plan import ATTENTION_LIBRARY
from tasks.errors import InputError, RefusedError
from tasks.fresh_records import FreshArtifact
from tasks.records import BackendIdentity, Cell, EngineManifest
from tasks.registry.layout import blob_key
from tasks.release.rebuilt_job import (
    is_same,
    parse_options,
    plugins_of,
    reference_of,
    spec_of,
    take_all,
    typed_of,
    upgraded_version,
)
from tasks.specs import BuildSpec, Precision
from tasks.store.local import LocalStore
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import Shelf
from tests.tasks.tiny import cell, put, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.registry.engines import SignedManifest

H200 = BackendIdentity(
    name="tensorrt", version="8.6.0", device="NVIDIA H200", compute_capability="9.0", cuda="12.4", driver="550.54"
)
SETTINGS = BuildSpec(optimization_level=2, memory_limit_mib=512, cuda_graph=False, attention="tensorrt", refit=True)


@pytest.fixture
def shelf(context: StageContext) -> Shelf:
    return Shelf(MemoryObjects(), context)


def built_by_tensorrt(shelf: Shelf, settings: BuildSpec = SETTINGS, **changes: Any) -> EngineManifest:
    """The manifest of an H200's engine."""
    fields: dict[str, Any] = {
        "cell": cell("fp16", target="h200"),
        "backend": H200,
        "options": TensorRtBackend().options(settings, Precision.FP16),
    }
    return shelf.describe("fp16").model_copy(update=fields | changes)


def signed(shelf: Shelf, manifest: EngineManifest) -> SignedManifest:
    found = shelf.register("fp16")
    return type(found)(manifest, found.digest, found.signature)


def test_a_job_has_what_model_yaml_said_of_inputs_dims_outputs_and_the_builder(shelf: Shelf) -> None:
    spec, declared = spec_of(built_by_tensorrt(shelf), {}), tiny_spec()
    assert (spec.inputs, spec.dims, spec.outputs) == (declared.inputs, declared.dims, declared.outputs)
    assert spec.build == SETTINGS
    assert (spec.name, spec.targets, spec.precisions) == ("tiny", ("h200",), (Precision.FP16,))
    unlimited = BuildSpec(attention="tensorrt")
    assert spec_of(built_by_tensorrt(shelf, unlimited), {}).build == unlimited


def test_options_of_the_builder_can_be_others(shelf: Shelf) -> None:
    options = parse_options(["optimization_level=5", "memory_limit_mib=null", "sparsity=true"])
    build = spec_of(built_by_tensorrt(shelf), options).build
    changed = {"optimization_level": 5, "memory_limit_mib": None, "sparsity": True}
    assert build == SETTINGS.model_copy(update=changed)


@pytest.mark.parametrize("text", ["optimization_level", "plugins=[a.so]", "optimization_level=six", "sparsity=[", "=3"])
def test_what_is_no_option_of_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--build"):
        parse_options([text])


@pytest.mark.parametrize(
    "changed", [{"version": "10.13.0"}, {"driver": "570.1"}, {"device": "NVIDIA H100"}, {"mig": "1g.18gb"}]
)
def test_another_release_driver_or_gpu_is_another_toolchain(shelf: Shelf, changed: dict[str, str]) -> None:
    manifest = built_by_tensorrt(shelf)
    assert is_same(manifest, H200, manifest.options)
    assert not is_same(manifest, H200.model_copy(update=changed), manifest.options)


def test_other_options_are_another_toolchain_and_what_a_build_adds_to_them_is_not(shelf: Shelf) -> None:
    manifest = built_by_tensorrt(shelf)
    options = dict(manifest.options)
    added = manifest.model_copy(update={"options": {**options, "loaded at": "basic"}})
    assert is_same(added, H200, options)
    assert not is_same(added, H200, {**options, "optimization_level": "5"})


def test_a_version_is_the_same_on_every_host_and_another_for_all_that_differs(shelf: Shelf) -> None:
    manifest = built_by_tensorrt(shelf)
    old, policy, options = signed(shelf, manifest), manifest.policy, manifest.options
    found = [
        upgraded_version(old, identity, chosen, policy, again)
        for identity in (H200, H200.model_copy(update={"driver": "570.1"}))
        for chosen in (options, {**options, "sparsity": "true"})
        for again in (None, "in doubt")
    ]
    assert len(set(found)) == len(found)
    assert upgraded_version(old, H200, options, policy, None) == found[0]
    assert all(Cell.parse(f"tiny-h200-fp16@{version}") for version in found)


def test_graphs_are_those_of_the_registry(shelf: Shelf, store: LocalStore) -> None:
    half = put(store, {"model.onnx": b"half"})
    manifest = built_by_tensorrt(shelf, cell=cell("int8", target="h200"), half=half)
    typed = typed_of(manifest)
    assert (typed.onnx, typed.recipe) == (manifest.onnx, manifest.recipe)
    assert typed.half is not None
    assert typed.half.onnx == half
    assert typed.half.recipe != typed.recipe, "another graph has another key"
    assert typed_of(built_by_tensorrt(shelf)).half is None


def test_attention_that_the_plugin_computed_is_left_to_the_next_builder_again(shelf: Shelf) -> None:
    options = {**TensorRtBackend().options(SETTINGS, Precision.FP16), "attention": "plugin 0123456789ab"}
    assert spec_of(built_by_tensorrt(shelf, options=options), {}).build.attention == "auto"


def test_plugins_are_those_beside_the_plans(shelf: Shelf, store: LocalStore) -> None:
    ours = {f"plugins/{ATTENTION_LIBRARY}": b"compiled where it is built"}
    plan = put(store, {"engine.plan": b"plan", "plugins/libmine.so": b"library", **ours})
    plugins = plugins_of(built_by_tensorrt(shelf, plan=plan))
    assert plugins is not None
    assert plugins == put(store, {"libmine.so": b"library"})
    assert plugins_of(built_by_tensorrt(shelf)) is None


def test_inputs_in_no_file_are_those_of_the_conversion_or_the_samples_of_the_registry(
    shelf: Shelf, tmp_path: Path, store: LocalStore
) -> None:
    inputs, outputs = (put(store, {"00000.npz": name}) for name in (b"in", b"out"))
    fresh = FreshArtifact(inputs=inputs, outputs=outputs, draws=("mixed",), samples=3, refused=(), difference=0.1)
    manifest = built_by_tensorrt(shelf, fresh=fresh)
    assert reference_of(store, manifest).fresh == fresh
    other = LocalStore(tmp_path / "other")
    for stand_in in (reference_of(other, manifest).fresh, reference_of(store, built_by_tensorrt(shelf)).fresh):
        assert stand_in is not None
        assert (stand_in.inputs, stand_in.outputs) == (manifest.smoke.inputs, manifest.smoke.reference)
        assert len(stand_in.draws) == len(manifest.smoke.inputs.files)


def test_files_come_from_the_registry_each_checked_against_its_digest(
    shelf: Shelf, context: StageContext, tmp_path: Path
) -> None:
    manifest = shelf.register("fp16").manifest
    other = LocalStore(tmp_path / "other")
    here = type(context)(other)
    assert take_all(here, shelf.registry, [manifest.onnx, manifest.plan]) > 0
    assert other.contains(manifest.onnx)
    assert other.contains(manifest.plan)
    swapped = ObjectFile(shelf.objects, blob_key(manifest.reference_outputs.files[0].digest))
    swapped.write_bytes(b"x" * manifest.reference_outputs.files[0].size_bytes)
    with pytest.raises(RefusedError):
        take_all(here, shelf.registry, [manifest.reference_outputs])
    assert not other.contains(manifest.reference_outputs)
