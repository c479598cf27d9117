from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.artifact import ArtifactFile
from tasks.declared import Dim
from tasks.errors import InputError
from tasks.records import Cell, EngineManifest
from tasks.specs import TARGETS, BuildSpec, ModelSpec, Precision, ValidationSpec, why_impossible
from tests.tasks.tiny import changed, make_outcome, manifest_of, tiny_spec

if TYPE_CHECKING:
    from tasks.store.local import LocalStore

DIGEST = "sha256:" + "a" * 64


def bucketed(*buckets: object) -> dict[str, Any]:
    """A batch from 1 over 8 to 16 in buckets."""
    return {"batch": {"min": 1, "opt": 8, "max": 16, "buckets": list(buckets)}}


# Names that hide a target, a precision or both; and any others.
words = st.sampled_from(["a", "cpu", "a100", "fp16", "int8", "mig", "1g", "t4", "0", "h100"]) | st.from_regex(
    r"[a-z0-9]{1,6}", fullmatch=True
)
names = st.lists(words, min_size=1, max_size=6).map("-".join)
mig = st.tuples(st.sampled_from(["a100", "h100", "h200"]), st.integers(1, 7), st.sampled_from([5, 10, 20, 40, 80]))
targets = st.sampled_from(TARGETS) | mig.map(lambda parts: f"{parts[0]}-mig-{parts[1]}g.{parts[2]}gb")
versions = st.text("0123456789abcdef", min_size=12, max_size=12)
cells = st.builds(Cell, model=names, target=targets, precision=st.sampled_from(Precision), version=versions)


@settings(derandomize=True, deadline=None)
@given(cells)
def test_an_engine_id_reads_back_as_its_cell(cell: Cell) -> None:
    assert Cell.parse(cell.engine_id) == cell


@settings(derandomize=True, deadline=None)
@given(cells, cells)
def test_two_cells_never_share_an_engine_id(one: Cell, other: Cell) -> None:
    assert (one.engine_id == other.engine_id) == (one == other)


def test_a_model_named_like_a_cell_keeps_its_name() -> None:
    cell = Cell(model="a-cpu-fp16", target="a100-mig-1g.5gb", precision=Precision.INT8, version="0123456789ab")
    assert cell.engine_id == "a-cpu-fp16-a100-mig-1g.5gb-int8@0123456789ab"
    assert Cell.parse(cell.engine_id) == cell


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tiny",
        "tiny-cpu-fp16",
        "cpu-fp16@0123456789ab",
        "-cpu-fp16@0123456789ab",
        "tiny-tpu-fp16@0123456789ab",
        "tiny-cpu-fp4@0123456789ab",
        "tiny-cpu-fp16@0123456789AB",
        "tiny-cpu-fp16@0123456789ab\n",
        " tiny-cpu-fp16@0123456789ab",
        "../tiny-cpu-fp16@0123456789ab",
        "Tiny-cpu-fp16@0123456789ab",
        "tiny--x-cpu-fp16@0123456789ab",
        f"{'a' * 65}-cpu-fp16@0123456789ab",
        f"tiny-cpu-fp16@{'٣' * 12}",
    ],
)
def test_what_is_no_engine_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"is no engine id; .*like essay-scorer-cpu-int8@0123456789ab"):
        Cell.parse(text)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_engine_id_or_a_clear_error(text: str) -> None:
    with pytest.raises(InputError):
        Cell.parse(f"{text}@x")


@pytest.mark.parametrize(
    ("precision", "without"), [("fp32", ""), ("fp16", ""), ("int8", ""), ("bf16", "t4"), ("fp8", "t4 a10g a100")]
)
def test_a_table_says_what_a_target_cannot_do(precision: str, without: str) -> None:
    lacking = [target for target in TARGETS if why_impossible(target, Precision(precision)) is not None]
    assert sorted(lacking) == sorted(without.split())


def test_a_mig_slice_can_do_what_its_gpu_can() -> None:
    assert why_impossible("h100-mig-1g.10gb", Precision.FP8) is None
    reason = why_impossible("a100-mig-1g.5gb", Precision.FP8)
    assert reason == "FP8 takes compute capability 8.9 or later (l4, h100, h200), and a100-mig-1g.5gb is older"


def test_fp8_takes_the_calibration_set_of_int8_whatever_its_method() -> None:
    spec = tiny_spec(precisions=["int8", "fp8"], calibration={"set": "x", "method": "entropy"})
    assert [precision.is_quantized for precision in spec.precisions] == [True, True]
    assert tiny_spec(precisions=["fp8"], calibration={"set": "x", "method": "max"}).calibration is not None


def test_specs_cannot_be_changed() -> None:
    spec = tiny_spec()
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": {"batch": {"min": 1, "opt": 9, "max": 8}}}, ["dims.batch", "opt 9", "above max 8", "raise max"]),
        ({"dims": {"batch": {"min": 5, "opt": 4, "max": 8}}}, ["dims.batch", "min 5", "above opt 4", "lower min"]),
        ({"dims": {}}, ["inputs.features.shape", "'batch'", "not declared", "under dims"]),
        ({"dims": {**changed()["dims"], "idle": {"min": 1, "opt": 1, "max": 1}}}, ["dims.idle", "no input uses it"]),
        ({"dims": {"batch": {"min": 0, "opt": 4, "max": 8}}}, ["dims.batch.min", "greater than or equal to 1"]),
        ({"dims": {"batch": {"min": True, "opt": 4, "max": 8}}}, ["dims.batch.min", "valid integer"]),
        ({"dims": {"batch": {"min": "1", "opt": 4, "max": 8}}}, ["dims.batch.min", "valid integer"]),
        ({"dims": {"batch": {"min": 1.0, "opt": 4, "max": 8}}}, ["dims.batch.min", "valid integer"]),
        ({"inputs": {}}, ["inputs", "at least 1"]),
        ({"outputs": {}}, ["outputs", "at least 1"]),
        ({"targets": []}, ["targets", "at least 1"]),
        ({"precisions": []}, ["precisions", "at least 1"]),
        ({"targets": ["cpu", "tpu"]}, ["targets", "'tpu'", "choose from cpu, t4", "a100-mig-1g.5gb"]),
        ({"targets": ["cpu\n"]}, ["targets", "is no target"]),
        ({"targets": ["cpu", "cpu"]}, ["targets", "cpu is listed twice"]),
        ({"precisions": ["fp16", "fp16"]}, ["precisions", "fp16 is listed twice"]),
        ({"precisions": ["fp17"]}, ["precisions.0", "'fp32', 'fp16', 'bf16', 'int8' or 'fp8'", "'fp17'"]),
        ({"precisions": ["int8"]}, ["calibration", "missing", "int8 needs it"]),
        ({"precisions": ["fp8"]}, ["calibration", "missing", "fp8 needs it"]),
        (
            {"precisions": ["fp16", "fp8"], "calibration": {"set": "x", "method": "entropy"}},
            ["calibration.method: entropy finds ranges for int8", "write method: max, or add int8"],
        ),
        (
            {"targets": ["t4", "a10g"], "precisions": ["fp8"], "calibration": {"set": "x", "method": "max"}},
            ["precisions: no target has any of them", "8.9 or later", "t4 is older", "a10g is older", "add a target"],
        ),
        ({"outputs": {"score": {"kind": "score", "range": [1, 1]}}}, ["outputs.score", "empty", "low < high"]),
        ({"outputs": {"score": {"kind": "score", "range": [0, float("inf")]}}}, ["outputs.score.range", "finite"]),
        ({"outputs": {"score": {"kind": "logits", "range": [0, 1]}}}, ["outputs.score", "kind score", "remove it"]),
        ({"outputs": {"score": {"kind": "score", "mask": "features"}}}, ["outputs.score", "mask", "no positions"]),
        ({"outputs": {"score": {"kind": "tensor", "mask": "mask"}}}, ["outputs.score.mask", "name one of features"]),
        ({"outputs": {"score": {"kind": "tensor", "mask": 3}}}, ["outputs.score.mask"]),
        ({"outputs": {"score": {"kind": "rank"}}}, ["outputs.score.kind", "'logits'", "'rank'"]),
        (
            {"outputs": {"score": {"kind": "tensor", "axis": 1}}},
            ["outputs.score", "axis: kind tensor has none", "logits"],
        ),
        ({"outputs": {"score": {"kind": "logits", "axis": 0}}}, ["outputs.score", "axis: 0 is that of the samples"]),
        ({"outputs": {"score": {"kind": "logits", "axis": "1"}}}, ["outputs.score.axis", "valid integer"]),
        ({"outputs": {"score": {"kind": "ctc", "blank": -1}}}, ["outputs.score.blank", "greater than or equal to 0"]),
        (
            {"outputs": {"score": {"kind": "logits", "threshold": 0.5}}},
            ["threshold: kind logits has none", "multilabel"],
        ),
        ({"name": "Tiny Scorer"}, ["name", "pattern"]),
        ({"name": "a" * 65}, ["name", "64"]),
        ({"source": "model:build"}, ["source", "pattern"]),
        ({"export": {"opset": 12}}, ["export.opset", "13"]),
        ({"export": {"exporter": "onnx"}}, ["export.exporter", "'dynamo' or 'torchscript'"]),
        ({"inputs": {"features": {"dtype": "float31", "shape": ["batch"]}}}, ["inputs.features.dtype", "'float31'"]),
        ({"inputs": {"features": {"dtype": "float32", "shape": []}}}, ["inputs.features.shape", "at least 1"]),
        (
            {"inputs": {"features": {"dtype": "float32", "shape": [8, 4]}}, "dims": {}},
            ["first axis", "named dimension"],
        ),
        ({"inputs": {"../x": {"dtype": "float32", "shape": ["batch"]}}}, ["inputs", "pattern"]),
        ({"dims": bucketed(8, 4, 16)}, ["dims.batch", "buckets [8, 4, 16] do not rise", "smallest first"]),
        ({"dims": bucketed(8, 8, 16)}, ["dims.batch", "do not rise", "write each extent once"]),
        ({"dims": bucketed(1, 16)}, ["dims.batch", "buckets [1, 16]", "hold opt 8"]),
        ({"dims": bucketed(1, 8)}, ["dims.batch", "end with max", "between min 1 and max 16"]),
        ({"dims": bucketed(8, 16, 32)}, ["dims.batch", "end with max"]),
        ({"dims": {"batch": {**bucketed(2, 8, 16)["batch"], "min": 4}}}, ["dims.batch", "between min 4 and max 16"]),
        ({"dims": bucketed()}, ["dims.batch.buckets", "at least 1"]),
        ({"dims": bucketed(0, 8, 16)}, ["dims.batch.buckets.0", "greater than or equal to 1"]),
        ({"dims": bucketed("8", 16)}, ["dims.batch.buckets.0", "valid integer"]),
        ({"inputs": {"x": {"dtype": "int64", "shape": ["batch"], "pad": "0"}}}, ["inputs.x.pad", "valid"]),
        ({"inputs": {"x": {"dtype": "int64", "shape": ["batch"], "pad": float("nan")}}}, ["inputs.x.pad", "finite"]),
        ({"build": {"memory_limit_mib": 0}}, ["build.memory_limit_mib", "greater than or equal to 1"]),
        ({"build": {"memory_limit_mib": 1.5}}, ["build.memory_limit_mib", "valid integer"]),
        ({"build": {"optimization_level": 6}}, ["build.optimization_level", "less than or equal to 5"]),
        ({"build": {"optimization_level": -1}}, ["build.optimization_level", "greater than or equal to 0"]),
        ({"build": {"sparsity": 1}}, ["build.sparsity", "valid boolean"]),
        ({"build": {"cuda_graph": "no"}}, ["build.cuda_graph", "valid boolean"]),
        ({"build": {"plugins": [""]}}, ["build.plugins.0", "at least 1"]),
        ({"build": {"plugins": "libplugin.so"}}, ["build.plugins", "valid tuple"]),
    ],
)
def test_a_mistake_in_the_declaration_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate(changed(**changes))
    fields = [".".join(map(str, detail["loc"])) for detail in caught.value.errors()]
    text = f"{caught.value} {fields}"
    assert [word for word in words if word not in text] == []


def test_buckets_say_which_extents_are_worth_measuring() -> None:
    assert Dim(min=1, opt=8, max=16, buckets=(2, 8, 16)).extents == (2, 8, 16)
    assert Dim(min=1, opt=8, max=16).extents == (1, 8, 16)
    assert Dim(min=4, opt=4, max=4).extents == (4,)


def test_without_its_buckets_a_dimension_keeps_its_range() -> None:
    dim = Dim(min=1, opt=8, max=16, buckets=(8, 16))
    assert dim.without_buckets() == Dim(min=1, opt=8, max=16)
    assert Dim(min=1, opt=8, max=16).without_buckets() == Dim(min=1, opt=8, max=16)


@settings(derandomize=True, deadline=None)
@given(st.sets(st.integers(1, 99), min_size=1, max_size=5), st.data())
def test_buckets_that_rise_to_max_and_hold_opt_are_taken(extents: set[int], data: Any) -> None:
    buckets = sorted(extents)
    low, opt = data.draw(st.integers(1, buckets[0])), data.draw(st.sampled_from(buckets))
    dims = {"batch": {"min": low, "opt": opt, "max": buckets[-1], "buckets": buckets}}
    dim = tiny_spec(dims=dims).dims["batch"]
    assert dim.buckets == dim.extents == tuple(buckets)


@pytest.mark.parametrize("pad", [0, -1, 0.5])
def test_an_input_may_say_what_pads_it(pad: float) -> None:
    inputs = {"features": {"dtype": "float32", "shape": ["batch", 4]}}
    assert tiny_spec(inputs=inputs).inputs["features"].pad == 0
    inputs["features"]["pad"] = pad
    assert tiny_spec(inputs=inputs).inputs["features"].pad == pad


def test_a_model_that_says_nothing_of_the_build_gets_the_defaults() -> None:
    assert tiny_spec().build == tiny_spec(build={}).build == BuildSpec()
    build = BuildSpec()
    assert (build.memory_limit_mib, build.optimization_level, build.plugins) == (None, 3, ())
    assert (build.sparsity, build.cuda_graph) == (False, True)


def test_the_build_is_read_as_it_is_written() -> None:
    written = {
        "memory_limit_mib": 512,
        "optimization_level": 5,
        "plugins": ["lib/libplugin.so"],
        "sparsity": True,
        "cuda_graph": False,
    }
    assert tiny_spec(build=written).build.model_dump(mode="json") == written


@pytest.mark.parametrize("key", ["refit", "hardware_compatible"])
def test_what_later_releases_added_to_the_build_is_off_and_leaves_older_keys_as_they_were(key: str) -> None:
    assert key not in tiny_spec(build={key: False}).build.model_dump()
    assert tiny_spec(build={key: False}).build == BuildSpec()
    assert tiny_spec(build={key: True}).build.model_dump()[key] is True
    with pytest.raises(ValidationError, match=key):
        tiny_spec(build={key: 1})


def test_inputs_that_count_samples_by_different_dimensions_are_refused() -> None:
    inputs = {
        "a": {"dtype": "float32", "shape": ["batch", 4]},
        "b": {"dtype": "float32", "shape": ["sequence", 4]},
    }
    dims = {name: {"min": 1, "opt": 1, "max": 1} for name in ("batch", "sequence")}
    with pytest.raises(ValidationError, match="the first axis of every input must be one named dimension"):
        tiny_spec(inputs=inputs, dims=dims)


@pytest.mark.parametrize("path", ["/etc/passwd", "../plan", "a/../../b", "", "."])
def test_a_file_of_an_artifact_cannot_lie_outside_it(path: str) -> None:
    with pytest.raises(ValidationError, match="leaves the artifact"):
        ArtifactFile(path=path, digest=DIGEST, size_bytes=1)


@pytest.mark.parametrize("digest", ["md5:" + "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, DIGEST + "\n"])
def test_only_a_sha256_is_a_digest(digest: str) -> None:
    with pytest.raises(ValidationError):
        ArtifactFile(path="a", digest=digest, size_bytes=1)


def test_a_manifest_reads_back_the_same_from_its_json(store: LocalStore) -> None:
    manifest = manifest_of(store, make_outcome(store))
    assert EngineManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert EngineManifest.model_validate(manifest.model_dump(mode="json")) == manifest


def test_a_manifest_of_another_schema_is_refused(store: LocalStore) -> None:
    content = manifest_of(store, make_outcome(store)).model_dump(mode="json")
    with pytest.raises(ValidationError, match="schema_version"):
        EngineManifest.model_validate({**content, "schema_version": 1})


def test_the_headline_is_the_latency_at_the_opt_batch(store: LocalStore) -> None:
    benchmark = make_outcome(store).benchmark
    assert benchmark
    assert (benchmark.headline.batch, benchmark.headline.p50_ms) == (8, 4.0)


def test_an_output_s_mask_is_handed_on() -> None:
    spec = tiny_spec(outputs={"states": {"kind": "tensor", "mask": "features"}})
    assert spec.output_specs()["states"].mask == "features"


def test_what_only_some_kinds_have_is_written_where_it_is_said_alone() -> None:
    """So that versions, keys and manifests of before are the same."""
    plain = tiny_spec(outputs={"y": {"kind": "logits"}})
    assert plain.model_dump(mode="json")["outputs"]["y"] == {"kind": "logits", "range": None, "mask": None}
    said = tiny_spec(outputs={"y": {"kind": "multilabel", "axis": -1, "threshold": 0.3}})
    assert said.model_dump(mode="json")["outputs"]["y"].items() >= {"axis": -1, "threshold": 0.3}.items()
    assert ModelSpec.model_validate(said.model_dump(mode="json")) == said
    spec = said.output_specs()["y"]
    assert (spec.axis, spec.threshold, spec.blank) == (-1, 0.3, None)


def test_data_say_that_they_are_made_up_only_where_they_are() -> None:
    assert ValidationSpec(data="v").model_dump() == {"data": "v", "policy": None}
    assert ValidationSpec(data="v", synthetic=True).model_dump()["synthetic"] is True
