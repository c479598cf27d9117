"""How tactics are kept of a build, avoided in the next, and pinned, on a stand-in of every release."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends.timing_cache import forget_timings
from tasks.backends.trt_build import build_plans
from tasks.backends.trt_tactics import TIMINGS_FILE, TacticChoice, TimedTactics, algorithm_selector, read_tactics
from tasks.rebuild_records import TACTICS_FILE, Tactic, TacticList
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.test_trt_build import TYPED, UNTYPED, flags_set, give_plan, let_build, make_job

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

# As TensorRT 10 writes it; from the README of NVIDIA's sample, its hashes and times shortened.
KEY, OTHER_KEY = "0x1814870c44ff0f8574df6e3dda04cbd7", "0xb222b0832016f1115ff61116c094875a"
HEADING = (
    "tactic_id, cost(in ms), cost/fastest_cost, prediction_correlation, kernel_name, tactic_hash, tunable_parameter"
)
FIRST = f"""Autotuning op matMul1(key: {KEY}):
Sorted table of all evaluated tactics:
{HEADING}
   3, 0.0112640, 1.00000, 0.50673, gemm_32x32, 0x665d,
   5, 0.0118784, 1.05455, 0.51157, gemm_64x32, 0x393e,
   6, 0.0123904, 1.10000, -0.5060, gemm_64x64, 0x2ad3,
The selected tactic is (tactic hash, cost(in ms)):0x665d,  0.011264
Writing the best tactic (0x665d) to cache"""
SECOND = f"""Autotuning op matMul2(key: {OTHER_KEY}):
{HEADING}
   3, 0.01, 1.0, 0.5, gemm_64x64, 0x2ad3,
The selected tactic is (tactic hash, cost(in ms)):0x2ad3,  0.01"""
LAYERS = [
    {"Name": "matMul1_myl0_0", "TacticName": "gemm_32x32", "TacticValue": "0x0000000000000007"},
    {"Name": "a shuffle"},
    {"Name": "softmax", "TacticName": "", "TacticValue": "0xfffffffffffffff0"},
]
WRONG = (
    Tactic(plan="engine.plan", layer="matMul1_myl0_0", kernel="gemm_32x32", value="0x0000000000000007"),
    Tactic(plan="engine.plan", layer="softmax", value="0xfffffffffffffff0"),
)


def heard(*messages: str) -> TimedTactics:
    timed = TimedTactics()
    for message in messages:
        timed.hear(message)
    return timed


def write_tactics(folder: Path, *tactics: Tactic, timings: bytes = b"", edited: bool = False) -> Path:
    folder.mkdir()
    (folder / TACTICS_FILE).write_text(TacticList(tactics=tactics, edited=edited).model_dump_json())
    if timings:
        (folder / TIMINGS_FILE).write_bytes(timings)
    return folder


def build(fake: FakeTensorrt, tmp_path: Path, **changes: Any) -> tuple[BuildJob, tuple[str, ...]]:
    (tmp_path / "tactics").mkdir()
    job = make_job(tmp_path).model_copy(update={"tactics": tmp_path / "tactics", **changes})
    return job, build_plans(fake.module, job, lambda _done, _total: None)


class Builder:
    """Builds with a log, and remembers the configuration of each build."""

    def __init__(self, fake: FakeTensorrt, *messages: str) -> None:
        let_build(fake)
        self.fake, self.messages, self.configs = fake, messages, []
        fake.on("Builder.build_serialized_network", self._build)

    def _build(self, builder: Any, network: Any, config: Any) -> bytes:
        self.configs.append(config)
        for message in self.messages:
            builder.logger.log(self.fake.module.Logger.VERBOSE, message)
        return give_plan(builder, network, config)


def describe_layers(fake: FakeTensorrt) -> None:
    fake.on("ICudaEngine.num_layers", len(LAYERS))
    fake.on("EngineInspector.get_layer_information", lambda _inspector, number, _format: json.dumps(LAYERS[number]))


# What is heard, and what is chosen by it


@pytest.mark.parametrize("by_line", [False, True])
def test_the_fastest_other_tactic_is_taken_where_a_kernel_to_avoid_was_chosen(by_line: bool) -> None:
    messages = (FIRST, SECOND)
    timed = heard(*(line for message in messages for line in message.splitlines())) if by_line else heard(*messages)
    assert timed.others(frozenset({"gemm_32x32"})) == {KEY: (0x393E, 0.0118784)}
    assert timed.others(frozenset({"gemm_32x32", "gemm_64x32"})) == {KEY: (0x2AD3, 0.0123904)}


def test_an_operation_without_another_tactic_or_with_a_good_one_is_left_alone() -> None:
    timed = heard(FIRST, SECOND)
    assert timed.others(frozenset({"gemm_64x64"})) == {}, "the one has no other, the other did not choose it"
    assert timed.others(frozenset({"elsewhere"})) == {}


def test_what_is_no_table_of_tactics_is_not_taken_for_one() -> None:
    assert not heard("3, 1.0, 1.0, 0.5, gemm, 0x1,", "Building", "The selected tactic is", "").has_any
    assert heard(f"Autotuning op a (b)(key: {KEY}):", "3 layers").others(frozenset({"gemm"})) == {}


@pytest.mark.parametrize(
    ("avoid", "pinned", "numbers", "left"),
    [
        ((), None, [7, -16, 9], [0, 1, 2]),
        (WRONG, None, [7, 8, 9], [1, 2]),
        (WRONG, None, [7, 7], [0, 1]),  # a layer that has nothing else keeps what it has
        ((), WRONG, [9, 7, 7], [1, 2]),
        ((), WRONG, [8, 9], [0, 1]),  # a pinned tactic that is not offered binds nobody
        (WRONG, WRONG, [7, 8], [0]),
    ],
)
def test_a_layer_keeps_at_least_one_tactic(
    avoid: tuple[Tactic, ...], pinned: tuple[Tactic, ...] | None, numbers: list[int], left: list[int]
) -> None:
    choice = TacticChoice(avoid, None if pinned is None else TacticList(tactics=pinned))
    assert choice.allowed("engine.plan", "matMul1_myl0_0", numbers) == left


def test_tactics_are_of_one_plan_and_layer_and_their_numbers_are_unsigned_there_and_signed_here() -> None:
    choice = TacticChoice(WRONG)
    assert choice.allowed("engine.plan", "softmax", [-16, 16]) == [1]
    assert choice.allowed("engine-batch8.plan", "softmax", [-16, 16]) == [0, 1]
    assert choice.allowed("engine.plan", "another", [-16, 16]) == [0, 1]
    assert TacticChoice((Tactic(plan="p", layer="l", value="odd"),)).allowed("p", "l", [0, 1]) == [0, 1]


# Builds on every release


def test_a_build_leaves_the_tactics_of_its_layers_and_its_timings(fake: FakeTensorrt, tmp_path: Path) -> None:
    Builder(fake)
    describe_layers(fake)
    fake.on("ITimingCache.serialize", lambda _cache: b"timings")
    job, warnings = build(fake, tmp_path)
    assert warnings == ()
    assert job.tactics
    assert read_tactics(job.tactics) == TacticList(tactics=WRONG)
    assert (job.tactics / TIMINGS_FILE).read_bytes() == b"timings"
    assert fake.arguments("Runtime.deserialize_cuda_engine")[0]["serialized_engine"] == b"plan of (-1, 4)"


def test_a_plan_that_cannot_be_looked_into_is_built_all_the_same(fake: FakeTensorrt, tmp_path: Path) -> None:
    Builder(fake)
    fake.on("Runtime.deserialize_cuda_engine", lambda *_: None)
    job, warnings = build(fake, tmp_path)
    assert warnings == ()
    assert job.tactics
    assert read_tactics(job.tactics).tactics == ()
    assert (job.plan / "engine.plan").exists()


def test_without_a_folder_for_them_no_plan_is_looked_into(fake: FakeTensorrt, tmp_path: Path) -> None:
    Builder(fake)
    build(fake, tmp_path, tactics=None)
    assert fake.arguments("Runtime.deserialize_cuda_engine") == []


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_the_timing_cache_is_edited_and_the_build_made_with_it(fake: FakeTensorrt, tmp_path: Path) -> None:
    builder = Builder(fake, FIRST, SECOND)
    parsed: list[str] = []
    fake.on("TimingCacheKey.parse", lambda text: parsed.append(text) or fake.make("TimingCacheKey"))
    fake.on("ITimingCache.serialize", lambda _cache: b"edited")
    job, warnings = build(fake, tmp_path, avoid=(write_tactics(tmp_path / "wrong", *WRONG),))
    assert warnings == ()
    assert parsed == [KEY]
    assert len(fake.arguments("ITimingCache.update")) == 1
    assert fake.arguments("TimingCacheValue.__init__") == [{"arg0": 0x393E, "arg1": 0.0118784}]
    assert len(builder.configs) == 2
    assert builder.configs[0] is builder.configs[1]
    assert "EDITABLE_TIMING_CACHE" in flags_set(fake)
    assert job.tactics
    assert read_tactics(job.tactics).edited


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_a_log_that_tells_of_no_tactics_is_a_warning_and_one_build(fake: FakeTensorrt, tmp_path: Path) -> None:
    builder = Builder(fake)
    _, warnings = build(fake, tmp_path, avoid=(write_tactics(tmp_path / "wrong", *WRONG),))
    (warning,) = warnings
    assert "does not tell which tactics it timed" in warning
    assert len(builder.configs) == 1


@pytest.mark.parametrize("fake", TYPED, indirect=True)
@pytest.mark.parametrize("edited", [True, False])
def test_pinned_timings_are_what_the_build_begins_with(fake: FakeTensorrt, tmp_path: Path, edited: bool) -> None:
    Builder(fake)
    pinned = write_tactics(tmp_path / "pinned", *WRONG, timings=b"of the build that passed", edited=edited)
    build(fake, tmp_path, pinned=pinned)
    read = [found["serialized_timing_cache"] for found in fake.arguments("IBuilderConfig.create_timing_cache")]
    assert b"of the build that passed" in read
    assert ("EDITABLE_TIMING_CACHE" in flags_set(fake)) is edited


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_a_build_that_nothing_leads_is_as_it_was(fake: FakeTensorrt, tmp_path: Path) -> None:
    builder = Builder(fake, FIRST)
    build(fake, tmp_path)
    assert len(builder.configs) == 1
    assert "EDITABLE_TIMING_CACHE" not in flags_set(fake)
    assert fake.arguments("ITimingCache.update") == []


@pytest.mark.parametrize("fake", [UNTYPED], indirect=True)
@pytest.mark.parametrize("way", ["avoid", "pinned"])
def test_8_is_led_by_a_selector_that_lives_as_long_as_the_build(fake: FakeTensorrt, tmp_path: Path, way: str) -> None:
    builder = Builder(fake)
    chosen: list[list[int]] = []

    def select(_builder: Any, network: Any, config: Any) -> bytes:
        choices = [SimpleNamespace(algorithm_variant=SimpleNamespace(tactic=number)) for number in (7, 8)]
        chosen.append(config.algorithm_selector.select_algorithms(SimpleNamespace(name="matMul1_myl0_0"), choices))
        return give_plan(builder, network, config)

    fake.on("Builder.build_serialized_network", select)
    folder = write_tactics(tmp_path / "before", *WRONG, timings=b"rejected by 8.6.0")
    build(fake, tmp_path, **{way: folder if way == "pinned" else (folder,)})
    assert chosen == [[1] if way == "avoid" else [0]]
    read = [found["serialized_timing_cache"] for found in fake.arguments("IBuilderConfig.create_timing_cache")]
    assert b"rejected by 8.6.0" not in read


@pytest.mark.parametrize("fake", [UNTYPED], indirect=True)
def test_8_has_no_selector_where_nothing_is_to_be_chosen(fake: FakeTensorrt, tmp_path: Path) -> None:
    Builder(fake)
    build(fake, tmp_path)
    assert fake.arguments("IBuilderConfig.algorithm_selector") == []


@pytest.mark.parametrize("fake", [UNTYPED, "10.12.0", "10.16.1"], indirect=True)
def test_a_selector_constructs_its_base_and_reports_nothing(fake: FakeTensorrt) -> None:
    selector = algorithm_selector(fake.module, TacticChoice(), "engine.plan")
    assert state_of(selector)["constructed"]
    assert selector.report_algorithms([], []) is None


def test_timings_that_misled_a_builder_are_thrown_away_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "gpu.cache"
    forget_timings(path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"timings")
    forget_timings(path)
    assert not path.exists()
