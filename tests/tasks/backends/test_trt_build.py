"""Whole builds against a stand-in of every supported release of TensorRT.

The stand-ins know the names and signatures of the release that they were recorded from, and refuse every other: a
build that ends here uses no name, keyword or argument count that one of the releases lacks. What a name does is not
checked; that takes a GPU.
"""

from __future__ import annotations

import ast
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import pytest

import tasks.backends
from tasks.backends import attention_plugin, backend_of, trt
from tasks.backends.interface import BuildJob
from tasks.backends.trt import TensorRtBackend, import_tensorrt
from tasks.backends.trt_build import build_plans
from tasks.backends.trt_dialect import dialect_of
from tasks.backends.trt_plan import PlanIndex
from tasks.errors import InputError, StageError
from tasks.specs import BuildSpec, Precision
from tests.tasks.backends.fake_tensorrt import FakeTensorrt
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.tensorrt_api.recording import RELEASES, RTX
from tests.tasks.tiny import tiny_spec, write_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

UNTYPED = "8.6.0"
TYPED = [release for release in RELEASES if release != UNTYPED]
RANGE = {"batch": {"min": 1, "opt": 8, "max": 16}}
BUCKETS = {"batch": {"min": 1, "opt": 8, "max": 16, "buckets": [1, 8, 16]}}
# What a TensorRT may lack; the code asks for it, or for its dialect, before it uses it.
ASKED_FOR = {"IProgressMonitor", "IAlgorithmSelector", "TimingCacheKey", "TimingCacheValue"}
# Which modules TensorRT never meets, and TensorRT-RTX never.
OF_RTX, OF_GPUS = {"trt_rtx.py"}, {"trt_engine.py", "trt_layers.py"}


def give_plan(_builder: Any, network: Any, config: Any) -> bytes:
    """Report progress if asked to, and give a plan that names its shape."""
    monitor = getattr(config, "progress_monitor", None)
    if monitor is not None:
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            assert monitor.step_complete("Building", step)
        monitor.phase_finish("Building")
    return f"plan of {tuple(network.get_input(0).shape)}".encode()


def let_build(fake: FakeTensorrt) -> None:
    """Give the release's networks the tiny scorer's input, and let its builder report progress and give a plan."""

    def get_input(network: Any, index: int) -> Any:
        assert index == 0
        return state_of(network).setdefault(
            "input", fake.make("ITensor", name="features", shape=(-1, 4), is_shape_tensor=False)
        )

    fake.on("INetworkDefinition.num_inputs", 1)
    fake.on("INetworkDefinition.get_input", get_input)
    fake.on("Builder.build_serialized_network", give_plan)


@pytest.fixture
def fake(fake: FakeTensorrt) -> FakeTensorrt:
    let_build(fake)
    return fake


def make_job(
    folder: Path, *, opset: int = 17, precision: str = "fp32", dims: dict[str, Any] | None = None, **build: Any
) -> BuildJob:
    onnx_file = write_onnx(folder / "onnx")
    model = onnx.load(str(onnx_file))
    model.opset_import[0].version = opset
    onnx.save(model, str(onnx_file))
    (folder / "plan").mkdir()
    spec = tiny_spec(dims=dims or RANGE)
    return BuildJob(
        onnx=onnx_file,
        plan=folder / "plan",
        precision=Precision(precision),
        inputs=spec.inputs,
        dims=spec.dims,
        settings=BuildSpec(**build),
    )


def run(fake: FakeTensorrt, job: BuildJob) -> list[float]:
    """Build; return the shares that were reported."""
    steps: list[tuple[int, int]] = []
    assert build_plans(fake.module, job, lambda done, total: steps.append((done, total))) == ()
    return [done / total for done, total in steps]


def members(fake: FakeTensorrt, name: str, mask: int) -> set[str]:
    """Names of the enum's members whose bits are set."""
    known = getattr(fake.module, name).__members__
    return {member for member, value in known.items() if mask >> int(value) & 1}


def flags_set(fake: FakeTensorrt) -> set[str]:
    return {found["flag"].name for found in fake.arguments("IBuilderConfig.set_flag")}


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_ranges_become_one_plan_with_one_optimisation_profile(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path))
    assert files_in(tmp_path / "plan") == ["engine.json", "engine.plan"]
    assert (tmp_path / "plan" / "engine.plan").read_bytes() == b"plan of (-1, 4)"
    assert fake.arguments("IOptimizationProfile.set_shape") == [
        {"input": "features", "min": (1, 4), "opt": (8, 4), "max": (16, 4)}
    ]
    assert len(fake.arguments("IBuilderConfig.add_optimization_profile")) == 1


def test_each_bucket_becomes_a_plan_of_fixed_shape_without_a_profile(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path, dims=BUCKETS))
    assert files_in(tmp_path / "plan") == [
        "engine-batch1.plan",
        "engine-batch16.plan",
        "engine-batch8.plan",
        "engine.json",
    ]
    for batch in (1, 8, 16):
        assert (tmp_path / "plan" / f"engine-batch{batch}.plan").read_bytes() == f"plan of ({batch}, 4)".encode()
    assert fake.arguments("IOptimizationProfile.set_shape") == []
    assert fake.arguments("IBuilderConfig.add_optimization_profile") == []


@pytest.mark.parametrize("dims", [RANGE, BUCKETS], ids=["range", "buckets"])
def test_the_index_says_what_the_engine_takes_and_gives(
    fake: FakeTensorrt, tmp_path: Path, dims: dict[str, Any]
) -> None:
    job = make_job(tmp_path, dims=dims, cuda_graph=False)
    run(fake, job)
    assert fake.calls
    index = PlanIndex.read(tmp_path / "plan")
    assert index.inputs == job.inputs
    assert index.outputs == {"score": ("batch",)}
    assert index.profiles == TensorRtBackend().profiles(job.dims)
    assert [(tmp_path / "plan" / profile.file).is_file() for profile in index.profiles] == [True] * len(index.profiles)
    assert (index.plugins, index.cuda_graph) == ((), False)


def test_the_network_is_explicit_on_8_and_strongly_typed_from_10_on(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path))
    (created,) = fake.arguments("Builder.create_network")
    expected = {"EXPLICIT_BATCH"} if fake.version.startswith("8.") else {"STRONGLY_TYPED"}
    assert members(fake, "NetworkDefinitionCreationFlag", created["flags"]) == expected


@pytest.mark.parametrize(("precision", "expected"), [("fp32", set()), ("fp16", {"FP16"}), ("int8", {"FP16", "INT8"})])
def test_precision_is_a_flag_on_8_and_lies_in_the_graph_from_10_on(
    fake: FakeTensorrt, tmp_path: Path, precision: str, expected: set[str]
) -> None:
    run(fake, make_job(tmp_path, precision=precision))
    wanted = expected if fake.version.startswith("8.") else set()
    assert flags_set(fake) - {"TF32"} == wanted
    assert not any("calibrator" in call.name for call in fake.calls)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_fp32_is_not_rounded_to_tf32(fake: FakeTensorrt, tmp_path: Path, precision: str) -> None:
    run(fake, make_job(tmp_path, precision=precision))
    cleared = [found["flag"].name for found in fake.arguments("IBuilderConfig.clear_flag")]
    assert cleared == (["TF32"] if precision == "fp32" else [])
    assert ("TF32" in flags_set(fake)) == (precision != "fp32")


def test_no_tactic_needs_a_library_that_serving_hosts_lack(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path))
    (found,) = fake.arguments("IBuilderConfig.set_tactic_sources")
    sources = members(fake, "TacticSource", found["tactic_sources"])
    assert sources
    assert sources == set(fake.module.TacticSource.__members__) - {"CUBLAS", "CUBLAS_LT", "CUDNN"}


def test_the_settings_of_model_yaml_reach_the_builder(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path, memory_limit_mib=512, optimization_level=5, sparsity=True))
    pool = fake.module.MemoryPoolType.WORKSPACE
    assert fake.arguments("IBuilderConfig.set_memory_pool_limit") == [{"pool": pool, "pool_size": 512 << 20}]
    assert fake.arguments("IBuilderConfig.builder_optimization_level") == [{"builder_optimization_level": 5}]
    assert "SPARSE_WEIGHTS" in flags_set(fake)


def test_what_model_yaml_does_not_ask_for_is_left_as_it_is(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path))
    assert fake.arguments("IBuilderConfig.set_memory_pool_limit") == []
    assert fake.arguments("IBuilderConfig.builder_optimization_level") == [{"builder_optimization_level": 3}]
    assert "SPARSE_WEIGHTS" not in flags_set(fake)


def test_layers_can_be_told_apart_in_the_engine(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path))
    assert fake.arguments("IBuilderConfig.profiling_verbosity") == [
        {"profiling_verbosity": fake.module.ProfilingVerbosity.DETAILED}
    ]


@pytest.mark.parametrize("dims", [RANGE, BUCKETS], ids=["range", "buckets"])
def test_progress_rises_to_the_whole_over_all_plans(fake: FakeTensorrt, tmp_path: Path, dims: dict[str, Any]) -> None:
    shares = run(fake, make_job(tmp_path, dims=dims))
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(low <= high for low, high in pairwise(shares))
    plans = 3 if dims is BUCKETS else 1
    if hasattr(fake.module, "IProgressMonitor"):
        assert {round((plan + 0.5) / plans, 3) for plan in range(plans)} <= {round(share, 3) for share in shares}


def test_plugins_are_loaded_before_the_model_is_parsed_and_go_with_the_engine(
    fake: FakeTensorrt, tmp_path: Path
) -> None:
    libraries = (tmp_path / "libfirst.so", tmp_path / "libsecond.so")
    for library in libraries:
        library.write_bytes(library.name.encode())
    run(fake, make_job(tmp_path).model_copy(update={"plugins": libraries}))
    assert fake.arguments("IPluginRegistry.load_library") == [{"plugin_path": str(library)} for library in libraries]
    names = [call.name for call in fake.calls]
    assert names.index("IPluginRegistry.load_library") < names.index("OnnxParser.parse_from_file")
    assert PlanIndex.read(tmp_path / "plan").plugins == ("plugins/libfirst.so", "plugins/libsecond.so")
    assert (tmp_path / "plan" / "plugins" / "libsecond.so").read_bytes() == b"libsecond.so"


def test_a_plugin_that_cannot_be_loaded_is_named(fake: FakeTensorrt, tmp_path: Path) -> None:
    (tmp_path / "libplugin.so").write_bytes(b"")
    fake.on("IPluginRegistry.load_library", lambda *_: None)
    with pytest.raises(StageError, match=r"build.plugins: libplugin.so cannot be loaded: it gave no reason"):
        run(fake, make_job(tmp_path).model_copy(update={"plugins": (tmp_path / "libplugin.so",)}))


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_precisions_of_today_are_refused_on_8_and_lie_in_the_graph_from_10_on(
    fake: FakeTensorrt, tmp_path: Path, precision: str
) -> None:
    job = make_job(tmp_path, precision=precision)
    if not fake.version.startswith("8."):
        run(fake, job)
        assert flags_set(fake) - {"TF32"} == set()
        return
    with pytest.raises(InputError, match=rf"TensorRT 8.6.0 has no {precision}; build with TensorRT 10.12 or newer, or"):
        run(fake, job)
    assert "Builder.__init__" not in [call.name for call in fake.calls]


@pytest.mark.parametrize("fake", [UNTYPED], indirect=True)
def test_an_opset_that_8_cannot_read_is_refused_and_the_key_named(fake: FakeTensorrt, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"model.yaml: export.opset: TensorRT 8.6.0 takes opset 17 at most, .* has 20; set export.opset",
    ):
        run(fake, make_job(tmp_path, opset=20))
    assert "Builder.__init__" not in [call.name for call in fake.calls]


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_later_releases_take_the_opset_that_is_exported_by_default(fake: FakeTensorrt, tmp_path: Path) -> None:
    run(fake, make_job(tmp_path, opset=20))


def test_a_builder_that_gives_nothing_is_a_failed_stage_with_tensorrts_errors(
    fake: FakeTensorrt, tmp_path: Path
) -> None:
    def fail(builder: Any, _network: Any, _config: Any) -> None:
        severity = fake.module.Logger
        builder.logger.log(severity.WARNING, "this was only a warning")
        for text in ("Error Code 10: Could not find any implementation", "Error Code 2: no plan"):
            builder.logger.log(severity.ERROR, text)

    def parse(_parser: Any, _path: str) -> bool:
        loggers[0].log(fake.module.Logger.ERROR, "an error that the parser got over")
        return True

    loggers: list[Any] = []
    fake.on(
        "Builder.create_network", lambda builder, _: loggers.append(builder.logger) or fake.make("INetworkDefinition")
    )
    fake.on("OnnxParser.parse_from_file", parse)
    fake.on("Builder.build_serialized_network", fail)
    with pytest.raises(StageError) as caught:
        run(fake, make_job(tmp_path, dims=BUCKETS))
    assert str(caught.value) == (
        f"TensorRT {fake.version} cannot build engine-batch1.plan: Error Code 10: Could not find any implementation;"
        " Error Code 2: no plan"
    )


@pytest.mark.parametrize("axis", ["", "frames"], ids=["without a name", "of another name"])
def test_an_output_that_could_not_be_cut_is_refused_beside_buckets(
    fake: FakeTensorrt, tmp_path: Path, axis: str
) -> None:
    job = make_job(tmp_path)
    spec = tiny_spec(
        inputs={"features": {"dtype": "float32", "shape": ["batch", "width"]}},
        dims={**RANGE, "width": {"min": 1, "opt": 4, "max": 4, "buckets": [2, 4]}},
    )
    model = onnx.load(str(job.onnx))
    added = model.graph.output[0].type.tensor_type.shape.dim.add()
    if axis:
        added.dim_param = axis
    onnx.save(model, str(job.onnx))
    with pytest.raises(InputError, match=r"dims.width.buckets: axis 1 of output score varies with the input"):
        run(fake, job.model_copy(update={"inputs": spec.inputs, "dims": spec.dims}))
    assert fake.calls == []


def test_a_range_beside_buckets_stays_dynamic_in_each_plan(fake: FakeTensorrt, tmp_path: Path) -> None:
    spec = tiny_spec(
        inputs={"features": {"dtype": "float32", "shape": ["batch", "width"]}},
        dims={**RANGE, "width": {"min": 1, "opt": 4, "max": 4, "buckets": [2, 4]}},
    )
    run(fake, make_job(tmp_path).model_copy(update={"inputs": spec.inputs, "dims": spec.dims}))
    assert (tmp_path / "plan" / "engine-width2.plan").read_bytes() == b"plan of (-1, 2)"
    assert fake.arguments("IOptimizationProfile.set_shape") == [
        {"input": "features", "min": (1, width), "opt": (8, width), "max": (16, width)} for width in (2, 4)
    ]


# The backend around it


@pytest.mark.parametrize("version", ["7.2.3", "8.5.3", "8.7.0", "9.3.0", "10.3.0", "10.11.0", "12.0.0", "13.1"])
def test_a_version_that_is_not_supported_is_refused(version: str) -> None:
    flags = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
    module = SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=flags)
    with pytest.raises(StageError, match=rf"TensorRT {version} is not supported; install 8.6, or 10.12 to 11.x"):
        dialect_of(module)


@pytest.mark.parametrize("version", ["8.6.1", "8.6.1.post1", "10.12.0.36", "10.16.1.11", "11.0.0", "11.4.0.5"])
def test_every_version_of_the_supported_lines_is_taken(version: str) -> None:
    flags = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
    assert dialect_of(SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=flags))


def test_the_backend_builds_with_the_installed_tensorrt(fake: FakeTensorrt, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert import_tensorrt() is fake.module
    assert backend_of("tensorrt").build(job, lambda _done, _total: None) == ()
    assert files_in(tmp_path / "plan") == ["engine.json", "engine.plan"]


@pytest.mark.parametrize("kind", ["ImportError", "OSError", "RuntimeError"])
def test_a_tensorrt_that_cannot_be_loaded_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(f"raise {kind}('libnvinfer is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(
        StageError, match=r"cannot be loaded here \(libnvinfer is missing\); pip install '\.\[tensorrt\]'"
    ):
        import_tensorrt()


def test_the_identity_names_the_gpu_and_the_release(fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="NVIDIA L4", compute_capability="8.9", cuda="13.0", driver="580.65", mig=None)
    monkeypatch.setattr(trt, "find_gpu", lambda: gpu)
    identity = backend_of("tensorrt").identity()
    assert (identity.name, identity.version, identity.device) == ("tensorrt", fake.version, "NVIDIA L4")
    assert (identity.compute_capability, identity.cuda, identity.driver) == ("8.9", "13.0", "580.65")


def test_every_setting_that_changes_an_engine_changes_its_options(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "find_gpu", lambda: None)
    monkeypatch.setattr(attention_plugin, "describe", lambda _gpu: {"attention": "plugin"})
    backend = TensorRtBackend()
    changes: list[dict[str, Any]] = [
        {},
        {"memory_limit_mib": 1024},
        {"optimization_level": 4},
        {"sparsity": True},
        {"cuda_graph": False},
        *([{"attention": "tensorrt"}] if fake.version == UNTYPED else []),
        {"refit": True},
        {"hardware_compatible": True},
    ]
    found = [tuple(backend.options(BuildSpec(**change), Precision.FP16).items()) for change in changes]
    assert len(set(found)) == len(changes)


def test_the_attention_plugin_is_an_option_of_8_6_where_numbers_are_rounded(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "find_gpu", lambda: None)
    monkeypatch.setattr(attention_plugin, "describe", lambda _gpu: {"attention": "plugin"})
    backend = TensorRtBackend()
    wanted = {one for one in Precision if "attention" in backend.options(BuildSpec(), one)}
    assert wanted == (set() if fake.version != UNTYPED else set(Precision) - {Precision.FP32})


def test_8_6_builds_what_the_plugin_is_put_into_and_later_releases_the_graph_as_it_is(
    fake: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = write_onnx(tmp_path / "other")
    library = tmp_path / "libattention.so"
    library.write_bytes(b"library")

    def put(job: BuildJob, _model: onnx.ModelProto) -> tuple[BuildJob, tuple[str, ...]]:
        return job.model_copy(update={"onnx": other, "plugins": (library,)}), ()

    monkeypatch.setattr(attention_plugin, "with_plugin", put)
    job = make_job(tmp_path, precision="fp16")
    run(fake, job)
    (parsed,) = fake.arguments("OnnxParser.parse_from_file")
    assert parsed["model"] == str(other if fake.version == UNTYPED else job.onnx)
    assert (tmp_path / "plan" / "plugins").exists() == (fake.version == UNTYPED)


# Names that no build of these tests reaches


def chains(tree: ast.AST) -> Iterator[list[str]]:
    """What follows the name `trt` in each `trt.a.b`."""
    for node in ast.walk(tree):
        names: list[str] = []
        value: ast.AST = node
        while isinstance(value, ast.Attribute):
            names.insert(0, value.attr)
            value = value.value
        if names and isinstance(value, ast.Name) and value.id in {"trt", "_trt"}:
            yield names


@pytest.mark.parametrize("release", [*RELEASES, RTX])
def test_every_name_of_tensorrt_in_the_code_exists_in_the_release(release: str) -> None:
    module = FakeTensorrt(release).module
    found: list[list[str]] = []
    for path in Path(tasks.backends.__file__).parent.glob("trt*.py"):
        if path.name not in (OF_GPUS if release == RTX else OF_RTX):
            found += chains(ast.parse(path.read_text(encoding="utf-8")))
    assert len(found) > 20
    for names in found:
        value: Any = module
        if names[0] in ASKED_FOR:
            continue
        for name in names:
            if type(value).__name__ == "function":  # what it returns is known when it is called
                break
            if name != "__members__":
                assert hasattr(value, name), names
            value = getattr(value, name)
            if name == "__members__":
                break
