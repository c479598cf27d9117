from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.backends.interface import LayerTime
from tasks.errors import EnginegateError, StageError
from tasks.graphs.onnx_files import REASON_LENGTH
from tasks.process.child import ChildFailedError
from tasks.samples.npz import save_shard
from tasks.stages import benchmark
from tasks.stages.benchmark import ROUNDS, Turn, TurnReply, benchmark_engine, summarise, take_turn
from tasks.stages.build import build_engine
from tasks.timings import PytorchForm
from tests.tasks.tiny import job, make_features, make_outcome, put_data, put_model, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Self

    from tasks.process.context import StageContext
    from tasks.records import BuiltEngine, EngineJob
    from tasks.stages.benchmark import Rounds, Side

REFERENCE, HALF, COMPILED = PytorchForm
ALL: tuple[Side, ...] = (None, *PytorchForm)
VERSIONS = {"python": "3.12", "torch": "2.9.0"}


def make_rounds(sizes: Sequence[int], sides: Sequence[Side]) -> Rounds:
    rng = np.random.default_rng(1)
    return {
        size: [
            {side: tuple(rng.lognormal(n, 0.5, rng.integers(2, 9)).tolist()) for n, side in enumerate(sides)}
            for _ in range(ROUNDS)
        ]
        for size in sizes
    }


def test_percentiles_and_throughput_are_those_of_all_calls_of_a_side() -> None:
    rounds = make_rounds((1, 8, 32), ALL)
    found = summarise(rounds, {}, 7, 8)
    for side, timing in ((None, found.engine), *found.pytorch.items()):
        assert [latency.batch for latency in timing.latencies] == [1, 8, 32]
        for latency in timing.latencies:
            calls = np.concatenate([turns[side] for turns in rounds[latency.batch]])
            expected = np.quantile(calls, [0.5, 0.9, 0.99])
            assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == pytest.approx(expected)
            assert latency.throughput_per_s == pytest.approx(latency.batch / (np.median(calls) / 1000))
            assert latency.calls == calls.size
    assert (found.engine_size_bytes, found.headline.batch) == (7, 8)
    assert list(found.pytorch) == [REFERENCE, HALF, COMPILED]


def test_the_speed_up_is_the_median_over_rounds_of_the_ratio_within_a_round() -> None:
    # The machine turns five times slower half-way; within each round the reference takes twice as long.
    rounds: Rounds = {4: [{None: (slow, slow), REFERENCE: (2 * slow, 2 * slow)} for slow in [1.0] * 6 + [5.0] * 6]}
    assert summarise(rounds, {}, 1, 4).speedup == {REFERENCE: {4: 2.0}}
    rounds = make_rounds((1, 2), ALL)
    found = summarise(rounds, {}, 1, 2)
    for form in PytorchForm:
        expected = {
            size: np.median([np.median(turns[form]) / np.median(turns[None]) for turns in taken])
            for size, taken in rounds.items()
        }
        assert found.speedup[form] == pytest.approx(expected)
    assert found.headline_speedup == found.speedup[REFERENCE][2]


def test_bounds_of_medians_are_the_third_rounds_from_either_end() -> None:
    rounds: Rounds = {4: [{None: (float(n),), REFERENCE: (float(2 * n * n),)} for n in range(1, ROUNDS + 1)]}
    found = summarise(rounds, {}, 1, 4)
    assert found.speedup_interval == {REFERENCE: {4: (6.0, 20.0)}}
    assert found.headline.p50_interval == (3.0, 10.0)
    assert found.pytorch[REFERENCE].latencies[0].p50_interval == (18.0, 200.0)


def test_bounds_of_medians_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    benchmarks = [summarise({1: [{None: (t,)} for t in rng.lognormal(0, 1, ROUNDS)]}, {}, 1, 1) for _ in range(4000)]
    lows, highs = np.transpose([found.headline.p50_interval for found in benchmarks])
    assert 0.013 < np.mean(lows > 1) < 0.026
    assert 0.013 < np.mean(highs < 1) < 0.026


def test_without_a_reference_there_is_no_speed_up() -> None:
    found = summarise(make_rounds((1, 8), (None,)), {}, 1, 8)
    assert (found.pytorch, found.speedup, found.headline_speedup) == ({}, {}, None)
    assert len(found.engine.latencies) == 2


def test_device_memory_is_that_of_each_side_and_unknown_where_nobody_told_it() -> None:
    found = summarise(make_rounds((1,), (None, REFERENCE, HALF)), {None: 5, HALF: 7}, 1, 1)
    assert found.engine.device_memory_bytes == 5
    assert [timing.device_memory_bytes for timing in found.pytorch.values()] == [None, 7]


# A turn, in the child


class FakeEngine:
    """Takes 2 ms for a batch, and writes down the shapes that it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def timed_call(self, feeds: dict[str, Any]) -> Any:
        self.shapes.append(feeds["features"].shape)
        return lambda: 2.0

    def device_memory_bytes(self) -> int:
        return 1000 * len(self.shapes)

    def layer_times(self, feeds: dict[str, Any]) -> list[LayerTime]:
        return [LayerTime(f"gemm of {feeds['features'].shape}", "gemm", "Half", "sm80", 0.5)]


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    engine = FakeEngine()
    monkeypatch.setattr(benchmark, "_engine", lambda _target, _plan: engine)
    save_shard(tmp_path, 0, {"features": make_features(3)})
    return engine


def turn_of(folder: Path, **changes: Any) -> Turn:
    turn = Turn(
        target="cpu", runtime="onnxruntime", data=folder, inputs=tiny_spec().inputs, extents={"batch": 5}, seconds=0.0
    )
    return turn.model_copy(update=changes)


def take(turn: Turn) -> TurnReply:
    return take_turn(turn.model_dump(mode="json"), lambda _done, _total: None)


def test_a_turn_makes_at_least_two_calls_however_short_it_is(tmp_path: Path, fake_engine: FakeEngine) -> None:
    reply = take(turn_of(tmp_path))
    assert reply.latencies_ms == (2.0, 2.0)
    assert fake_engine.shapes == [(5, 4)]
    assert reply.layers == ()


def test_a_turn_lasts_about_as_long_as_it_was_given(tmp_path: Path, fake_engine: FakeEngine) -> None:
    assert len(take(turn_of(tmp_path, seconds=0.02)).latencies_ms) > 10
    assert fake_engine.shapes


def test_the_memory_is_told_after_the_calls(tmp_path: Path, fake_engine: FakeEngine) -> None:
    assert take(turn_of(tmp_path)).device_memory_bytes == 1000
    assert len(fake_engine.shapes) == 1


@pytest.mark.usefixtures("fake_engine")
def test_a_turn_for_layers_times_nothing_else(tmp_path: Path) -> None:
    reply = take(turn_of(tmp_path, with_layers=True))
    assert reply.latencies_ms == ()
    assert [(layer.name, layer.time_ms) for layer in reply.layers] == [("gemm of (5, 4)", 0.5)]
    assert TurnReply.model_validate_json(reply.model_dump_json()) == reply


# The race, with children that only pretend


class FakeChildren:
    """Stands for the children. `failing` says how a form of PyTorch ends; the engine takes 1 ms, forms 2, 3 and 4."""

    def __init__(self) -> None:
        self.failing: dict[Side, EnginegateError] = {}
        self.limits: list[int | None] = []
        self.turns: list[tuple[Side, Turn]] = []
        self.pythons: dict[Side, Path | None] = {}
        self.open = 0
        self.layers: tuple[LayerTime, ...] = ()
        self.memory: dict[Side, list[int]] = {None: [100, 700, 300]}

    def sizes(self, side: Side) -> list[int]:
        return sorted({turn.extents["batch"] for who, turn in self.turns if who == side})

    def start(
        self, entry: str, folder: Path, *, python: Path | None = None, memory_limit_bytes: int | None = None
    ) -> FakeChild:
        self.limits.append(memory_limit_bytes)
        assert entry == "tasks.stages.benchmark:take_turn"
        assert folder.is_dir()
        self.open += 1
        return FakeChild(self, python)


class FakeChild:
    def __init__(self, children: FakeChildren, python: Path | None) -> None:
        self.children, self.python, self.closed = children, python, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.children.open -= not self.closed
        self.closed = True

    def ask(self, turn: Turn, _reply: type[TurnReply], *, time_limit_s: float) -> TurnReply:
        assert time_limit_s == 120
        assert not self.closed
        side: Side = None if turn.module is None else turn.form
        self.children.turns.append((side, turn))
        self.children.pythons[side] = self.python
        if side in self.children.failing:
            raise self.children.failing[side]
        memory = self.children.memory.get(side)
        return TurnReply(
            latencies_ms=(1.0 + ALL.index(side),) * 2,
            device_memory_bytes=memory[len(self.children.turns) % len(memory)] if memory else None,
            layers=self.children.layers if turn.with_layers else (),
        )


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeChildren]:
    """With a PyTorch of every form."""
    children = FakeChildren()
    monkeypatch.setattr(benchmark, "Child", children.start)
    monkeypatch.setattr(benchmark, "FORMS_ON_CPU", tuple(PytorchForm))
    monkeypatch.setattr(benchmark, "torch_versions", lambda _python: VERSIONS)
    yield children
    assert children.open == 0, "every child is closed, however the benchmark ends"


def make_race(context: StageContext, folder: Path) -> tuple[EngineJob, BuiltEngine]:
    data = put_data(context.store, [{"features": make_features(20)}])
    outcome = make_outcome(context.store)
    assert outcome.engine
    identity = benchmark.backend_of("onnxruntime").identity()
    return (
        job(context.store, put_model(context.store, folder / "onnx"), data=data),
        outcome.engine.model_copy(update={"backend": identity}),
    )


def test_every_form_of_pytorch_is_timed_at_every_batch_size(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    found = benchmark_engine(context, *make_race(context, tmp_path)).result
    assert list(found.pytorch) == [REFERENCE, HALF, COMPILED]
    assert found.speedup == {form: dict.fromkeys((1, 8, 16), float(n)) for n, form in enumerate(PytorchForm, 2)}
    assert all(children.sizes(side) == [1, 8, 16] for side in ALL)
    assert found.missing == {}
    assert children.limits == [None, *[context.memory_limit_bytes] * 3], "user code has a limit; the engine has none"


def test_the_sides_take_short_turns_one_after_the_other(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    benchmark_engine(context, *make_race(context, tmp_path))
    timed = [side for side, turn in children.turns if turn.seconds == context.benchmark_s / ROUNDS]
    assert timed == list(ALL) * ROUNDS * 3


def test_pytorch_runs_in_the_interpreter_that_has_it_and_the_engine_in_this_one(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    benchmark_engine(replace(context, torch_python=Path("/opt/torch/python")), *make_race(context, tmp_path))
    assert children.pythons.pop(None) is None
    assert set(children.pythons.values()) == {Path("/opt/torch/python")}


def test_a_form_that_fails_drops_out_with_its_reason_and_the_others_go_on(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    children.failing = {
        HALF: ChildFailedError('raised RuntimeError: "cumsum" is not implemented for Half\n    | Traceback\n    | ...'),
        COMPILED: StageError("no compiler at /opt/cc (0x7f00) " + "x" * 900),
    }
    found = benchmark_engine(context, *make_race(context, tmp_path)).result
    assert list(found.pytorch) == list(found.speedup) == [REFERENCE]
    assert found.missing[HALF] == 'raised RuntimeError: "cumsum" is not implemented for Half'
    assert found.missing[COMPILED].startswith("no compiler at … (…) x")
    assert len(found.missing[COMPILED]) == REASON_LENGTH
    assert [side for side, _ in children.turns].count(HALF) == 1


def test_an_engine_whose_module_is_not_at_hand_is_timed_alone(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    work, engine = make_race(context, tmp_path)
    found = benchmark_engine(context, work.model_copy(update={"module": None}), engine).result
    assert (found.pytorch, found.headline_speedup) == ({}, None)
    assert {side for side, _ in children.turns} == {None}


@pytest.mark.parametrize("side", [None, REFERENCE], ids=["engine", "reference"])
def test_without_the_engine_or_the_reference_there_is_no_benchmark(
    context: StageContext, tmp_path: Path, children: FakeChildren, side: Side
) -> None:
    children.failing = {side: ChildFailedError("was killed by SIGSEGV")}
    race = make_race(context, tmp_path)
    with pytest.raises(StageError, match="was killed by SIGSEGV"):
        benchmark_engine(context, *race)
    children.failing = {}
    assert not benchmark_engine(context, *race).cached


def test_the_engines_memory_is_the_most_that_it_took(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    children.memory[HALF] = [50]
    found = benchmark_engine(context, *make_race(context, tmp_path)).result
    assert found.engine.device_memory_bytes == 700
    memory = {form: timing.device_memory_bytes for form, timing in found.pytorch.items()}
    assert memory == {REFERENCE: None, HALF: 50, COMPILED: None}


def test_the_engines_layers_are_kept_as_an_artifact(
    context: StageContext, tmp_path: Path, children: FakeChildren
) -> None:
    children.layers = (LayerTime("gemm", "gemm", "Half", "sm80", 0.5), LayerTime("norm", "norm", "Float", "", 0.25))
    found = benchmark_engine(context, *make_race(context, tmp_path)).result
    assert found.layers
    content = (context.store.fetch(found.layers, tmp_path / "layers") / "layers.json").read_text()
    assert [(layer["name"], layer["time_ms"]) for layer in json.loads(content)] == [("gemm", 0.5), ("norm", 0.25)]
    (asked,) = [turn for _, turn in children.turns if turn.with_layers]
    assert asked.extents == {"batch": 8}


@pytest.mark.usefixtures("children")
def test_a_runtime_that_tells_no_layers_keeps_none(context: StageContext, tmp_path: Path) -> None:
    assert benchmark_engine(context, *make_race(context, tmp_path)).result.layers is None


def test_buckets_of_the_batch_are_what_is_timed(context: StageContext, tmp_path: Path, children: FakeChildren) -> None:
    buckets = {"batch": {"min": 1, "opt": 4, "max": 32, "buckets": [2, 4, 32]}}
    data = put_data(context.store, [{"features": make_features(20)}])
    _, engine = make_race(context, tmp_path)
    wanted = job(context.store, put_model(context.store, tmp_path / "b"), spec=tiny_spec(dims=buckets), data=data)
    found = benchmark_engine(context, wanted, engine).result
    assert [latency.batch for latency in found.engine.latencies] == children.sizes(None) == [2, 4, 32]
    assert found.headline.batch == 4


def test_another_torch_or_module_is_measured_anew(
    context: StageContext, tmp_path: Path, children: FakeChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, engine = make_race(context, tmp_path)
    assert [benchmark_engine(context, wanted, engine).cached for _ in range(2)] == [False, True]
    other = wanted.model_copy(update={"module": wanted.module.model_copy(update={"source": "other.py:build"})})
    assert not benchmark_engine(context, other, engine).cached
    monkeypatch.setattr(benchmark, "torch_versions", lambda _python: {**VERSIONS, "torch": "2.10.0"})
    assert not benchmark_engine(context, wanted, engine).cached
    monkeypatch.setattr(benchmark, "torch_versions", lambda _python: None)
    found = benchmark_engine(context, wanted, engine)
    assert (found.cached, found.result.pytorch) == (False, {})
    assert children.turns


# With real children


@pytest.fixture
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "torch_versions", lambda _python: None)


@pytest.mark.usefixtures("_no_torch")
def test_a_runner_without_torch_times_the_engine_alone_and_finds_it_again(
    context: StageContext, tmp_path: Path
) -> None:
    data = put_data(context.store, [{"features": make_features(20)}])
    wanted = job(context.store, put_model(context.store, tmp_path / "onnx"), data=data)
    engine = build_engine(context, wanted).result
    steps: list[tuple[int, int]] = []
    watched = replace(context, on_progress=lambda done, total: steps.append((done, total)))
    first = benchmark_engine(watched, wanted, engine)
    again = benchmark_engine(context, wanted, engine)
    assert (first.cached, again.cached, again.result) == (False, True, first.result)
    found = first.result
    assert [latency.batch for latency in found.engine.latencies] == [1, 8, 16]
    assert found.headline.batch == 8
    assert all(0 < one.p50_ms <= one.p90_ms <= one.p99_ms for one in found.engine.latencies)
    assert all(one.calls >= 2 * ROUNDS for one in found.engine.latencies)
    assert (found.pytorch, found.speedup, found.missing, found.layers) == ({}, {}, {}, None)
    assert found.engine_size_bytes == engine.plan.size_bytes
    assert found.engine.device_memory_bytes is None
    assert steps == [(number + 1, 3 * ROUNDS) for number in range(3 * ROUNDS)]
    assert list((tmp_path / "store" / "scratch").glob("*")) == []


@pytest.mark.usefixtures("_no_torch")
def test_an_engine_that_cannot_be_loaded_is_a_failed_stage(context: StageContext, tmp_path: Path) -> None:
    data = put_data(context.store, [{"features": make_features(20)}])
    typed = put_model(context.store, tmp_path / "onnx")
    wanted = job(context.store, typed, data=data)
    engine = build_engine(context, wanted).result.model_copy(update={"plan": typed.onnx})
    with pytest.raises(StageError, match="cannot load the engine"):
        benchmark_engine(context, wanted, engine)
