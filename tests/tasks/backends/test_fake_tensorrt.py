from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from polygraphy.backend.trt import (
    CreateConfig,
    Profile,
    create_network,
    engine_bytes_from_network,
    engine_from_bytes,
    network_from_onnx_bytes,
)
from polygraphy.exception import PolygraphyException

from tests.tasks.backends.fake_tensorrt import Call, FakeTensorrt, install
from tests.tasks.backends.tensorrt_api.recording import (
    RECORDINGS,
    RELEASES,
    parse_signature,
    read_recording,
    split_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST, *_, NEWEST = RELEASES
UNCALLED = {"__init__", "__getitem__", "__setitem__", "__enter__", "nptype", "volume"}  # these have their own tests
SINCE_10 = RELEASES[1:]
UNTIL_10 = RELEASES[:-1]


@pytest.fixture
def trt(fake: FakeTensorrt) -> Any:
    return fake.module


def make_builder(trt: Any) -> Any:
    return trt.Builder(trt.Logger(trt.Logger.WARNING))


def make_parser(trt: Any) -> Any:
    return trt.OnnxParser(make_builder(trt).create_network(0), trt.Logger())


@functools.cache
def shared_fake(release: str) -> FakeTensorrt:
    return FakeTensorrt(release)


def has(release: str, name: str) -> bool:
    """Whether the fake of a release has a name such as `Builder.reset`."""
    value: Any = shared_fake(release).module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value is not None


# The recordings


def test_there_is_a_recording_of_each_supported_line() -> None:
    assert RELEASES == ["8.6.0", "10.12.0", "10.16.1", "11.4.0"]
    assert all(read_recording(release)["version"].startswith(release) for release in RELEASES)


def overloads_of(recording: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, overloads in recording["functions"].items():
        yield from ((name, text) for text in overloads)
    for owner, entry in recording["classes"].items():
        for name, overloads in {**entry.get("methods", {}), **entry.get("static_methods", {})}.items():
            yield from ((f"{owner}.{name}", text) for text in overloads)


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_signature_can_be_read_and_names_no_foreign_language(release: str) -> None:
    texts = [text for _, text in overloads_of(read_recording(release))]
    assert len(texts) > 250
    for text in texts:
        signature = parse_signature(text)
        assert "self" not in signature.parameters
        assert split_type(signature.return_annotation)
        assert not re.search(r"::|0x|tensorrt|<", text)


@pytest.mark.parametrize("release", RELEASES)
def test_every_class_that_a_described_one_needs_is_at_least_named(release: str) -> None:
    recording = read_recording(release)
    unknown = set()
    for entry in recording["classes"].values():
        properties = {**entry.get("readonly", {}), **entry.get("settable", {}), **entry.get("writeonly", {})}
        unknown |= {name for text in properties.values() for name in re.findall(r"\b[A-Z]\w+", text)}
    unknown -= {*recording["left_out"], *(part for name in recording["classes"] for part in name.split("."))}
    assert unknown <= {"IInt8Calibrator"}  # the module itself does not export it


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.json")), ids=lambda path: path.stem)
def test_a_recording_is_small_and_says_which_wheel_it_is_of(path: Any) -> None:
    assert path.stat().st_size < 50_000
    assert path.stem.removeprefix("rtx-") in json.loads(path.read_text())["wheel"]


# What differs between releases, as NVIDIA's wheels have it


@pytest.mark.parametrize(
    ("name", "releases"),
    [
        ("BuilderFlag.FP16", UNTIL_10),
        ("BuilderFlag.INT8", UNTIL_10),
        ("BuilderFlag.BF16", ["10.12.0", "10.16.1"]),
        ("BuilderFlag.PREFER_PRECISION_CONSTRAINTS", UNTIL_10),
        ("BuilderFlag.TF32", RELEASES),
        ("BuilderFlag.SPARSE_WEIGHTS", RELEASES),
        ("BuilderFlag.DISABLE_TIMING_CACHE", RELEASES),
        ("BuilderFlag.EDITABLE_TIMING_CACHE", SINCE_10),
        ("BuilderFlag.VERSION_COMPATIBLE", RELEASES),
        ("BuilderFlag.WEIGHT_STREAMING", SINCE_10),
        ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", UNTIL_10),
        ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", SINCE_10),
        ("TacticSource.CUDNN", UNTIL_10),
        ("TacticSource.CUBLAS_LT", UNTIL_10),
        ("TacticSource.JIT_CONVOLUTIONS", RELEASES),
        ("DataType.INT64", SINCE_10),
        ("ProfilingVerbosity.DETAILED", RELEASES),
        ("OnnxParserFlag.NATIVE_INSTANCENORM", SINCE_10),
        ("IProgressMonitor.step_complete", SINCE_10),
        ("ExecutionContextAllocationStrategy", SINCE_10),
        ("QuantizationFlag", UNTIL_10),
        ("Builder.platform_has_fast_fp16", UNTIL_10),
        ("Builder.build_serialized_network", RELEASES),
        ("Builder.build_engine", [OLDEST]),
        ("Builder.build_engine_with_config", SINCE_10),
        ("IBuilderConfig.builder_optimization_level", RELEASES),
        ("IBuilderConfig.progress_monitor", SINCE_10),
        ("IBuilderConfig.int8_calibrator", UNTIL_10),
        ("IBuilderConfig.plugins_to_serialize", RELEASES),
        ("IBuilderConfig.max_num_tactics", SINCE_10),
        ("OnnxParser.parse_from_file", RELEASES),
        ("OnnxParser.supports_model", UNTIL_10),
        ("OnnxParser.supports_model_v2", SINCE_10),
        ("OnnxParser.get_subgraph_nodes", SINCE_10),
        ("OnnxParser.set_flag", SINCE_10),
        ("ParserError.node_name", SINCE_10),
        ("Runtime.engine_host_code_allowed", RELEASES),
        ("Runtime.load_runtime", RELEASES),
        ("ICudaEngine.num_io_tensors", RELEASES),
        ("ICudaEngine.get_tensor_profile_shape", RELEASES),
        ("ICudaEngine.get_binding_shape", [OLDEST]),
        ("ICudaEngine.device_memory_size", UNTIL_10),
        ("ICudaEngine.device_memory_size_v2", SINCE_10),
        ("IExecutionContext.execute_async_v3", RELEASES),
        ("IExecutionContext.execute_async_v2", [OLDEST]),
        ("IExecutionContext.set_tensor_address", RELEASES),
        ("IExecutionContext.set_input_shape", RELEASES),
        ("IExecutionContext.infer_shapes", RELEASES),
        ("IExecutionContext.enqueue_emits_profile", RELEASES),
        ("IPluginRegistry.load_library", RELEASES),
        ("IPluginRegistry.get_plugin_creator", UNTIL_10),
        ("ILayer.precision", UNTIL_10),
        ("ITimingCache.combine", RELEASES),
    ],
)
def test_a_name_exists_in_just_the_releases_that_have_it(name: str, releases: list[str]) -> None:
    assert [release for release in RELEASES if has(release, name)] == releases


def test_the_same_flag_is_another_integer_in_another_release() -> None:
    values = {}
    for release in RELEASES:
        trt = shared_fake(release).module
        values[release] = (int(trt.BuilderFlag.TF32), int(trt.TacticSource.JIT_CONVOLUTIONS))
    assert values == {"8.6.0": (7, 4), "10.12.0": (6, 4), "10.16.1": (6, 4), "11.4.0": (6, 1)}


# What the fake refuses


def test_an_unknown_name_is_refused_and_the_error_names_the_release(fake: FakeTensorrt) -> None:
    builder = make_builder(fake.module)
    for owner in (fake.module, fake.module.BuilderFlag, fake.module.Builder, builder):
        with pytest.raises(AttributeError, match=rf"TensorRT {re.escape(fake.version)}.*such_a_name"):
            _ = owner.such_a_name
        assert not hasattr(owner, "such_a_name")


def test_a_class_that_the_recording_only_names_exists_and_says_what_is_left_out(trt: Any) -> None:
    assert isinstance(trt.IConcatenationLayer, type)
    with pytest.raises(AttributeError, match=r"add it to CLASSES in tensorrt_api/record\.py"):
        _ = trt.IConcatenationLayer.axis


def test_a_call_that_no_overload_takes_is_refused(trt: Any) -> None:
    builder = make_builder(trt)
    config, network = builder.create_builder_config(), builder.create_network(flags=0)
    for call in (
        lambda: builder.create_network(0, 1),
        lambda: builder.create_network(flag=1),
        lambda: builder.build_serialized_network(network),
        lambda: builder.build_serialized_network(config, network),
        lambda: config.set_timing_cache(config.create_timing_cache(b"")),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 0.5),
        lambda: config.set_flag(int(trt.BuilderFlag.TF32)),
        trt.volume,
        trt.Builder,
        lambda: trt.Builder("logger"),
    ):
        with pytest.raises(TypeError, match=r"TensorRT \d+\.\d+.* takes \(.*called with"):
            call()


def test_a_path_is_no_string(trt: Any, tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="parse_from_file takes"):
        make_parser(trt).parse_from_file(tmp_path / "model.onnx")
    assert make_parser(trt).parse_from_file(str(tmp_path / "model.onnx"))


def test_an_argument_without_a_name_cannot_be_passed_by_one(trt: Any) -> None:
    with pytest.raises(TypeError, match="arg0"):
        trt.get_builder_plugin_registry(arg0=trt.EngineCapability.STANDARD)
    trt.get_builder_plugin_registry(trt.EngineCapability.STANDARD)


def test_a_read_only_or_unknown_attribute_cannot_be_set_and_a_write_only_one_not_read(trt: Any) -> None:
    builder = make_builder(trt)
    with pytest.raises(AttributeError, match="num_DLA_cores cannot be set"):
        builder.num_DLA_cores = 1
    with pytest.raises(AttributeError, match="workspace does not exist"):
        builder.create_builder_config().workspace = 1
    with pytest.raises(AttributeError, match="gpu_allocator can only be set"):
        _ = builder.gpu_allocator
    with pytest.raises(TypeError, match="builder_optimization_level is of type int"):
        builder.create_builder_config().builder_optimization_level = "5"


def test_an_engine_has_no_constructor(trt: Any) -> None:
    with pytest.raises(TypeError, match="ICudaEngine: No constructor defined!"):
        trt.ICudaEngine()


def test_a_derived_class_that_skips_the_constructor_of_its_base_is_refused(trt: Any) -> None:
    class Silent(trt.ILogger):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        Silent()


def test_an_enum_is_no_integer_but_converts_to_one(trt: Any) -> None:
    flag = trt.BuilderFlag.TF32
    assert (1 << int(flag)).bit_length() == int(flag) + 1
    assert flag != int(flag)
    assert trt.BuilderFlag.__members__["TF32"] is trt.BuilderFlag(int(flag)) is flag
    for use in (lambda: 1 << flag, lambda: flag | flag, lambda: list(trt.BuilderFlag), lambda: trt.BuilderFlag["TF32"]):
        with pytest.raises(TypeError):
            use()


def test_host_memory_is_a_buffer_and_nothing_else(fake: FakeTensorrt, tmp_path: Any) -> None:
    memory = fake.memory(b"plan")
    (tmp_path / "plan").write_bytes(memory)
    assert (tmp_path / "plan").read_bytes() == bytes(memory) == memoryview(memory).tobytes() == b"plan"
    assert hashlib.sha256(memory).digest() == hashlib.sha256(b"plan").digest()
    assert (bool(memory), memory.nbytes) == (True, 4)
    for use in (len, list, lambda it: it[0], lambda it: it + b""):
        with pytest.raises(TypeError):
            use(memory)
    with pytest.raises(AttributeError):
        memory.hex()


# What the fake gives


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_method_can_be_called_and_gives_its_type(release: str) -> None:
    fake = FakeTensorrt(release)
    for name, text in overloads_of(fake.recording):
        owner, _, method = name.rpartition(".")
        signature = parse_signature(text)
        types = [parameter.annotation for parameter in signature.parameters.values()]
        if method not in UNCALLED:
            arguments = [fake.default(text) for text in types]
            result = getattr(fake.make(owner) if owner else fake.module, method)(*arguments)
            assert result is None or fake.accepts(result, signature.return_annotation), name


def test_calls_and_set_properties_are_written_down_in_order(fake: FakeTensorrt) -> None:
    trt = fake.module
    config = make_builder(trt).create_builder_config()
    config.set_memory_pool_limit(pool_size=7, pool=trt.MemoryPoolType.WORKSPACE)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, 8)
    config.builder_optimization_level = 4
    assert fake.calls[-2:] == [
        Call("IBuilderConfig.set_memory_pool_limit", (trt.MemoryPoolType.TACTIC_DRAM, 8), {}),
        Call("IBuilderConfig.builder_optimization_level", (4,), {}),
    ]
    assert fake.arguments("IBuilderConfig.set_memory_pool_limit") == [
        {"pool": trt.MemoryPoolType.WORKSPACE, "pool_size": 7},
        {"pool": trt.MemoryPoolType.TACTIC_DRAM, "pool_size": 8},
    ]
    assert fake.arguments("IBuilderConfig.builder_optimization_level") == [{"builder_optimization_level": 4}]


def test_what_was_set_can_be_got(fake: FakeTensorrt) -> None:
    trt = fake.module
    config = make_builder(trt).create_builder_config()
    assert (config.get_flag(trt.BuilderFlag.TF32), config.get_timing_cache() is None) == (False, False)
    config.set_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.REFIT)
    config.clear_flag(trt.BuilderFlag.REFIT)
    cache = config.create_timing_cache(b"")
    assert config.set_timing_cache(cache, ignore_mismatch=False)
    config.set_tactic_sources(5)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 7)
    profile = make_builder(trt).create_optimization_profile()
    profile.set_shape("x", (1, 8), (2, 8), (3, 8))
    assert config.flags == 1 << int(trt.BuilderFlag.TF32)
    assert (config.get_flag(trt.BuilderFlag.TF32), config.get_flag(trt.BuilderFlag.REFIT)) == (True, False)
    assert config.get_timing_cache() is cache
    assert config.get_tactic_sources() == 5
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 7
    assert profile.get_shape("x") == [(1, 8), (2, 8), (3, 8)]


def test_a_network_knows_its_flags_and_has_as_many_layers_as_it_says(fake: FakeTensorrt) -> None:
    trt = fake.module
    network = make_builder(trt).create_network(0)
    assert list(network) == []
    fake.on("INetworkDefinition.num_layers", 3)
    assert [type(layer).__name__ for layer in network] == ["ILayer"] * 3
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert make_builder(trt).create_network(1 << int(flag)).get_flag(flag)
        assert not network.get_flag(flag)


def test_what_a_constructor_takes_can_be_read(trt: Any) -> None:
    logger = trt.Logger(min_severity=trt.Logger.INFO)
    assert (trt.Builder(logger).logger, logger.min_severity) == (logger, trt.ILogger.Severity.INFO)


def test_a_test_decides_what_a_call_or_a_property_gives(fake: FakeTensorrt) -> None:
    fake.on("OnnxParser.parse", lambda _, model, path=None: (model, path) == (b"good", None))
    fake.on("OnnxParser.num_errors", 0)
    fake.on("ICudaEngine.get_tensor_shape", (-1, 8))
    fake.on("Builder.build_serialized_network", lambda *_: b"plan")
    fake.on("Runtime.deserialize_cuda_engine", lambda *_: fake.make("ICudaEngine", num_layers=3))
    trt = fake.module
    parser, builder = make_parser(trt), make_builder(trt)
    assert [parser.parse(b"good"), parser.parse(b"bad"), parser.num_errors] == [True, False, 0]
    plan = builder.build_serialized_network(builder.create_network(), builder.create_builder_config())
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    shape = engine.get_tensor_shape("x")
    assert (bytes(plan), engine.num_layers, type(shape), tuple(shape), len(shape)) == (b"plan", 3, trt.Dims, (-1, 8), 2)


def test_a_test_cannot_give_what_the_release_lacks(fake: FakeTensorrt) -> None:
    for use in (
        lambda: fake.on("ICudaEngine.no_such_thing", 1),
        lambda: fake.make("ICudaEngine", no_such_thing=1),
        lambda: fake.arguments("ICudaEngine.no_such_thing"),
    ):
        with pytest.raises(AttributeError, match=r"ICudaEngine\.no_such_thing does not exist"):
            use()


def test_users_derive_loggers_profilers_and_monitors(trt: Any) -> None:
    class Times(trt.IProfiler):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:  # noqa: ARG002 - TensorRT's signature
            self.times.append(ms)

    context = trt.Runtime(trt.Logger()).deserialize_cuda_engine(b"").create_execution_context()
    assert context.profiler is None
    context.profiler = times = Times()
    context.profiler.report_layer_time("a", 1.5)
    assert times.times == [1.5]
    with pytest.raises(TypeError, match="profiler is of type IProfiler"):
        context.profiler = "times"


def test_dims_behave_as_a_sequence_that_is_no_tuple(trt: Any) -> None:
    shape = trt.Dims((2, 3, 4))
    shape[0] = 5
    assert (shape == (5, 3, 4), shape != [5, 3, 4], shape[1:], tuple(shape)) == (True, False, (3, 4), (5, 3, 4))
    assert not isinstance(shape, tuple)
    with pytest.raises(TypeError, match="incompatible"):
        _ = shape == None  # noqa: E711 - as a caller might
    assert (trt.volume(shape), len(trt.Dims())) == (60, 0)


def test_element_types_are_those_of_the_release(trt: Any) -> None:
    assert (trt.nptype(trt.float16), trt.float32.itemsize) == (np.float16, 4)
    assert trt.bool is trt.DataType.BOOL
    with pytest.raises(TypeError, match="Could not resolve TensorRT datatype"):
        trt.nptype(trt.DataType.FP8)
    with pytest.raises(TypeError) if hasattr(trt, "bfloat16") else pytest.raises(AttributeError):
        trt.nptype(trt.bfloat16)


def test_a_context_manager_warns_as_tensorrt_does(trt: Any) -> None:
    builder = make_builder(trt)
    with pytest.warns(DeprecationWarning, match="Context managers"), builder as entered:
        assert entered is builder


# polygraphy on top


def give_an_input(fake: FakeTensorrt) -> None:
    fake.on("INetworkDefinition.num_inputs", 1)
    fake.on(
        "INetworkDefinition.get_input", lambda *_: fake.make("ITensor", name="x", shape=(-1, 8), is_shape_tensor=False)
    )


def test_polygraphy_configures_a_build_of_every_release(fake: FakeTensorrt) -> None:
    trt = fake.module
    give_an_input(fake)
    has_monitor = hasattr(trt, "IProgressMonitor")
    monitor = type("Monitor", (trt.IProgressMonitor,), {})() if has_monitor else None
    config = CreateConfig(
        profiles=[Profile().add("x", min=(1, 8), opt=(4, 8), max=(16, 8))],
        tf32=True,
        fp16=hasattr(trt.BuilderFlag, "FP16"),
        int8=hasattr(trt.BuilderFlag, "INT8"),
        sparse_weights=True,
        tactic_sources=[trt.TacticSource.JIT_CONVOLUTIONS],
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: 1 << 30},
        profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
        builder_optimization_level=4,
        progress_monitor=monitor,
    )(make_builder(trt), make_builder(trt).create_network(0))
    flags = {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)}
    assert flags == {"TF32", "SPARSE_WEIGHTS"} | ({"FP16", "INT8"} if hasattr(trt.BuilderFlag, "FP16") else set())
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 30
    assert config.get_tactic_sources() == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    assert (config.profiling_verbosity, config.builder_optimization_level) == (trt.ProfilingVerbosity.DETAILED, 4)
    assert getattr(config, "progress_monitor", None) is monitor
    assert fake.arguments("IBuilderConfig.set_timing_cache")[0]["ignore_mismatch"] is False
    assert fake.arguments("IOptimizationProfile.set_shape") == [
        {"input": "x", "min": (1, 8), "opt": (4, 8), "max": (16, 8)}
    ]
    assert [call.name for call in fake.calls].count("IBuilderConfig.add_optimization_profile") == 1


def test_polygraphy_reads_a_timing_cache_from_a_file(fake: FakeTensorrt, tmp_path: Any) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"timings")
    builder = make_builder(fake.module)
    CreateConfig(load_timing_cache=str(path))(builder, None)
    assert fake.arguments("IBuilderConfig.create_timing_cache") == [{"serialized_timing_cache": b"timings"}]


def test_polygraphy_builds_and_loads_on_every_release(fake: FakeTensorrt) -> None:
    fake.on("Builder.build_serialized_network", lambda *_, **__: b"plan")
    plan = engine_bytes_from_network(network_from_onnx_bytes(b"model"))
    engine = engine_from_bytes(plan)
    assert (bytes(plan), type(engine).__name__) == (b"plan", "ICudaEngine")
    fake.on("Builder.build_serialized_network", lambda *_, **__: None)
    with pytest.raises(PolygraphyException, match="Invalid Engine"):
        engine_bytes_from_network(network_from_onnx_bytes(b"model"))


def test_polygraphy_says_so_where_a_release_lacks_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorrt(NEWEST)
    install(monkeypatch, fake)
    with pytest.raises(PolygraphyException, match=rf"fp16 in CreateConfig is not available.*{re.escape(fake.version)}"):
        CreateConfig(fp16=True)(make_builder(fake.module), None)


def test_polygraphy_makes_a_strongly_typed_network_where_there_is_such_a_flag(fake: FakeTensorrt) -> None:
    flags = fake.module.NetworkDefinitionCreationFlag
    create_network(strongly_typed=hasattr(flags, "STRONGLY_TYPED"))
    wanted = next(getattr(flags, name) for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH") if hasattr(flags, name))
    assert fake.arguments("Builder.create_network") == [{"flags": 1 << int(wanted)}]


def test_polygraphy_parses_on_every_release_and_reports_errors(fake: FakeTensorrt) -> None:
    _, network, parser = network_from_onnx_bytes(b"model")
    assert (type(network).__name__, type(parser).__name__) == ("INetworkDefinition", "OnnxParser")
    fake.on("OnnxParser.parse", False)
    fake.on("OnnxParser.num_errors", 2)
    with pytest.raises(PolygraphyException, match="Could not parse ONNX correctly"):
        network_from_onnx_bytes(b"model")


def test_the_fakes_of_two_releases_do_not_mix() -> None:
    old, new = FakeTensorrt(OLDEST), FakeTensorrt(NEWEST)
    with pytest.raises(TypeError, match="called with"):
        new.module.Builder(old.module.Logger())
    old.module.Logger()
    assert len(new.calls) < len(old.calls)


def test_after_a_test_tensorrt_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.modules.get("tensorrt")
    with monkeypatch.context() as patch:
        install(patch, FakeTensorrt(NEWEST))
        import tensorrt  # noqa: PLC0415 - it exists only here

        assert tensorrt.__version__.startswith("11.")
    assert sys.modules.get("tensorrt") is before


def test_signatures_are_those_that_code_for_every_release_counts_on() -> None:
    """The arguments that may be passed by name, in order, in all releases."""
    common = {
        "Builder.create_network": ["flags"],
        "Builder.build_serialized_network": ["network", "config"],
        "IBuilderConfig.create_timing_cache": ["serialized_timing_cache"],
        "IBuilderConfig.set_memory_pool_limit": ["pool", "pool_size"],
        "IBuilderConfig.set_tactic_sources": ["tactic_sources"],
        "IBuilderConfig.set_timing_cache": ["cache", "ignore_mismatch"],
        "ICudaEngine.get_tensor_profile_shape": ["name", "profile_index"],
        "IExecutionContext.execute_async_v3": ["stream_handle"],
        "IExecutionContext.set_input_shape": ["name", "shape"],
        "IExecutionContext.set_optimization_profile_async": ["profile_index", "stream_handle"],
        "IExecutionContext.set_tensor_address": ["name", "memory"],
        "IOptimizationProfile.set_shape": ["input", "min", "opt", "max"],
        "IPluginRegistry.load_library": ["plugin_path"],
        "ITimingCache.combine": ["input_cache", "ignore_mismatch"],
        "OnnxParser.parse": ["model", "path"],
        "OnnxParser.parse_from_file": ["model"],
        "Runtime.deserialize_cuda_engine": ["serialized_engine"],
    }
    fakes = [shared_fake(release) for release in RELEASES]
    for (name, names), fake in itertools.product(common.items(), fakes):
        parameters = parse_signature(fake.overloads[name][0]).parameters
        assert list(parameters) == names, (fake.version, name)
        assert all(item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for item in parameters.values())
