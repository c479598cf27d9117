from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks import benchmark, module_source
from tasks.benchmark import ROUNDS, Turn, benchmark_engine, summarise, take_turn
from tasks.build import build_engine
from tasks.data import save_shard
from tasks.errors import StageError
from tasks.model_directory import read_model_directory
from tests.tasks.tiny import cell, make_features, put_data, put_model, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.benchmark import Rounds
    from tasks.workbench import Workbench


def make_rounds(sizes: tuple[int, ...], sides: int) -> Rounds:
    rng = np.random.default_rng(1)
    return {
        size: [
            [tuple(rng.lognormal(side, 0.5, rng.integers(2, 9)).tolist()) for side in range(sides)]
            for _ in range(ROUNDS)
        ]
        for size in sizes
    }


def test_percentiles_and_throughput_are_those_of_all_calls_of_a_side() -> None:
    rounds = make_rounds((1, 8, 32), sides=2)
    found = summarise(rounds, engine_size_bytes=7, headline_batch=8)
    for side, latencies in enumerate((found.engine, found.reference)):
        assert [latency.batch for latency in latencies] == [1, 8, 32]
        for latency in latencies:
            calls = np.concatenate([turns[side] for turns in rounds[latency.batch]])
            expected = np.quantile(calls, [0.5, 0.9, 0.99])
            assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == pytest.approx(expected)
            assert latency.throughput_per_s == pytest.approx(latency.batch / (np.median(calls) / 1000))
            assert latency.calls == calls.size
    assert (found.engine_size_bytes, found.headline.batch) == (7, 8)


def test_the_speed_up_is_the_median_over_rounds_of_the_ratio_within_a_round() -> None:
    # The machine turns five times slower half-way; within each round the reference takes twice as long.
    rounds: Rounds = {4: [[(slow, slow), (2 * slow, 2 * slow)] for slow in [1.0] * 6 + [5.0] * 6]}
    assert summarise(rounds, 1, 4).speedup == {4: 2.0}
    rounds = make_rounds((1, 2), sides=2)
    expected = {
        size: np.median([np.median(reference) / np.median(engine) for engine, reference in taken])
        for size, taken in rounds.items()
    }
    assert summarise(rounds, 1, 2).speedup == pytest.approx(expected)


def test_without_a_reference_there_is_no_speed_up() -> None:
    found = summarise(make_rounds((1, 8), sides=1), 1, 8)
    assert (found.reference, found.speedup) == ((), {})
    assert len(found.engine) == 2


def test_a_turn_makes_at_least_two_calls_however_short_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    class Engine:
        def run(self, feeds: dict[str, Any]) -> None:
            shapes.append(feeds["features"].shape)

    monkeypatch.setattr(benchmark, "_engine", lambda _target, _plan: Engine())
    save_shard(tmp_path, 0, {"features": make_features(3)})
    turn = Turn(target="cpu", data=str(tmp_path), inputs=tiny_spec().inputs, extents={"batch": 5}, seconds=0.0)
    reply = take_turn(turn.model_dump(mode="json"), lambda _done, _total: None)
    assert len(reply.latencies_ms) == len(shapes) == 2
    assert set(shapes) == {(5, 4)}
    assert all(latency > 0 for latency in reply.latencies_ms)


@pytest.fixture
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec, version = importlib.util.find_spec, metadata.version

    def find(name: str, package: str | None = None) -> Any:
        return None if name == "torch" else find_spec(name, package)

    def installed(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(module_source, "version", installed)


@pytest.mark.usefixtures("_no_torch")
def test_a_runner_without_torch_times_the_engine_alone_and_finds_it_again(
    bench: Workbench, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = read_model_directory(write_model())
    data = put_data(bench.store, [{"features": make_features(20)}])
    engine = build_engine(bench, directory.spec, put_model(bench.store, tmp_path / "onnx"), cell()).result
    steps: list[tuple[int, int]] = []
    watched = type(bench)(bench.store, 120, 0.05, lambda done, total: steps.append((done, total)))
    first = benchmark_engine(watched, directory, engine, cell(), data)
    again = benchmark_engine(bench, directory, engine, cell(), data)
    assert (first.cached, again.cached, again.result) == (False, True, first.result)
    found = first.result
    assert [latency.batch for latency in found.engine] == [1, 8, 16]
    assert found.headline.batch == 8
    assert all(0 < one.p50_ms <= one.p90_ms <= one.p99_ms for one in found.engine)
    assert all(one.calls >= 2 * ROUNDS for one in found.engine)
    assert (found.reference, found.speedup) == ((), {})
    assert found.engine_size_bytes == engine.plan.size_bytes
    assert steps == [(number + 1, 3 * ROUNDS) for number in range(3 * ROUNDS)]
    assert list((tmp_path / "store" / "scratch").glob("*")) == []


@pytest.mark.usefixtures("_no_torch")
def test_an_engine_that_cannot_be_loaded_is_a_failed_stage(
    bench: Workbench, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = read_model_directory(write_model())
    data = put_data(bench.store, [{"features": make_features(20)}])
    typed = put_model(bench.store, tmp_path / "onnx")
    engine = build_engine(bench, directory.spec, typed, cell()).result.model_copy(update={"plan": typed.onnx})
    with pytest.raises(StageError, match="cannot load the engine"):
        benchmark_engine(bench, directory, engine, cell(), data)
