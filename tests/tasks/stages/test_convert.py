from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import InputError, StageError
from tasks.graphs import onnx_files
from tasks.graphs.cpu_form import as_cpu_runs
from tasks.graphs.half_rounding import keep_half_rounding
from tasks.graphs.onnx_check import open_session
from tasks.process.context import StageContext
from tasks.quantization import converter_table as table
from tasks.quantization.converter_table import Converter, converters_for
from tasks.quantization.interface import CalibrationReader, ConvertRequest
from tasks.quantization.loss import Loss, LossRequest, loss_in_child
from tasks.quantization.ort_calibration import find_ranges
from tasks.quantization.quantizable import find_quantizable, fold_transposed_weights, name_nodes
from tasks.records import DataArtifact, ExportedModel
from tasks.samples.npz import save_shard
from tasks.specs import CalibrationMethod, CalibrationSpec, OutputDeclaration, Precision
from tasks.stages import convert
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.store.local import LocalStore
from tests.tasks.fragile_runtime import break_highest_level
from tests.tasks.in_process import InProcess
from tests.tasks.models.directories import (
    make_features,
    make_images,
    make_texts,
    store_shards,
    write_directory,
)
from tests.tasks.tiny import tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import TypedModel
    from tasks.samples.npz import Arrays
    from tasks.specs import ModelSpec
    from tasks.store.stage_cache import StageResult
    from tests.tasks.stages.conftest import SharedEncoder

AUTO = CalibrationMethod.AUTO
METHODS = [method for method in CalibrationMethod if method is not AUTO]
QUICK = [method for method in METHODS if method is not CalibrationMethod.ENTROPY]
LONG = pytest.mark.hardship(only=True)
TORCHSCRIPT = {"exporter": "torchscript", "opset": 17}


@dataclass(frozen=True)
class Model:
    """An exported model with data to calibrate on; tests convert copies of it."""

    context: StageContext
    spec: ModelSpec
    exported: ExportedModel
    data: DataArtifact
    samples: Arrays

    def convert(
        self, precision: Precision, method: CalibrationMethod | None = None, exclude: tuple[str, ...] = ()
    ) -> TypedModel:
        return self.remembered(precision, method, exclude).result

    def remembered(
        self, precision: Precision, method: CalibrationMethod | None = None, exclude: tuple[str, ...] = ()
    ) -> StageResult[TypedModel]:
        spec = self.spec
        if method is not None:
            spec = spec.model_copy(update={"calibration": CalibrationSpec(set="x", method=method)})
        return convert_precision(self.context, self.exported, precision, spec, self.data, exclude=exclude)

    def graph(self, typed: TypedModel, folder: Path) -> onnx.GraphProto:
        return onnx.load(self.context.store.fetch(typed.onnx, folder) / "model.onnx").graph

    def run(self, typed: TypedModel, folder: Path) -> list[np.ndarray[Any, Any]]:
        path = self.context.store.fetch(typed.onnx, folder) / "model.onnx"
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs: list[np.ndarray[Any, Any]] = session.run(None, self.samples)
        return outputs


def in_children(model: Model) -> Model:
    """The same model, for tests that ask about the child processes."""
    return replace(model, context=StageContext(model.context.store, time_limit_s=120))


@pytest.fixture(scope="module")
def encoder(exported_encoder: SharedEncoder) -> Model:
    """Its calibration shards have different lengths."""
    made, samples = exported_encoder.made, {name: array[:4] for name, array in make_texts(6, 20).items()}
    return Model(exported_encoder.context, made.spec, made.exported, made.data, samples)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("cnn")
    context, directory = InProcess(LocalStore(root / "store")), write_directory(root, "cnn", export=TORCHSCRIPT)
    images = make_images()
    data = store_shards(context.store, [images])
    exported = export_onnx(context, directory, data).result
    return Model(context, directory.spec, exported, data, {name: array[:4] for name, array in images.items()})


@pytest.fixture
def perceptron(tmp_path: Path) -> Model:
    """Made by hand, since that is quicker than an export: features → Gemm → Relu → Gemm → score."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 5, name)
        for name, shape in (("w1", (24, 48)), ("b1", (48,)), ("w2", (48, 16)), ("b2", (16,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["score"]),
    ]
    return by_hand(tmp_path, nodes, weights)


def by_hand(root: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto]) -> Model:
    context = InProcess(LocalStore(root / "store"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 24])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 16])],
        weights,
    )
    with context.store.scratch() as folder:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "model.onnx")
        exported = ExportedModel(onnx=context.store.put(folder), opset=17, checks={})
    data = store_shards(context.store, [make_features()])
    return Model(context, write_directory(root, "mlp").spec, exported, data, make_features(4))


def test_fp32_is_the_exported_graph_byte_for_byte(perceptron: Model) -> None:
    typed = perceptron.convert(Precision.FP32)
    assert typed.onnx == perceptron.exported.onnx
    assert typed.recipe["converter"] == "none"


def test_fp16_stays_close_and_keeps_the_types_of_inputs_and_outputs(encoder: Model, tmp_path: Path) -> None:
    """The encoder is the one whose AutoCast result made ONNX Runtime crash while loading."""
    typed = in_children(encoder).convert(Precision.FP16)
    graph = encoder.graph(typed, tmp_path / "fp16")
    assert [value.type.tensor_type.elem_type for value in graph.output] == [TensorProto.FLOAT]
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}
    assert typed.recipe["converter"] in {"modelopt-autocast", "onnxconverter-float16"}
    assert ("instead_of" in typed.recipe) == (typed.recipe["converter"] == "onnxconverter-float16")
    exact = encoder.run(encoder.convert(Precision.FP32), tmp_path / "fp32")
    np.testing.assert_allclose(encoder.run(typed, tmp_path / "run")[0], exact[0], atol=5e-3)


def test_where_one_fp16_converter_fails_the_next_serves_and_the_recipe_says_why(
    perceptron: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(table.FP16[0], module="no_such_module")
    monkeypatch.setattr(table, "FP16", (broken, table.FP16[1]))
    recipe = perceptron.convert(Precision.FP16).recipe
    assert recipe["converter"] == "onnxconverter-float16"
    assert "no_such_module" in recipe["instead_of"]
    assert str(perceptron.context.store.root) not in str(recipe)  # type: ignore[attr-defined]


def test_a_graph_that_the_highest_level_breaks_is_kept_for_the_level_below_where_no_converter_does_better(
    perceptron: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = replace(table.FP16[0], name="missing", module="no_such_module")
    monkeypatch.setattr(table, "FP16", (missing, table.FP16[1]))
    levels = break_highest_level(monkeypatch, below="result")
    typed = perceptron.convert(Precision.FP16)
    assert levels == ["ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED"]
    assert typed.recipe["converter"] == "onnxconverter-float16"
    assert typed.recipe["loaded_at"].startswith(
        "loaded at ONNX Runtime's optimisation level `extended`; at the highest, "
    )
    assert "the layout optimiser fell over" in typed.recipe["loaded_at"]
    assert [file.path for file in typed.onnx.files] == ["model.onnx", "session.json"]
    open_session(perceptron.context.store.fetch(typed.onnx, tmp_path / "result") / "model.onnx")
    assert levels[2:] == ["ORT_ENABLE_EXTENDED"]


def pairs_before(graph: onnx.GraphProto, kinds: set[str]) -> list[bool]:
    """For each node of `kinds` with 16 or more channels: has its float weight a Q/DQ pair?"""
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type not in kinds:
            continue
        dequantize = producers.get(node.input[1])
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            quantize = producers[dequantize.input[0]]
            assert quantize.op_type == "QuantizeLinear"
            assert weights[quantize.input[0]].data_type == TensorProto.FLOAT
            zero_point = numpy_helper.to_array(weights[quantize.input[2]])
            assert zero_point.dtype == np.int8
            assert not zero_point.any(), "symmetric"
            found.append(True)
        elif node.input[1] in weights and min(weights[node.input[1]].dims[:2]) >= 16:
            found.append(False)
    return found


@pytest.mark.parametrize("method", [*QUICK, pytest.param(CalibrationMethod.ENTROPY, marks=LONG)])
def test_int8_puts_pairs_before_float_weights(encoder: Model, tmp_path: Path, method: CalibrationMethod) -> None:
    typed = encoder.convert(Precision.INT8, method)
    graph = encoder.graph(typed, tmp_path / "int8")
    found = pairs_before(graph, {"MatMul", "Gemm"})
    assert all(found)
    assert len(found) >= 6
    assert method.value in typed.recipe["parameters"]
    exact = encoder.run(encoder.convert(Precision.FP32), tmp_path / "fp32")
    np.testing.assert_allclose(encoder.run(typed, tmp_path / "run")[0], exact[0], atol=0.05)


def test_percentile_is_in_the_recipe(perceptron: Model) -> None:
    recipe = perceptron.convert(Precision.INT8, CalibrationMethod.PERCENTILE).recipe
    assert '"percentile": 99.999' in recipe["parameters"]
    assert recipe["quantized_nodes"] == "2"


def test_int8_quantizes_the_identity_branch_of_a_residual_block_and_leaves_the_fused_one(
    cnn: Model, tmp_path: Path
) -> None:
    graph = cnn.graph(cnn.convert(Precision.INT8, CalibrationMethod.ENTROPY), tmp_path / "int8")
    assert pairs_before(graph, {"Conv"}) == [True, True, True]
    producers = {name: node.op_type for node in graph.node for name in node.output}
    addition = next(node for node in graph.node if node.op_type == "Add")
    assert [producers[name] for name in addition.input] == ["Conv", "DequantizeLinear"]


def test_the_same_conversion_gives_the_same_bytes_and_a_second_call_does_no_work(
    perceptron: Model, tmp_path: Path
) -> None:
    """In child processes, where the order of a set is the same each time."""
    perceptron = in_children(perceptron)
    again = replace(perceptron, context=StageContext(LocalStore(tmp_path / "another")))
    for artifact in (perceptron.exported.onnx, perceptron.data.inputs):
        with again.context.store.scratch() as folder:
            perceptron.context.store.fetch(artifact, folder / "from")
            (folder / "to").mkdir()
            for path in (folder / "from").iterdir():
                (folder / "to" / path.name).write_bytes(path.read_bytes())
            again.context.store.put(folder / "to")
    spec = perceptron.spec
    first = convert_precision(perceptron.context, perceptron.exported, Precision.INT8, spec, perceptron.data)
    second = convert_precision(perceptron.context, perceptron.exported, Precision.INT8, spec, perceptron.data)
    elsewhere = convert_precision(again.context, perceptron.exported, Precision.INT8, spec, perceptron.data)
    assert (first.cached, second.cached, elsewhere.cached) == (False, True, False)
    assert first.result == second.result == elsewhere.result


def test_another_calibration_set_changes_int8_only(perceptron: Model) -> None:
    other = store_shards(perceptron.context.store, [make_features(seed=9)])
    for precision, cached in ((Precision.FP32, True), (Precision.INT8, False)):
        convert_precision(perceptron.context, perceptron.exported, precision, perceptron.spec, perceptron.data)
        found = convert_precision(perceptron.context, perceptron.exported, precision, perceptron.spec, other)
        assert found.cached is cached


def test_a_model_quantized_in_training_passes_int8_untouched(tmp_path: Path) -> None:
    weights = [
        numpy_helper.from_array(np.ones((24, 16), np.float32), "w"),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["features", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["score"]),
    ]
    model = by_hand(tmp_path, nodes, weights)
    typed = model.convert(Precision.INT8)
    assert typed.onnx == model.exported.onnx
    assert typed.recipe["converter"] == "none"
    assert "quantized in training" in typed.recipe["reason"]


def test_int8_of_large_weights_keeps_them_in_a_file_of_their_own(
    perceptron: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL_DATA_BYTES", 1024)
    typed = perceptron.convert(Precision.INT8)
    assert [file.path for file in typed.onnx.files] == ["model.onnx", "model.onnx.data"]
    assert perceptron.run(typed, tmp_path / "run")[0].shape == (4, 16)


def test_a_graph_without_weights_to_quantize_is_told_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Slice", ["features", "starts", "ends", "axes"], ["score"])]
    weights = [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("starts", 0), ("ends", 16), ("axes", 1))
    ]
    with pytest.raises(StageError, match=r"(?s)method minmax failed\..*there is nothing to quantize; drop int8") as e:
        by_hand(tmp_path, nodes, weights).convert(Precision.INT8)
    assert "nothing to quantize" in str(e.value)


def test_int8_without_a_calibration_set_is_bad_input(perceptron: Model) -> None:
    with pytest.raises(InputError, match="calibration: missing"):
        convert_precision(perceptron.context, perceptron.exported, Precision.INT8, perceptron.spec, None)


def test_external_data_outside_the_model_is_refused_before_any_converter_runs(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones((24, 16), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    model = by_hand(tmp_path, [helper.make_node("MatMul", ["features", "w"], ["score"])], [tensor])
    with pytest.raises(InputError, match="outside the model's folder"):
        model.convert(Precision.FP16)


def ranges_of(model: Model, folder: Path, shards: list[Arrays], method: CalibrationMethod) -> dict[str, list[float]]:
    """Ranges that the calibrators find for the two activations of the perceptron."""
    samples = folder / "samples"
    samples.mkdir(parents=True)
    for number, shard in enumerate(shards):
        save_shard(samples, number, shard)
    request = ConvertRequest(
        onnx=folder,
        output=folder,
        spec=model.spec,
        external_bytes=1 << 30,
        samples=samples,
        method=method,
    )
    path = model.context.store.fetch(model.exported.onnx, folder / "onnx") / "model.onnx"
    reader = CalibrationReader(request, lambda _done, _total: None)
    found = find_ranges(path, ("features", "r"), method, reader)
    return {name: [np.asarray(end).item() for end in data.range_value] for name, data in found.items()}


@pytest.mark.parametrize("method", METHODS[1:])
def test_ranges_do_not_depend_on_the_order_of_the_samples(
    perceptron: Model, tmp_path: Path, method: CalibrationMethod
) -> None:
    shards = [make_features(40, seed=1), {"features": make_features(9, seed=2)["features"] * 30}]
    forward = ranges_of(perceptron, tmp_path / "a", shards, method)
    backward = ranges_of(perceptron, tmp_path / "b", shards[::-1], method)
    # Batches of another make-up may round a sum of the matrix product differently in its last bit.
    for name, found in forward.items():
        assert found == pytest.approx(backward[name], rel=1e-5)


def test_minmax_and_percentile_ranges_are_those_that_numpy_finds(perceptron: Model, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    shards = [{"features": generator.uniform(-1, 2, (rows, 24)).astype(np.float32)} for rows in (3000, 1000)]
    values = np.concatenate([shard["features"].ravel() for shard in shards])
    extremes = ranges_of(perceptron, tmp_path / "a", shards, CalibrationMethod.MINMAX)["features"]
    assert extremes == [values.min(), values.max()]
    cut = ranges_of(perceptron, tmp_path / "b", shards, CalibrationMethod.PERCENTILE)["features"]
    bin_width = 2 * np.abs(values).max() / 2048
    spare = (100 - 99.999) / 2
    np.testing.assert_allclose(cut, np.percentile(values, [spare, 100 - spare]), atol=2 * bin_width)


def test_a_transposed_weight_is_folded_so_that_it_can_be_quantized() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(np.arange(16 * 24, dtype=np.float32).reshape(16, 24), "w")],
    )
    model = helper.make_model(graph)
    fold_transposed_weights(model)
    name_nodes(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert [(tensor.name, list(tensor.dims)) for tensor in model.graph.initializer] == [("wt", [24, 16])]
    assert find_quantizable(model).activations == ("x",)


def test_a_converter_says_its_versions_and_parameters() -> None:
    described = Converter("name", "module", ("onnx",), {"bins": 2}).describe()
    assert described == {"converter": "name", "version": f"onnx {onnx.__version__}", "parameters": '{"bins": 2}'}


def test_int8_says_its_method_and_what_it_was_calibrated_on(perceptron: Model) -> None:
    recipe = perceptron.convert(Precision.INT8).recipe
    assert recipe["calibration"] == perceptron.data.inputs.digest
    assert recipe["method"] == "minmax"
    assert "excluded" not in recipe
    assert "calibration" not in perceptron.convert(Precision.FP32).recipe


def test_another_method_or_another_layer_left_out_is_another_conversion(perceptron: Model) -> None:
    assert not perceptron.remembered(Precision.INT8).cached
    assert not perceptron.remembered(Precision.INT8, CalibrationMethod.PERCENTILE).cached
    assert not perceptron.remembered(Precision.INT8, exclude=("Gemm_2",)).cached
    assert perceptron.remembered(Precision.INT8, exclude=("Gemm_2", "Gemm_2")).cached
    assert perceptron.remembered(Precision.INT8).cached


@pytest.fixture
def twins(tmp_path: Path) -> Model:
    """Two layers that read one activation: features → Gemm, and features → Gemm, added to a score."""
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.standard_normal((24, 16)).astype(np.float32), n) for n in ("v", "w")]
    nodes = [
        helper.make_node("Gemm", ["features", "v"], ["a"], name="layer"),
        helper.make_node("Gemm", ["features", "w"], ["b"], name="layer.2"),
        helper.make_node("Add", ["a", "b"], ["score"], name="sum"),
    ]
    return by_hand(tmp_path, nodes, weights)


@pytest.mark.parametrize("method", [CalibrationMethod.MAX, CalibrationMethod.MINMAX])
def test_a_layer_that_is_left_out_reads_floats_where_its_twin_reads_them_quantized(
    twins: Model, tmp_path: Path, method: CalibrationMethod
) -> None:
    """One name is the start of the other, which ModelOpt would take for a pattern."""
    typed = twins.convert(Precision.INT8, method, ("layer",))
    graph = twins.graph(typed, tmp_path / "int8")
    producers = {name: node.op_type for node in graph.node for name in node.output}
    inputs = {node.name: list(node.input) for node in graph.node}
    assert inputs["layer"][:2] == ["features", "v"]
    assert [producers[name] for name in inputs["layer.2"][:2]] == ["DequantizeLinear"] * 2
    assert typed.recipe["excluded"] == '["layer"]'


def test_the_addition_of_a_convolution_that_is_left_out_reads_floats(cnn: Model, tmp_path: Path) -> None:
    full = cnn.graph(cnn.convert(Precision.INT8), tmp_path / "full")
    addition = next(node for node in full.node if node.op_type == "Add")
    fused = next(node for node in full.node if node.op_type == "Conv" and node.output[0] in addition.input)
    graph = cnn.graph(cnn.convert(Precision.INT8, exclude=(fused.name,)), tmp_path / "part")
    assert pairs_before(graph, {"Conv"}) == [True, True, False]
    producers = {name: node.op_type for node in graph.node for name in node.output}
    addition = next(node for node in graph.node if node.op_type == "Add")
    assert [producers[name] for name in addition.input] == ["Conv", "Relu"]
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert all(read.intersection(node.output) for node in graph.node), "no pair is left that nobody reads"


@pytest.mark.parametrize("method", [CalibrationMethod.MINMAX, pytest.param(CalibrationMethod.MAX, marks=LONG)])
def test_names_to_leave_out_that_are_not_there_are_named(perceptron: Model, method: CalibrationMethod) -> None:
    with pytest.raises(StageError, match=r"2 of the 3 nodes to leave out \(Relu_1, nobody\) are none of the 2"):
        perceptron.convert(Precision.INT8, method, ("Gemm_0", "nobody", "Relu_1"))


def test_not_all_layers_can_be_left_out(perceptron: Model) -> None:
    with pytest.raises(StageError, match="all 2 layers are left out"):
        perceptron.convert(Precision.INT8, exclude=("Gemm_0", "Gemm_2"))


def test_only_int8_can_leave_layers_out(perceptron: Model) -> None:
    with pytest.raises(StageError, match="layers are left out of int8 alone, not of fp16"):
        perceptron.convert(Precision.FP16, exclude=("Gemm_0",))


def judged_as_tensor(model: Model, data: DataArtifact | None = None) -> Model:
    spec = model.spec.model_copy(update={"outputs": {"score": OutputDeclaration.model_validate({"kind": "tensor"})}})
    return replace(model, spec=spec, data=data or model.data)


def quick_trials(monkeypatch: pytest.MonkeyPatch, *broken: CalibrationMethod) -> None:
    """Try `percentile` and `minmax` only; the converters of `broken` do not exist."""
    monkeypatch.setattr(table, "METHODS", (CalibrationMethod.PERCENTILE, CalibrationMethod.MINMAX))
    real = table.int8_converter

    def converter(method: CalibrationMethod) -> Converter:
        return replace(real(method), module="no_such_module") if method in broken else real(method)

    monkeypatch.setattr(convert, "int8_converter", converter)


def loss_on(model: Model, typed: TypedModel, samples: Arrays) -> Loss:
    with model.context.store.scratch() as folder:
        (folder / "samples").mkdir()
        save_shard(folder / "samples", 0, samples)
        request = LossRequest(
            exported=model.context.store.fetch(model.exported.onnx, folder / "exported") / "model.onnx",
            quantized=model.context.store.fetch(typed.onnx, folder / "typed") / "model.onnx",
            samples=folder / "samples",
            spec=model.spec,
        )
        return loss_in_child(request.model_dump(mode="json"), lambda _done, _total: None)


def test_auto_quantizes_the_whole_set_with_the_method_whose_trial_had_the_smallest_loss(
    perceptron: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On these samples that is the second method."""
    quick_trials(monkeypatch)
    data = store_shards(perceptron.context.store, [make_features(200, seed=2)])
    steps: list[tuple[int, int]] = []
    model = judged_as_tensor(perceptron, data)
    model = replace(model, context=replace(model.context, on_progress=lambda done, total: steps.append((done, total))))
    typed = model.convert(Precision.INT8, AUTO)
    trials, means = (json.loads(typed.recipe[name]) for name in ("trials", "trials_mean_loss"))
    assert list(trials) == list(means) == ["percentile", "minmax"]
    assert 0 < trials["minmax"] < trials["percentile"]
    assert typed.recipe["method"] == "minmax"
    assert typed.onnx == model.convert(Precision.INT8, CalibrationMethod.MINMAX).onnx
    auto_steps = steps[: steps.index((300, 300)) + 1]
    assert auto_steps == sorted(auto_steps)


def test_auto_does_not_calibrate_its_trials_on_what_it_holds_back(
    perceptron: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_trials(monkeypatch, CalibrationMethod.PERCENTILE)
    features = make_features(40)["features"]
    features[3::4] *= 1000
    model = judged_as_tensor(perceptron, store_shards(perceptron.context.store, [{"features": features}]))
    typed = model.convert(Precision.INT8, AUTO)
    tried = json.loads(typed.recipe["trials"])["minmax"]
    assert tried > 5, "the trial clipped nearly all"
    assert (loss_on(model, typed, {"features": features[3::4]}).loss or 0.0) < 1


def test_a_method_that_fails_is_a_trial_with_its_reason(perceptron: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_trials(monkeypatch, CalibrationMethod.PERCENTILE)
    recipe = judged_as_tensor(in_children(perceptron)).convert(Precision.INT8, AUTO).recipe
    trials = json.loads(recipe["trials"])
    assert recipe["method"] == "minmax"
    assert "no_such_module" in trials["percentile"]
    assert isinstance(trials["minmax"], float)
    assert list(json.loads(recipe["trials_mean_loss"])) == ["minmax"]
    assert str(perceptron.context.store.root) not in str(recipe)  # type: ignore[attr-defined]


def test_where_every_method_fails_every_cause_is_told(perceptron: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_trials(monkeypatch, CalibrationMethod.PERCENTILE, CalibrationMethod.MINMAX)
    with pytest.raises(StageError, match=r"method auto failed(?s:.*)\(1\) percentile(?s:.*)\(2\) minmax"):
        judged_as_tensor(perceptron).convert(Precision.INT8, AUTO)


def test_auto_tries_max_first_where_modelopt_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [converter.name for converter in converters_for(Precision.INT8, AUTO)]
    assert names == ["modelopt-int8"] + ["onnxruntime-int8"] * 3
    monkeypatch.setattr(table, "_MODELOPT", ("no-such-package",))
    assert [converter.name for converter in converters_for(Precision.INT8, AUTO)] == ["onnxruntime-int8"] * 3


# Every shape that dims promise

# The last ten frames and the last twenty, of clips that may have fewer. What torch's exporter says of their number is
# what it would be of long ones.
ENDS = """
    <int64[1] ten = {-10}, int64[1] twenty = {-20}, int64[1] end = {1000}, int64[1] one = {1}>
    {
        late = Slice(wave, ten, end, one)  loud = Tanh(late)  gate = ReduceMax<keepdims=1>(loud, one)
        last = Slice(wave, twenty, end, one)  open = Add(last, gate)  shut = Tanh(open)
        score = ReduceMax<keepdims=0>(shut, one)
    }
"""
LENGTHS = (5, 8, 10, 11, 12, 20, 21, 60)


@pytest.fixture
def clips(tmp_path: Path) -> Model:
    """A model whose validation clips are all of 8 frames, where dims promise 5 to 60."""
    context = InProcess(LocalStore(tmp_path / "store"))
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[batch,time] wave) => (float[batch] score) {ENDS}'
    )
    for name, frames in (("late", 10), ("loud", 10), ("last", 20), ("open", 20), ("shut", 20)):
        said = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", frames])
        model.graph.value_info.append(said)
    with context.store.scratch() as folder:
        onnx.save(model, folder / "model.onnx")
        exported = ExportedModel(onnx=context.store.put(folder), opset=20, checks={})
    samples = {"wave": np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)}
    spec = tiny_spec(
        inputs={"wave": {"dtype": "float32", "shape": ["batch", "time"]}},
        dims={"batch": {"min": 1, "opt": 4, "max": 8}, "time": {"min": 5, "opt": 8, "max": 60}},
    )
    return Model(context, spec, exported, store_shards(context.store, [samples]), samples)


def at_lengths(model: Model, typed: TypedModel, folder: Path) -> list[np.ndarray[Any, Any]]:
    waves = [np.random.default_rng(length).standard_normal((3, length)).astype(np.float32) for length in LENGTHS]
    return [replace(model, samples={"wave": wave}).run(typed, folder / f"{n}")[0] for n, wave in enumerate(waves)]


def test_an_fp16_graph_runs_at_lengths_that_no_validation_sample_has(clips: Model, tmp_path: Path) -> None:
    """AutoCast gives all extents that it cannot infer one symbol, and ONNX Runtime takes these for equal."""
    typed = clips.convert(Precision.FP16)
    assert typed.recipe["converter"] == "modelopt-autocast"
    inner = clips.graph(typed, tmp_path / "graph").value_info
    symbols = [extent.dim_param for value in inner for extent in value.type.tensor_type.shape.dim]
    assert "unk" not in symbols
    exact = at_lengths(clips, clips.convert(Precision.FP32), tmp_path / "exact")
    np.testing.assert_allclose(at_lengths(clips, typed, tmp_path / "half"), exact, atol=5e-3)


def test_where_the_first_fp16_graph_holds_at_opt_alone_the_fallback_takes_over_and_the_recipe_says_so(
    clips: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(raw: dict[str, Any], _progress: object) -> dict[str, str]:
        request = ConvertRequest.model_validate(raw)
        model = onnx.load(request.onnx)
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 8]), "eight"))
        model.graph.node.insert(0, helper.make_node("Reshape", ["wave", "eight"], ["fixed"]))
        for node in model.graph.node[1:]:
            node.input[:] = ["fixed" if name == "wave" else name for name in node.input]
        del model.graph.value_info[:]
        onnx_files.write_model(model, request.output)
        return {}

    monkeypatch.setitem(sys.modules, "tasks.quantization.fixed", SimpleNamespace(convert=fixed))
    monkeypatch.setattr(table, "FP16", (replace(table.FP16[0], module="fixed"), table.FP16[1]))
    typed = clips.convert(Precision.FP16)
    assert typed.recipe["converter"] == "onnxconverter-float16"
    assert typed.recipe["instead_of"].startswith("modelopt-autocast: ")
    assert "at batch=1,time=5, " in typed.recipe["instead_of"]
    assert len(at_lengths(clips, typed, tmp_path / "half")) == len(LENGTHS)


def root_of_squares(folder: Path) -> Model:
    """The root of a mean of squares: noise has none that are large, these samples have."""
    nodes = [
        helper.make_node("Mul", ["features", "features"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"]),
        helper.make_node("Div", ["features", "root"], ["normal"]),
        helper.make_node("MatMul", ["normal", "w"], ["score"]),
    ]
    model = by_hand(folder, nodes, [numpy_helper.from_array(np.ones((24, 16), np.float32), "w")])
    loud = {"features": 600 * make_features()["features"]}
    return replace(model, data=store_shards(model.context.store, [loud]), samples=loud)


def test_fp8_keeps_in_fp32_what_overflows_on_samples_of_the_calibration_set(tmp_path: Path) -> None:
    model = root_of_squares(tmp_path)
    exact = model.run(model.convert(Precision.FP32), tmp_path / "exact")[0]
    typed = model.convert(Precision.FP8, CalibrationMethod.MAX)
    eight = onnx.load(model.context.store.fetch(typed.onnx, tmp_path / "eight") / "model.onnx")
    assert as_cpu_runs(eight)
    session = ort.InferenceSession(eight.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, model.samples)[0], exact, atol=0.5)


def test_fp16_keeps_in_fp32_what_overflows_on_samples_of_the_validation_data(tmp_path: Path) -> None:
    model = root_of_squares(tmp_path)
    seen = convert_precision(model.context, model.exported, Precision.FP16, model.spec, None, data=model.data)
    blind = convert_precision(model.context, model.exported, Precision.FP16, model.spec, None)
    assert not blind.cached
    exact = model.run(model.convert(Precision.FP32), tmp_path / "exact")[0]
    for typed, holds in ((seen.result, True), (blind.result, False)):
        half = onnx.load(model.context.store.fetch(typed.onnx, tmp_path / f"{holds}") / "model.onnx")
        assert keep_half_rounding(half)
        session = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.allclose(session.run(None, model.samples)[0], exact, atol=0.05) is holds


def test_fp16_does_not_change_with_the_calibration_set(clips: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FP16", table.FP16[1:])
    other = store_shards(clips.context.store, [{"wave": np.ones((9, 8), np.float32)}])
    for calibration, cached in ((clips.data, False), (other, True), (None, True)):
        found = convert_precision(
            clips.context, clips.exported, Precision.FP16, clips.spec, calibration, data=clips.data
        )
        assert found.cached is cached
