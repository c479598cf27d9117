"""Refits against a stand-in of every supported release: networks of constants, and plans that remember their weights.

That a real parser names layers alike for two versions of a model is in `test_rtx`; a real refit takes a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.backends import backend_of
from tasks.backends.interface import RefitBase
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.backends.trt_build import build_plans
from tasks.backends.trt_plan import PlanIndex
from tasks.backends.trt_refit import refit_plans
from tasks.errors import StageError
from tasks.specs import BuildSpec, Precision
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.test_trt_build import BUCKETS, flags_set, let_build, make_job
from tests.tasks.tiny import build_job

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

NEW = np.array([1, 2, 3, 4], np.float32)


@dataclass
class World:
    """What the stand-in's parser makes of a file, and what its plans can take."""

    fake: FakeTensorrt
    networks: list[Any] = field(default_factory=list)
    unlisted: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    refittable: bool = True
    refits: bool = True
    plans: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        fake, role = self.fake, self.fake.module.WeightsRole.CONSTANT
        fake.on("Builder.create_network", self._network)
        fake.on("OnnxParser.parse_from_file", self._parse)
        fake.on("INetworkDefinition.num_layers", lambda network: len(state_of(network)["layers"]))
        fake.on("INetworkDefinition.get_layer", lambda network, number: state_of(network)["layers"][number])
        fake.on("Runtime.deserialize_cuda_engine", lambda _, plan: self.plans.append(plan) or self._engine())
        fake.on("Refitter.get_all", lambda _: self._named(role, self._layers() - self.unlisted))
        fake.on("Refitter.get_missing", lambda _: self._named(role, self.missing))
        fake.on("Refitter.set_weights", lambda _refitter, name, _role, _weights: name not in self.refused)
        fake.on("Refitter.refit_cuda_engine", lambda _: self.refits)
        fake.on("ICudaEngine.serialize", lambda _: b"refitted " + self.plans[-1])

    def _network(self, *_arguments: Any) -> Any:
        self.networks.append(self.fake.make("INetworkDefinition"))
        return self.networks[-1]

    def _parse(self, _parser: Any, path: str) -> bool:
        made = [self._layer("product", "ELEMENTWISE")]
        for tensor in onnx.load(path).graph.initializer:
            made.append(self._layer(tensor.name, "CONSTANT"))
            vars(made[-1])["weights"] = numpy_helper.to_array(tensor)  # seen once the layer has its own class
        state_of(self.networks[-1])["layers"] = made
        return True

    def _layer(self, name: str, kind: str) -> Any:
        return self.fake.make("ILayer", name=name, type=getattr(self.fake.module.LayerType, kind))

    def _engine(self) -> Any:
        return self.fake.make("ICudaEngine", refittable=self.refittable)

    def _layers(self) -> set[str]:
        layers = state_of(self.networks[-1])["layers"]
        return {layer.name for layer in layers if layer.type.name == "CONSTANT"}

    @staticmethod
    def _named(role: Any, names: set[str]) -> tuple[list[str], list[Any]]:
        return sorted(names), [role] * len(names)


@pytest.fixture
def world(fake: FakeTensorrt) -> World:
    let_build(fake)
    return World(fake)


def refitted(world: World, folder: Path, dims: dict[str, Any] | None = None, **values: Any) -> Path:
    """Build an engine, and refit it to the same graph with other initializers; return the folder of the new one."""
    (folder / "before").mkdir()
    before = make_job(folder / "before", dims=dims, refit=True)
    build_plans(world.fake.module, before, lambda _done, _total: None)
    model = onnx.load(str(before.onnx))
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    (folder / "after").mkdir()
    onnx.save(model, str(folder / "after" / "model.onnx"))
    changes = {"onnx": folder / "after" / "model.onnx", "plan": folder / "after" / "plan"}
    (folder / "after" / "plan").mkdir()
    world.fake.calls.clear()
    refit_plans(world.fake.module, before.model_copy(update=changes), RefitBase(plan=before.plan, onnx=before.onnx))
    return folder / "after" / "plan"


@pytest.mark.parametrize("dims", [None, BUCKETS], ids=["range", "buckets"])
def test_every_plan_gets_every_weight_and_nothing_is_built(
    world: World, tmp_path: Path, dims: dict[str, Any] | None
) -> None:
    plan = refitted(world, tmp_path, dims, w=NEW)
    assert "Builder.build_serialized_network" not in [call.name for call in world.fake.calls]
    index, before = PlanIndex.read(plan), PlanIndex.read(tmp_path / "before" / "plan")
    assert index == before
    assert len(world.plans) == len(index.profiles)
    for profile in index.profiles:
        was = (tmp_path / "before" / "plan" / profile.file).read_bytes()
        assert (plan / profile.file).read_bytes() == b"refitted " + was
    given = world.fake.arguments("Refitter.set_weights")
    assert [one["layer_name"] for one in given] == ["one", "w"] * len(index.profiles)
    assert [one["role"].name for one in given] == ["CONSTANT"] * len(given)
    arrays = [one["a"] for one in world.fake.arguments("Weights.__init__")]
    np.testing.assert_array_equal(arrays[1], NEW)


def test_a_value_that_differs_where_none_can_be_set_is_refused_by_name(world: World, tmp_path: Path) -> None:
    world.unlisted = {"w"}
    with pytest.raises(StageError, match=r"the plan holds values that differ where none can be set: w \(CONSTANT\)$"):
        refitted(world, tmp_path, w=NEW)
    assert "Refitter.refit_cuda_engine" not in [call.name for call in world.fake.calls]


def test_a_value_that_is_the_same_need_not_be_set(world: World, tmp_path: Path) -> None:
    world.unlisted = {"one"}
    refitted(world, tmp_path, w=NEW)
    assert [one["layer_name"] for one in world.fake.arguments("Refitter.set_weights")] == ["w"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            {"missing": {f"tmp_weight_{n}" for n in range(5)}},
            r"weights are missing: tmp_weight_0 .*_2 \(CONSTANT\) and 2",
        ),
        ({"refused": {"w"}}, "TensorRT takes no other CONSTANT of layer w: it gave no reason"),
        ({"refits": False}, "cannot refit the plan: it gave no reason"),
        ({"refittable": False}, "cannot refit the plan that was built before"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_tensorrt_does_not_take_is_a_failed_refit(
    world: World, tmp_path: Path, fault: dict[str, Any], said: str
) -> None:
    for name, value in fault.items():
        setattr(world, name, value)
    with pytest.raises(StageError, match=said):
        refitted(world, tmp_path, w=NEW)
    assert list((tmp_path / "after" / "plan").iterdir()) == []


def test_a_plan_that_cannot_be_loaded_is_a_failed_refit(world: World, tmp_path: Path) -> None:
    world.fake.on("Runtime.deserialize_cuda_engine", lambda *_: None)
    with pytest.raises(StageError, match="cannot refit the plan that was built before"):
        refitted(world, tmp_path, w=NEW)


def test_a_difference_that_the_network_does_not_show_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="TensorRT keeps what differs apart from its weights; build the engine"):
        refitted(world, tmp_path)


def test_another_network_is_refused(world: World, tmp_path: Path) -> None:
    parse = world._parse  # noqa: SLF001 - the test's own

    def otherwise(parser: Any, path: str) -> bool:
        parse(parser, path)
        if "after" in path:
            state_of(world.networks[-1])["layers"].pop()
        return True

    world.fake.on("OnnxParser.parse_from_file", otherwise)
    with pytest.raises(StageError, match="TensorRT makes other layers of this graph than of the one that was built"):
        refitted(world, tmp_path, w=NEW)


def test_two_layers_of_one_name_are_refused_where_their_weights_differ(world: World, tmp_path: Path) -> None:
    parse = world._parse  # noqa: SLF001 - the test's own
    twins = [NEW, NEW]

    def otherwise(parser: Any, path: str) -> bool:
        parse(parser, path)
        for weights in twins:
            state_of(world.networks[-1])["layers"].append(world._layer("twin", "CONSTANT"))  # noqa: SLF001
            vars(state_of(world.networks[-1])["layers"][-1])["weights"] = weights
        return True

    world.fake.on("OnnxParser.parse_from_file", otherwise)
    refitted(world, tmp_path, w=NEW)
    twins[1] = NEW + 1
    (tmp_path / "again").mkdir()
    with pytest.raises(StageError, match="two layers of the network are called twin; build the engine"):
        refitted(world, tmp_path / "again", w=NEW)


def test_weights_that_numpy_cannot_hold_are_given_as_they_are(world: World, tmp_path: Path) -> None:
    if "BF16" not in world.fake.module.DataType.__members__:
        pytest.skip("TensorRT 8.6 has no BF16")
    weights = world.fake.make("Weights", dtype=world.fake.module.DataType.BF16, size=4)
    parse = world._parse  # noqa: SLF001 - the test's own

    def otherwise(parser: Any, path: str) -> bool:
        parse(parser, path)
        vars(state_of(world.networks[-1])["layers"][1])["weights"] = weights
        return True

    world.fake.on("OnnxParser.parse_from_file", otherwise)
    refitted(world, tmp_path)
    assert world.fake.arguments("Refitter.set_weights")[1]["weights"] is weights


@pytest.mark.parametrize("precision", list(Precision))
def test_engines_are_refittable_where_that_is_asked_for_and_can_be(
    fake: FakeTensorrt, tmp_path: Path, precision: Precision
) -> None:
    if fake.version.startswith("8.") and precision.value in {"bf16", "fp8"}:
        pytest.skip("TensorRT 8.6 has neither")
    let_build(fake)
    build_plans(fake.module, make_job(tmp_path, precision=precision.value, refit=True), lambda _done, _total: None)
    assert ("REFIT" in flags_set(fake)) == (not precision.is_quantized)
    options = backend_of("tensorrt").options(BuildSpec(refit=True, attention="tensorrt"), precision)
    assert options.get("refit") == (None if precision.is_quantized else "true")


def test_nothing_is_refittable_where_it_is_not_asked_for(fake: FakeTensorrt, tmp_path: Path) -> None:
    let_build(fake)
    build_plans(fake.module, make_job(tmp_path), lambda _done, _total: None)
    assert "REFIT" not in flags_set(fake)
    assert fake.arguments("IBuilderConfig.hardware_compatibility_level") == []
    options = backend_of("tensorrt").options(BuildSpec(attention="tensorrt"), Precision.FP16)
    assert not {"refit", "hardware_compatible"} & options.keys()


def test_a_plan_for_a_compute_capability_asks_for_no_more_than_that_where_it_may(
    fake: FakeTensorrt, tmp_path: Path
) -> None:
    let_build(fake)
    build_plans(fake.module, make_job(tmp_path, hardware_compatible=True), lambda _done, _total: None)
    (found,) = fake.arguments("IBuilderConfig.hardware_compatibility_level")
    expected = "AMPERE_PLUS" if fake.version.startswith("8.") else "SAME_COMPUTE_CAPABILITY"
    assert found["hardware_compatibility_level"].name == expected


def test_onnx_runtime_has_nothing_to_refit(tmp_path: Path) -> None:
    job = build_job(tmp_path / "model.onnx", tmp_path)
    assert "refit" not in OnnxRuntimeBackend().options(BuildSpec(refit=True), Precision.FP32)
    with pytest.raises(StageError, match="ONNX Runtime has nothing to refit; build the engine"):
        OnnxRuntimeBackend().refit(job, RefitBase(plan=tmp_path, onnx=tmp_path / "model.onnx"))
