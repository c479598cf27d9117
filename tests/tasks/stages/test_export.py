from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file

from tasks.declared import Dim, InputSpec
from tasks.errors import InputError, StageError
from tasks.graphs import onnx_files
from tasks.process.child import ChildFailedError
from tasks.process.context import StageContext
from tasks.samples.shapes import check_shapes, seeded_feeds, trace_extents
from tasks.stages import export
from tasks.stages.export import export_onnx
from tasks.store.local import LocalStore
from tasks.torch_side.interface import ExportReply, ExportRequest
from tasks.torch_side.module_source import call_with_module, lay_out, module_key
from tasks.torch_side.torch_module import load_module, run_module
from tests.tasks.in_process import InProcess, forgotten_imports
from tests.tasks.models import encoder, mlp
from tests.tasks.models.children import Nothing
from tests.tasks.models.directories import write_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.model.model_directory import ModelDirectory
    from tasks.records import ExportedModel
    from tasks.store.stage_cache import StageResult
    from tests.tasks.stages.conftest import SharedEncoder

CHILDREN = "tests.tasks.models.children"
TORCHSCRIPT = {"exporter": "torchscript", "opset": 17}  # also traces in a fraction of dynamo's time


@pytest.fixture
def clean_imports(tmp_path: Path) -> Iterator[None]:
    """Let a test load user code in this process, and forget it afterwards."""
    with forgotten_imports(tmp_path):
        yield


def graph_of(context: StageContext, exported: ExportedModel, folder: Path) -> onnx.GraphProto:
    return onnx.load(context.store.fetch(exported.onnx, folder) / "model.onnx").graph


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@dataclass(frozen=True)
class Exported:
    """One export of the perceptron, which several tests look at."""

    root: Path
    context: StageContext
    directory: ModelDirectory
    found: StageResult[ExportedModel]


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("perceptron")
    context = StageContext(LocalStore(root / "store"), time_limit_s=120)
    directory = write_directory(root, "mlp", build="build_talkative", weights=mlp.build().state_dict())
    return Exported(root, context, directory, export_onnx(context, directory))


def test_a_perceptron_is_exported_right_at_every_shape(perceptron: Exported, tmp_path: Path) -> None:
    found = perceptron.found.result
    assert list(found.checks) == ["batch=1", "batch=4", "batch=9", "batch=5"]
    assert max(found.checks.values()) < 1e-5
    assert found.recipe["simplifier"].startswith("onnxslim")
    graph = graph_of(perceptron.context, found, tmp_path)
    assert [(value.name, axes(value)) for value in graph.input] == [("features", ["batch", 24])]
    assert {value.name: axes(value) for value in graph.output} == {"score": ["batch"], "traits": ["batch", 3]}


def test_the_graph_holds_no_trace_of_this_host(perceptron: Exported, tmp_path: Path) -> None:
    graph_of(perceptron.context, perceptron.found.result, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    for trace in (str(perceptron.root), str(Path.home()), str(Path.cwd()), "site-packages", "mlp.py"):
        assert trace.encode() not in content


def test_the_same_model_gives_the_same_bytes_in_another_store(perceptron: Exported, tmp_path: Path) -> None:
    again = export_onnx(StageContext(LocalStore(tmp_path)), perceptron.directory)
    assert not again.cached
    assert again.result.onnx == perceptron.found.result.onnx


def test_a_second_call_does_no_work(perceptron: Exported) -> None:
    assert not perceptron.found.cached
    assert export_onnx(perceptron.context, perceptron.directory).cached


def test_one_changed_weight_is_another_key(perceptron: Exported, tmp_path: Path) -> None:
    assert perceptron.directory.weights is not None
    state = load_file(perceptron.directory.weights)
    (tmp_path / "same").mkdir()
    same = write_directory(tmp_path / "same", "mlp", build="build_talkative", weights=state)
    state["score.bias"] += 1e-3
    changed = write_directory(tmp_path, "mlp", build="build_talkative", weights=state)
    assert module_key(same) == module_key(perceptron.directory)
    assert module_key(changed) != module_key(perceptron.directory)


def test_an_encoder_keeps_its_dynamic_sequence(tmp_path: Path, exported_encoder: SharedEncoder) -> None:
    found = exported_encoder.made.exported
    assert list(found.checks) == [
        "batch=1,sequence=4",
        "batch=4,sequence=16",
        "batch=8,sequence=40",
        "batch=5,sequence=23",
        "batch=1,sequence=16",
        "batch=8,sequence=16",
        "batch=4,sequence=4",
        "batch=4,sequence=40",
    ]
    assert max(found.checks.values()) < 1e-5
    graph = graph_of(exported_encoder.context, found, tmp_path / "out")
    assert [(value.name, axes(value)) for value in graph.input] == [
        ("input_ids", ["batch", "sequence"]),
        ("attention_mask", ["batch", "sequence"]),
    ]


def test_a_dimension_with_one_extent_becomes_a_constant_of_the_graph(tmp_path: Path, here: InProcess) -> None:
    found = export_onnx(here, write_directory(tmp_path, "cnn")).result
    graph = graph_of(here, found, tmp_path / "out")
    assert axes(graph.input[0]) == ["batch", 3, 20, 20]
    assert axes(graph.output[0]) == ["batch", 10]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_the_torchscript_exporter_serves_where_asked_for(tmp_path: Path, here: InProcess) -> None:
    directory = write_directory(tmp_path, "mlp", export=TORCHSCRIPT)
    found = export_onnx(here, directory).result
    assert found.opset == 17
    assert max(found.checks.values()) < 1e-5
    graph = graph_of(here, found, tmp_path / "out")
    assert {value.name: axes(value) for value in graph.output} == {"score": ["batch"], "traits": ["batch", 3]}


def test_a_sequence_length_baked_in_by_the_tracer_is_caught(tmp_path: Path, here: InProcess) -> None:
    directory = write_directory(tmp_path, "encoder", export=TORCHSCRIPT)
    with pytest.raises(StageError, match=r"output score: .*sequence=4.*") as caught:
        export_onnx(here, directory)
    assert "exporter: dynamo" in str(caught.value)
    assert not list((tmp_path / "store").glob("records/export/*"))


def test_large_weights_get_a_file_of_their_own(
    tmp_path: Path, here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "EXTERNAL_DATA_BYTES", 4096)
    found = export_onnx(here, write_directory(tmp_path, "mlp", export=TORCHSCRIPT)).result
    assert [file.path for file in found.onnx.files] == ["model.onnx", "model.onnx.data"]
    folder = here.store.fetch(found.onnx, tmp_path / "out")
    ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    graph = onnx_files.read_model(onnx_files.fetched_model(folder)).graph
    assert max(len(tensor.raw_data) for tensor in graph.initializer) > 4096


def test_a_simplified_graph_that_fails_its_check_gives_way_to_the_plain_one(
    perceptron: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_bench: StageContext, _request: ExportRequest, kind: str) -> dict[str, float]:
        if kind == export.SIMPLIFIED:
            raise StageError(f"export: output score: differs, see {tmp_path}/x")
        return {"batch=1": 0.0}

    monkeypatch.setattr(export, "_check", check)
    context = perceptron.context
    with context.store.scratch() as folder:
        for kind in (export.PLAIN, export.SIMPLIFIED):
            (folder / kind).mkdir()
            (folder / kind / "model.onnx").write_text(kind)
        request = ExportRequest(
            module=lay_out(perceptron.directory, folder, module_key(perceptron.directory)),
            samples=None,
            output=folder,
            external_bytes=1 << 20,
        )
        reply = ExportReply(simplify_failure="", dynamic_dims="named", opset=20, exporter="dynamo")
        found = export._checked(context, request, reply)  # noqa: SLF001 - a simplifier that errs cannot be had to order
    assert found.onnx.size_bytes == len(export.PLAIN)
    assert found.recipe["simplifier"].startswith("none: the result of onnxslim")
    assert str(tmp_path) not in found.recipe["simplifier"]


def test_a_source_that_kills_its_process_is_bad_input(tmp_path: Path, context: StageContext) -> None:
    with pytest.raises(InputError, match=r"model.yaml: source: broken.py:dies .*exited with code 7"):
        export_onnx(context, write_directory(tmp_path, "broken", build="dies"))


def call(context: StageContext, folder: Path, entry: str, time_limit_s: float = 60) -> Nothing:
    limited = replace(context, time_limit_s=time_limit_s)
    return call_with_module(limited, f"{CHILDREN}:{entry}", Nothing(), Nothing, folder, source="model.py:build")


def test_a_source_that_dies_or_hangs_while_it_loads_is_blamed(tmp_path: Path, context: StageContext) -> None:
    with pytest.raises(InputError, match=r"source: model.py:build .*exited with code 7"):
        call(context, tmp_path, "die_while_loading")
    with pytest.raises(InputError, match=r"source: model.py:build .*did not end within 2 s"):
        call(context, tmp_path, "hang_while_loading", time_limit_s=2)


@pytest.mark.parametrize("entry", ["die_before_loading", "die_after_loading"])
def test_a_child_that_dies_at_other_times_is_not_the_sources_fault(
    tmp_path: Path, context: StageContext, entry: str
) -> None:
    with pytest.raises(ChildFailedError):
        call(context, tmp_path, entry)


def load(directory: ModelDirectory, folder: Path) -> torch.nn.Module:
    """The module, which ran once."""
    request = lay_out(directory, folder, module_key(directory))
    module = load_module(request)
    feeds = seeded_feeds(request.spec.inputs, {"batch": 4, "sequence": 6})
    run_module(module, request, feeds, "batch=4")
    return module.module


@pytest.mark.usefixtures("clean_imports")
class TestLoading:
    def test_every_wrong_weight_is_named_in_one_message(self, tmp_path: Path) -> None:
        state = mlp.build().state_dict()
        del state["score.bias"]
        state["first.weight"] = state["first.weight"][:40].clone()
        state["pooler.weight"] = torch.zeros(2, 2)
        with pytest.raises(InputError) as caught:
            load(write_directory(tmp_path, "mlp", weights=state), tmp_path / "laid")
        message = str(caught.value)
        assert "missing: score.bias [1]" in message
        assert "unexpected: pooler.weight [2, 2]" in message
        assert "misshapen: first.weight [40, 24], the module has [48, 24]" in message

    def test_weights_in_no_safetensors_format_are_refused(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "mlp", weights=mlp.build().state_dict())
        torch.save(mlp.build().state_dict(), tmp_path / "model" / "weights.safetensors")
        with pytest.raises(InputError, match=r"weights.safetensors is no safetensors file"):
            load(directory, tmp_path / "laid")

    def test_a_pickle_is_refused_by_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"weights: weights.pt is not .safetensors"):
            write_directory(tmp_path, "mlp", weights="weights.pt")

    def test_weights_in_half_precision_are_widened(self, tmp_path: Path) -> None:
        state = {name: tensor.half() for name, tensor in mlp.build().state_dict().items()}
        directory = write_directory(tmp_path, "mlp", weights=state)
        module = load_module(lay_out(directory, tmp_path / "laid", module_key(directory)))
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            ("raises", r"broken.py:raises raised ValueError: no such checkpoint \(broken.py, line 23\)"),
            ("leaves", r"broken.py:leaves raised SystemExit: 3 \(broken.py, line 27\)"),
            ("build_text", "returned str, not a torch.nn.Module"),
            ("build_doublr", "has no callable 'build_doublr'; did you mean 'build_doubler'"),
        ],
    )
    def test_a_source_that_gives_no_module_is_bad_input(self, tmp_path: Path, build: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load(write_directory(tmp_path, "broken", build=build), tmp_path / "laid")

    def test_a_source_that_is_no_python_is_bad_input(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "mlp")
        (tmp_path / "model" / "mlp.py").write_text("def build(:\n")
        with pytest.raises(InputError, match=r"mlp.py raised SyntaxError: .*\(mlp.py, line 1\)"):
            load(directory, tmp_path / "laid")

    def test_a_source_may_import_what_lies_beside_it(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "mlp")
        (tmp_path / "model" / "layers_beside.py").write_text((tmp_path / "model" / "mlp.py").read_text())
        (tmp_path / "model" / "mlp.py").write_text("from layers_beside import build\n")
        assert type(load(directory, tmp_path / "laid")).__module__ == "layers_beside"

    def test_an_input_that_forward_does_not_take_is_named_with_the_nearest(self, tmp_path: Path) -> None:
        inputs = {"feature": {"dtype": "float32", "shape": ["batch", 24]}}
        with pytest.raises(InputError, match=r"inputs.feature: .*takes no 'feature'; did you mean 'features'"):
            load(write_directory(tmp_path, "mlp", inputs=inputs), tmp_path / "laid")

    def test_an_input_that_forward_needs_must_be_declared(self, tmp_path: Path) -> None:
        inputs = {"input_ids": {"dtype": "int64", "shape": ["batch", "sequence"]}}
        with pytest.raises(InputError, match="also needs attention_mask"):
            load(write_directory(tmp_path, "encoder", inputs=inputs), tmp_path / "laid")

    def test_an_output_that_the_module_does_not_return_is_bad_input(self, tmp_path: Path) -> None:
        outputs = {"score": {"kind": "score", "range": [0, 1]}, "grade": {"kind": "tensor"}}
        with pytest.raises(
            InputError, match=r"outputs.grade: the module returns nothing of that name, but traits .*, score"
        ):
            load(write_directory(tmp_path, "mlp", outputs=outputs), tmp_path / "laid")

    def test_a_module_that_fails_at_a_shape_within_dims_is_told_so(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "broken", build="build_doubler")
        request = lay_out(directory, tmp_path / "laid", module_key(directory))
        feeds = seeded_feeds(request.spec.inputs, {"batch": 9})
        with pytest.raises(InputError, match=r"at most five rows \(broken.py, line 13\) on inputs of batch=9.*dims"):
            run_module(load_module(request), request, feeds, "batch=9")

    def test_a_module_without_weights_is_the_same_each_time(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "mlp")
        key = module_key(directory)
        one, two = (load_module(lay_out(directory, tmp_path / name, key)).state_dict() for name in ("a", "b"))
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_tied_weights_may_be_stored_once(self, tmp_path: Path) -> None:
        directory = write_directory(tmp_path, "encoder", weights=encoder.build().state_dict())
        source = tmp_path / "model" / "encoder.py"
        source.write_text(
            source.read_text().replace(
                "    return Encoder()", "    m = Encoder()\n    m.twin = m.head.weight\n    return m"
            )
        )
        module = load(directory, tmp_path / "laid")
        assert module.twin is module.head.weight


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    directory = write_directory(tmp_path, "mlp")
    key = module_key(directory)
    with (tmp_path / "model" / "mlp.py").open("a") as stream:
        stream.write("# changed\n")
    with pytest.raises(InputError, match=r"mlp.py: changed while it was read"):
        lay_out(directory, tmp_path / "laid", key)


def test_check_shapes_cover_the_extremes_of_every_dimension_once() -> None:
    dims = {"batch": Dim(min=1, opt=1, max=1), "frames": Dim(min=100, opt=300, max=600)}
    assert check_shapes(dims) == [
        {"batch": 1, "frames": 100},
        {"batch": 1, "frames": 300},
        {"batch": 1, "frames": 600},
        {"batch": 1, "frames": 351},
    ]


def test_trace_extents_differ_from_each_other_and_from_one() -> None:
    dims = {"batch": Dim(min=1, opt=1, max=8), "a": Dim(min=2, opt=16, max=16), "b": Dim(min=4, opt=16, max=64)}
    assert trace_extents(dims) == {"batch": 2, "a": 16, "b": 17}


def test_seeded_inputs_lie_in_every_vocabulary_and_leave_no_row_masked() -> None:
    feeds = seeded_feeds({"mask": InputSpec(dtype="int64", shape=("batch", "sequence"))}, {"batch": 50, "sequence": 3})
    assert set(np.unique(feeds["mask"])) == {0, 1}
    assert feeds["mask"].dtype == np.int64
    assert feeds["mask"].any(axis=1).all()


def write_external(folder: Path, location: str) -> Path:
    folder.mkdir(exist_ok=True)
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    path = folder / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "sub/../../weights.data", "linked.data"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.data").write_bytes(bytes(16))
    path = write_external(tmp_path / "model", location)
    (tmp_path / "model" / "linked.data").symlink_to(tmp_path / "weights.data")
    with pytest.raises(InputError, match="tensor 'w' keeps its data at"):
        onnx_files.check_external_data(path)


def test_external_data_in_the_folder_is_taken_and_must_be_there(tmp_path: Path) -> None:
    path = write_external(tmp_path / "model", "weights.data")
    with pytest.raises(InputError, match="is missing"):
        onnx_files.check_external_data(path)
    (path.parent / "weights.data").write_bytes(bytes(16))
    onnx_files.check_external_data(path)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff not a model")
    with pytest.raises(InputError, match="cannot be read as ONNX"):
        onnx_files.check_external_data(path)
