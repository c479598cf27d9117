"""Parsing, typing and building by NVIDIA's own code of today, for each target, without a GPU: TensorRT-RTX.

The nets are one a kind of layer, typed as the converters leave them. The examples are built in the long run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import onnx.printer
import pytest
from onnx import numpy_helper

from tasks.backends import trt_rtx
from tasks.backends.interface import BuildJob
from tasks.backends.trt_plan import PlanIndex
from tasks.backends.trt_rtx import CAPABILITIES
from tasks.backends.trt_witness import ParseReport, ParseRequest
from tasks.graphs.structure import structure_digest
from tasks.process.context import StageContext
from tasks.specs import BuildSpec, CalibrationMethod, CalibrationSpec, Precision, why_impossible
from tasks.stages.convert import convert_precision
from tasks.store.local import LocalStore
from tests.tasks.backends.fake_tensorrt import FakeTensorrt, install
from tests.tasks.backends.nets import NETS, OF_BF16, OF_FP8, PRECISIONS_OF_TODAY
from tests.tasks.backends.rtx_entries import Bodies, Builds, Built, Differences, Refusals, Versions
from tests.tasks.backends.test_trt_unsupported import BEHIND, BODY, Parser, job_of, refusal
from tests.tasks.stages.conftest import exported_encoder
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.stages.conftest import SharedEncoder

__all__ = ["exported_encoder"]

pytestmark = pytest.mark.skipif(
    trt_rtx.release_here() is None, reason="TensorRT-RTX is not installed; pip install '.[rtx]'"
)

DIMS: dict[str, Any] = {"batch": {"min": 1, "opt": 4, "max": 8}, "time": {"min": 2, "opt": 5, "max": 9}}
BUCKETS = {**DIMS, "batch": {**DIMS["batch"], "buckets": [1, 4, 8]}}
OPSET = '<ir_version: 9, opset_import: ["" : 20]>'
BAKED = f"{OPSET} g (float[batch,4] x) => (float[8,4] y) <int64[2] s={{8,4}}> {{ y = Reshape(x, s) }}"
IN_A_BRANCH = (
    f"{OPSET} g (float[N,4] x, bool c) => (float[N,4] y) {{ b = If(c) <then_branch = t () => (float[N,4] o)"
    " { o = Relu(x) }, else_branch = e () => (float[N,4] o) { o = Bernoulli(x) }> y = Sigmoid(b) }"
)


def build(context: StageContext, folder: Path, jobs: dict[str, BuildJob]) -> Built:
    entry = "tests.tasks.backends.rtx_entries:build"
    return context.call_in_child(entry, Builds(jobs=jobs), Built, folder)


def job_for(target: str, folder: Path, onnx_file: Path, inputs: Any, dims: dict[str, Any], **more: Any) -> BuildJob:
    spec = tiny_spec(inputs=inputs, dims=dims)
    (folder / "plan").mkdir(parents=True)
    return BuildJob(
        onnx=onnx_file,
        plan=folder / "plan",
        precision=Precision.FP16,
        inputs=spec.inputs,
        dims=spec.dims,
        settings=BuildSpec(**more),
        capability=CAPABILITIES[target],
    )


def net_job(target: str, folder: Path, name: str, dims: dict[str, Any] = DIMS, **more: Any) -> BuildJob:
    net = (NETS | OF_FP8 | OF_BF16)[name]
    inputs = {"input": {"dtype": "float32", "shape": list(net.shape)}}
    named = {axis: dims[axis] for axis in net.shape if isinstance(axis, str)}
    return job_for(target, folder, net.write(folder / "onnx"), inputs, named, **more)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    return StageContext(LocalStore(tmp_path_factory.mktemp("store")), time_limit_s=600)


@pytest.mark.parametrize("target", list(CAPABILITIES))
def test_every_kind_of_layer_is_parsed_typed_and_built(context: StageContext, tmp_path: Path, target: str) -> None:
    built = build(context, tmp_path, {name: net_job(target, tmp_path / name, name) for name in NETS})
    assert built.failed == {}
    for name in NETS:
        assert set(built.sizes[name]) == {"engine.json", "engine.plan"}, name
        assert built.sizes[name]["engine.plan"] > 1000, name
        assert built.warnings[name] == (), name


@pytest.mark.parametrize("precision", list(PRECISIONS_OF_TODAY))
def test_the_builder_can_do_a_precision_just_where_the_table_says(
    context: StageContext, tmp_path: Path, precision: str
) -> None:
    jobs = {
        f"{name} {target}": net_job(target, tmp_path / name / target, name)
        for name in PRECISIONS_OF_TODAY[precision]
        for target in CAPABILITIES
    }
    built = build(context, tmp_path, jobs)
    expected = {one for one in jobs if why_impossible(one.split()[1], Precision(precision)) is None}
    assert set(built.sizes) == expected, built.failed
    assert {one for one, why in built.failed.items() if "HW-specific datatypes" in why} == jobs.keys() - expected


def test_buckets_settings_and_progress_are_those_of_a_real_builder(context: StageContext, tmp_path: Path) -> None:
    jobs = {
        "buckets": net_job("a10g", tmp_path / "buckets", "attention", BUCKETS),
        "settings": net_job("a10g", tmp_path / "settings", "product", memory_limit_mib=512, optimization_level=2),
    }
    built = build(context, tmp_path, jobs)
    assert built.failed == {}
    assert set(built.sizes["buckets"]) == {*(f"engine-batch{n}.plan" for n in (1, 4, 8)), "engine.json"}
    index = PlanIndex.read(jobs["buckets"].plan)
    assert [profile.dims["batch"].max for profile in index.profiles] == [1, 4, 8]
    for shares in built.progress.values():
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert all(low <= high for low, high in pairwise(shares))
        assert len(shares) > 10


def other_weights(file: Path, folder: Path) -> Path:
    """The same net with other values for all that its structure leaves open."""
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        before = numpy_helper.to_array(tensor)
        if before.dtype.kind == "f" or tensor.data_type == onnx.TensorProto.BFLOAT16:
            after = (before.astype(np.float32) * 2 + 1).astype(before.dtype)
            tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_each_weight_that_a_structure_leaves_open_is_one_of_the_network(context: StageContext, tmp_path: Path) -> None:
    pairs, baked = {}, set()
    for name, net in (NETS | OF_BF16).items():
        if net.weights:
            before = net.write(tmp_path / name)
            pairs[name] = (before, other_weights(before, tmp_path / f"other {name}"))
            if structure_digest(pairs[name][0]) != structure_digest(pairs[name][1]):
                baked.add(name)
    assert baked == {"instance_norm", "lstm", "gru", "product_int8", "convolution_int8"}
    request = Versions(pairs={name: pair for name, pair in pairs.items() if name not in baked})
    entry = "tests.tasks.backends.rtx_entries:differ"
    found = context.call_in_child(entry, request, Differences, tmp_path).found
    assert found.keys() == request.pairs.keys()
    named = {name for name, net in NETS.items() if name in found and name not in {"batch_norm", "convolution"}}
    for name in named:
        assert len(found[name]) == len(NETS[name].weights), name
    assert found["convolution"] == found["convolution_bf16"]
    assert [place.split()[1] for place in found["convolution"]] == ["BIAS", "KERNEL"]
    assert [place.split()[1] for place in found["batch_norm"]] == ["SCALE", "SHIFT"], "made of its four"


def test_what_it_cannot_do_without_a_driver_keeps_nothing_from_being_built(
    context: StageContext, tmp_path: Path
) -> None:
    settings = {"refit": True, "hardware_compatible": True}
    jobs = {name: net_job("a10g", tmp_path / name, name, **settings) for name in ("convolution", "attention")}
    built = build(context, tmp_path, jobs)
    assert built.failed == {}
    assert set(built.warnings.values()) == {()}


def test_extents_that_the_graph_has_fixed_fail_the_build_and_are_named(context: StageContext, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(BAKED), tmp_path / "baked.onnx")
    inputs = {"x": {"dtype": "float32", "shape": ["batch", 4]}}
    job = job_for("a10g", tmp_path, tmp_path / "baked.onnx", inputs, {"batch": {"min": 1, "opt": 8, "max": 16}})
    failed = build(context, tmp_path, {"baked": job}).failed["baked"]
    assert failed.startswith("TensorRT says that engine.plan would fail at some extents that dims allows: ")
    assert "Profile kMAX values are not self-consistent" in failed
    assert "dims{16 4} reshape dims{8 4}" in failed


@pytest.mark.parametrize("body", [BODY, BEHIND], ids=["operators", "types"])
def test_rtx_answers_as_the_stand_in_does(
    context: StageContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    fake = FakeTensorrt("11.4.0")
    install(monkeypatch, fake)
    Parser(fake)
    _, *said = refusal(fake, job_of(tmp_path, body=body))
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    text = onnx.printer.to_text(model)
    request = Bodies(models={"model": text}, folder=tmp_path)
    entry = "tests.tasks.backends.rtx_entries:refuse"
    found = context.call_in_child(entry, request, Refusals, tmp_path).found["model"]
    assert [one.partition(": ")[0] for one in said] == [one.partition(": ")[0] for one in found]
    for ours, theirs in zip(said, found, strict=True):
        first = ours.partition(": ")[2].split(" ElementWise")[0]
        assert theirs.partition(": ")[2].startswith(first), (
            "the reason too, as far as it does not name a line of theirs"
        )


def parse(context: StageContext, folder: Path, text: str) -> ParseReport:
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    entry = "tasks.backends.trt_witness:parse_with_rtx"
    return context.call_in_child(entry, ParseRequest(onnx=folder / "model.onnx"), ParseReport, folder)


def test_the_witness_names_what_is_inside_a_branch(context: StageContext, tmp_path: Path) -> None:
    report = parse(context, tmp_path, IN_A_BRANCH)
    assert not report.takes_it
    (node,) = report.nodes
    assert node.startswith("node 0 (If): Bernoulli in ")
    assert node.endswith(" > e (else_branch): its parser has no importer for this operator")
    assert "does not take 1 nodes; rewrite what they come from" in report.headline


def test_the_witness_takes_what_it_takes_and_is_silent_on_what_it_lacks_itself(
    context: StageContext, tmp_path: Path
) -> None:
    assert parse(context, tmp_path, f"{OPSET} g (float[N,4] x) => (float[N,4] y) {{ y = Relu(x) }}").takes_it
    report = parse(context, tmp_path, f"{OPSET} g (float[N,4] x) => (int64[2,M] y) {{ a = Relu(x) y = NonZero(a) }}")
    assert report.takes_it
    assert report.unasked == ("node 1 (NonZero)",)
    assert report.headline.endswith("takes the graph; it cannot say of node 1 (NonZero)")


@pytest.mark.hardship(only=True)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_a_transformer_is_built_for_every_target_that_can_as_the_converters_leave_it(
    exported_encoder: SharedEncoder, context: StageContext, tmp_path: Path, precision: str
) -> None:
    made, store = exported_encoder.made, exported_encoder.context.store
    spec = made.spec.model_copy(update={"calibration": CalibrationSpec(set="x", method=CalibrationMethod.MINMAX)})
    arguments = (exported_encoder.context, made.exported, Precision(precision), spec, made.data)
    typed = convert_precision(*arguments, data=made.data, half=precision == "int8").result
    file = store.fetch((typed.half or typed).onnx, tmp_path / "onnx") / "model.onnx"
    inputs = {name: one.model_dump(mode="json") for name, one in spec.inputs.items()}
    dims = {name: one.model_dump(exclude_none=True) for name, one in spec.dims.items()}
    able = [target for target in CAPABILITIES if why_impossible(target, Precision(precision)) is None]
    jobs = {target: job_for(target, tmp_path / target, file, inputs, dims) for target in able}
    assert build(context, tmp_path, jobs).failed == {}
