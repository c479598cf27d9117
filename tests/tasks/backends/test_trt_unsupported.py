from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest

from tasks.backends.trt_build import build_plans
from tasks.errors import InputError
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.test_trt_build import make_job
from tests.tasks.tiny import WEIGHTS, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

# Nodes 1 and 3 are of no TensorRT; node 2 is, but not with what it gets here.
BODY = "a = Mul(features, w)  b = Sigmund(a)  c = Relu(b)  d = Freud(c)  score = ReduceSum<keepdims=0>(d, one)"
REASONS = {"Sigmund": "No importer registered\n  for op: Sigmund", "Freud": "Plugin not found: Freud"}


class Parser:
    """Gives a release a parser that takes no node of REASONS, nor those whose numbers are given.

    TensorRT 8.6 stops at the first such node; later ones go through all of them before they parse.
    """

    def __init__(self, fake: FakeTensorrt, *numbers: int, stops: bool) -> None:
        self.fake, self.numbers, self.stops = fake, numbers, stops
        self.models: list[tuple[onnx.ModelProto, str | None]] = []
        fake.on("OnnxParser.parse_from_file", lambda parser, path: self._parse(parser, onnx.load(path)))
        fake.on("OnnxParser.parse", self._parse_bytes)
        fake.on("OnnxParser.num_errors", lambda parser: len(state_of(parser).get("errors", [])))
        fake.on("OnnxParser.get_error", lambda parser, index: state_of(parser)["errors"][index])
        if "OnnxParser.supports_model_v2" in fake.overloads:
            fake.on("OnnxParser.supports_model_v2", self._v2)
            fake.on("OnnxParser.num_subgraphs", lambda parser: len(state_of(parser)["parts"]))
            fake.on("OnnxParser.get_subgraph_nodes", lambda parser, index: state_of(parser)["parts"][index][0])
            fake.on("OnnxParser.is_subgraph_supported", lambda parser, index: state_of(parser)["parts"][index][1])
        else:
            fake.on("OnnxParser.supports_model", lambda _parser, content, path: self._v1(content, path))

    def _rejected(self, model: onnx.ModelProto) -> list[int]:
        whole = len(model.graph.node) > 1
        return [
            number
            for number, node in enumerate(model.graph.node)
            if node.op_type in REASONS or (whole and number in self.numbers)
        ]

    def _parse(self, parser: Any, model: onnx.ModelProto, path: str | None = None) -> bool:
        self.models.append((model, path))
        kinds = {number: model.graph.node[number].op_type for number in self._rejected(model)}
        errors = [self._error(number, REASONS[kind]) for number, kind in kinds.items() if kind in REASONS]
        state_of(parser)["errors"] = errors[:1] if self.stops else errors
        return not kinds

    def _parse_bytes(self, parser: Any, model: bytes, path: str | None = None) -> bool:
        return self._parse(parser, onnx.load_from_string(model), path)

    def _error(self, number: int, text: str) -> Any:
        error = self.fake.make("ParserError")
        state_of(error).update(node=number, desc=text)
        self.fake.on("ParserError.node", lambda error: state_of(error)["node"])
        self.fake.on("ParserError.desc", lambda error: state_of(error)["desc"])
        return error

    def _parts(self, content: bytes, path: str) -> list[tuple[list[int], bool]]:
        assert path.endswith("model.onnx"), "external weights are found beside it"
        model = onnx.load_from_string(bytes(content))
        rejected = set(self._rejected(model))
        parts: list[tuple[list[int], bool]] = []
        for number in range(len(model.graph.node)):
            taken = number not in rejected
            if parts and taken and parts[-1][1]:
                parts[-1][0].append(number)
            else:
                parts.append(([number], taken))
        return parts

    def _v1(self, content: bytes, path: str) -> tuple[bool, list[tuple[list[int], bool]]]:
        parts = self._parts(content, path)
        return all(taken for _, taken in parts), parts

    def _v2(self, parser: Any, content: bytes, path: str) -> bool:
        state_of(parser)["parts"] = self._parts(content, path)
        return all(taken for _, taken in state_of(parser)["parts"])


def job_of(folder: Path, body: str = BODY, names: dict[int, str] | None = None) -> BuildJob:
    job = make_job(folder)
    path = write_onnx(folder / "onnx", body=body)
    model = onnx.load(str(path))
    model.opset_import[0].version = 17
    for number, name in (names or {}).items():
        model.graph.node[number].name = name
    onnx.save(model, str(path))
    return job.model_copy(update={"onnx": path})


def refusal(fake: FakeTensorrt, job: BuildJob) -> list[str]:
    with pytest.raises(InputError) as caught:
        build_plans(fake.module, job, lambda _done, _total: None)
    return str(caught.value).split("\n  ")


@pytest.mark.parametrize("stops", [True, False], ids=["stops at the first", "reports all"])
def test_every_node_that_is_not_taken_is_named_with_its_kind_and_the_reason(
    fake: FakeTensorrt, tmp_path: Path, stops: bool
) -> None:
    Parser(fake, stops=stops)
    head, *nodes = refusal(fake, job_of(tmp_path, names={1: "/encoder/Sigmund"}))
    assert head == (
        f"TensorRT {fake.version} does not take 2 nodes of the converted model; rewrite what they come from in the"
        " module, or name a plugin library that holds them under build.plugins in model.yaml:"
    )
    assert nodes == [
        "/encoder/Sigmund (Sigmund): No importer registered for op: Sigmund",
        "node 3 (Freud): Plugin not found: Freud",
    ]


def test_a_node_that_is_taken_alone_is_not_blamed_for_what_comes_before_it(fake: FakeTensorrt, tmp_path: Path) -> None:
    Parser(fake, 2, stops=True)
    _, *nodes = refusal(fake, job_of(tmp_path))
    assert [node.partition(" (")[0] for node in nodes] == ["node 1", "node 3"]


def test_the_parser_that_is_not_sure_which_node_it_is_names_the_model(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake, stops=True)
    fake.on("OnnxParser.parse_from_file", lambda found, _path: bool(state_of(found).update(errors=[error])))
    error = parser._error(-1, "Weights of another type")  # noqa: SLF001 - the fake's own
    _, *nodes = refusal(fake, job_of(tmp_path, body="score = ReduceSum<keepdims=0>(features, one)"))
    assert nodes == ["the model (): Weights of another type"]


def test_a_node_is_asked_about_alone_with_its_weights_types_and_where_they_lie(
    fake: FakeTensorrt, tmp_path: Path
) -> None:
    parser = Parser(fake, stops=True)
    body = "a = Sigmund(features)  b = Freud(features, w)  score = ReduceSum<keepdims=0>(b, one)"
    job = job_of(tmp_path, body=body)
    refusal(fake, job)
    model, path = parser.models[-1]
    assert [node.op_type for node in model.graph.node] == ["Freud"]
    assert [value.name for value in model.graph.input] == ["features"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert model.opset_import[0].version == 17
    assert path == str(job.onnx)


def test_weights_in_a_file_of_their_own_are_not_taken_for_the_reason(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake, stops=True)
    job = job_of(tmp_path, body="a = Sigmund(features)  b = Freud(a, w)  score = ReduceSum<keepdims=0>(b, one)")
    model = onnx.load(str(job.onnx))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    onnx.save(model, str(job.onnx), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    _, *nodes = refusal(fake, job)
    assert nodes[1] == "node 1 (Freud): Plugin not found: Freud"
    single, path = parser.models[-1]
    assert single.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    assert path == str(job.onnx)
