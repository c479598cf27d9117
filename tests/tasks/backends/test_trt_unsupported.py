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
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

# Nodes 1 and 3 are of no TensorRT; node 2 is, but not with what it gets here.
BODY = "a = Mul(features, w)  b = Bernoulli(a)  c = Relu(b)  d = Freud(c)  score = ReduceSum<keepdims=0>(d, one)"
BEHIND = "h = Cast<to=10>(features)  a = Mul(h, w)  b = Bernoulli(a)  score = ReduceSum<keepdims=0>(b, one)"
PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
TYPES = "Invalid Node - node_of_a\nElementWiseOperation PROD must have same input types. But they are Half and Float."
WITHOUT_IMPORTER = "its parser has no importer for this operator"


class Parser:
    """Gives a release a parser as NVIDIA's are, that lacks two operators and takes products of one type only.

    It goes through the nodes in their order. An operator that it lacks is an error, and TensorRT 10 and 11 then look
    for more of these; a node that cannot be placed ends it. So it was recorded of TensorRT-RTX 1.7.1, by
    `test_rtx_answers_as_the_stand_in_does`.
    """

    def __init__(self, fake: FakeTensorrt) -> None:
        self.fake, self.stops = fake, fake.version.startswith("8.")
        self.models: list[tuple[onnx.ModelProto, str | None]] = []
        fake.on("OnnxParser.parse_from_file", lambda parser, path: self._parse(parser, onnx.load(path)))
        fake.on("OnnxParser.parse", self._parse_bytes)
        fake.on("OnnxParser.num_errors", lambda parser: len(state_of(parser)["errors"]))
        fake.on("OnnxParser.get_error", lambda parser, index: state_of(parser)["errors"][index])
        for name in ("node", "desc", "code", "node_operator", "local_function_stack"):
            if f"ParserError.{name}" in fake.overloads:
                fake.on(f"ParserError.{name}", lambda error, name=name: state_of(error)[name])

    def _parse(self, parser: Any, model: onnx.ModelProto, path: str | None = None) -> bool:
        self.models.append((model, path))
        errors = list(self._errors(model))
        return self._answered(parser, errors[:1] if self.stops else errors)

    def _errors(self, model: onnx.ModelProto) -> Iterator[Any]:
        half = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == 10}
        lacks = False
        for number, node in enumerate(model.graph.node):
            if node.op_type in {"Bernoulli", "Freud"}:
                lacks = True
                plugin = node.op_type == "Freud"
                yield self.error(
                    number, PLUGIN if plugin else "false", "INVALID_NODE" if plugin else "UNSUPPORTED_NODE", node
                )
            elif node.op_type == "Cast":
                half.update(node.output)
            elif node.op_type == "Mul" and len(half.intersection(node.input)) == 1 and not lacks:
                yield self.error(number, TYPES, "INVALID_NODE", node)
                return

    def _parse_bytes(self, parser: Any, model: bytes, path: str | None = None) -> bool:
        return self._parse(parser, onnx.load_from_string(model), path)

    def says(self, error: Any) -> None:
        """Let it say this of the whole file, and nothing of what is left of it."""
        answers = iter([[error]])
        self.fake.on("OnnxParser.parse_from_file", lambda _parser, _path: False)
        self.fake.on("OnnxParser.parse", lambda parser, *_: self._answered(parser, next(answers, [])))

    @staticmethod
    def _answered(parser: Any, errors: list[Any]) -> bool:
        state_of(parser)["errors"] = errors
        return not errors

    def error(self, number: int, text: str, code: str, node: onnx.NodeProto | None = None, *inside: str) -> Any:
        error = self.fake.make("ParserError")
        operator = "" if node is None else node.op_type
        state_of(error).update(node=number, desc=text, node_operator=operator, local_function_stack=list(inside))
        state_of(error)["code"] = getattr(self.fake.module.ErrorCode, code)
        return error


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


def test_every_node_that_is_not_taken_is_named_with_its_kind_and_the_reason(fake: FakeTensorrt, tmp_path: Path) -> None:
    Parser(fake)
    head, *nodes = refusal(fake, job_of(tmp_path, names={1: "/encoder/Bernoulli"}))
    assert head == (
        f"TensorRT {fake.version} does not take 2 nodes of the converted model; rewrite what they come from in the"
        " module, or name a plugin library that holds them under build.plugins in model.yaml:"
    )
    assert nodes == [f"/encoder/Bernoulli (Bernoulli): {WITHOUT_IMPORTER}", f"node 3 (Freud): {PLUGIN}"]


def test_a_bad_node_behind_one_of_a_wrong_type_is_named_too(fake: FakeTensorrt, tmp_path: Path) -> None:
    Parser(fake)
    _, *nodes = refusal(fake, job_of(tmp_path, body=BEHIND))
    assert nodes == [f"node 1 (Mul): {' '.join(TYPES.split())}", f"node 2 (Bernoulli): {WITHOUT_IMPORTER}"]


def test_a_node_is_not_blamed_for_what_comes_before_it(fake: FakeTensorrt, tmp_path: Path) -> None:
    Parser(fake)
    body = "h = Cast<to=10>(features)  a = Mul(h, w)  b = Mul(a, h)  score = ReduceSum<keepdims=0>(b, one)"
    _, *nodes = refusal(fake, job_of(tmp_path, body=body))
    assert [node.partition(" (")[0] for node in nodes] == ["node 1"]


def test_the_good_nodes_are_not_parsed_one_by_one(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake)
    good = "".join(f"r{number + 1} = Relu(r{number})  " for number in range(40))
    body = f"r0 = Bernoulli(features)  {good}score = ReduceSum<keepdims=0>(r40, one)"
    refusal(fake, job_of(tmp_path, body=body))
    assert len(parser.models) == 3, "the file, the whole again for its errors, and what is left without the bad node"


def test_what_an_error_tells_of_the_inside_of_a_node_is_told(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake)
    job = job_of(tmp_path, body="b = Relu(features)  score = ReduceSum<keepdims=0>(b, one)")
    node = onnx.helper.make_node("Bernoulli", ["x"], ["y"])
    error = parser.error(0, "false", "UNSUPPORTED_NODE", node, "node_of_b (If)", "e (else_branch)")
    parser.says(error)
    _, *nodes = refusal(fake, job)
    inner = "" if parser.stops else "Bernoulli in node_of_b (If) > e (else_branch): "
    assert nodes == [f"node 0 (Relu): {inner}{WITHOUT_IMPORTER}"]


def test_the_parser_that_is_not_sure_which_node_it_is_names_the_model(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake)
    job = job_of(tmp_path, body="score = ReduceSum<keepdims=0>(features, one)")
    error = parser.error(-1, "Weights of another type", "INVALID_GRAPH")
    parser.says(error)
    _, *nodes = refusal(fake, job)
    assert nodes == ["the model (): Weights of another type"]


def test_a_refusal_without_any_error_says_what_the_log_has(fake: FakeTensorrt, tmp_path: Path) -> None:
    Parser(fake)
    fake.on("OnnxParser.parse_from_file", lambda _parser, _path: False)
    body = "score = ReduceSum<keepdims=0>(features, one)"
    (told,) = refusal(fake, job_of(tmp_path, body=body))
    assert told == f"TensorRT {fake.version} does not take the converted model: it gave no reason"


def test_what_is_left_keeps_its_weights_types_opset_and_where_they_lie(fake: FakeTensorrt, tmp_path: Path) -> None:
    parser = Parser(fake)
    body = "a = Bernoulli(features)  b = Mul(a, w)  score = ReduceSum<keepdims=0>(b, one)"
    job = job_of(tmp_path, body=body)
    model = onnx.load(str(job.onnx))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    onnx.save(model, str(job.onnx), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    refusal(fake, job)
    rest, path = parser.models[-1]
    assert [node.op_type for node in rest.graph.node] == ["Mul", "ReduceSum"]
    assert [(value.name, value.type.tensor_type.elem_type) for value in rest.graph.input] == [("features", 1), ("a", 1)]
    assert rest.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    assert (rest.opset_import[0].version, path) == (17, str(job.onnx))
