"""Stage 5, on the target: latency and throughput of an engine and of the PyTorch reference, measured in turns.

A shared machine speeds up and slows down by a factor of two within minutes. So the two are never measured one after
the other: each lives in a child process of its own, and they take short turns (A-B-A-B). The speed-up is the median
over rounds of the ratio within a round.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.backends import backend_for
from tasks.child import Child
from tasks.feeds import make_feeds
from tasks.memo import Remembered, remember
from tasks.module_source import ModuleRequest, lay_out, module_key
from tasks.specs import Benchmark, Frozen, InputSpec, Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.backends.interface import Engine
    from tasks.data import Arrays
    from tasks.model_directory import ModelDirectory
    from tasks.specs import BuiltEngine, Cell, DataArtifact, Dim
    from tasks.workbench import Workbench

RECIPE = 1
ROUNDS = 12
WARM_UP_SHARE = 0.2
LEAST_CALLS = 2


class Turn(Frozen):
    """One turn: call an engine, or else the module, on a batch of `extents` for about `seconds`."""

    target: str = ""
    plan: str = ""
    module: ModuleRequest | None = None
    data: str
    inputs: dict[str, InputSpec]
    extents: dict[str, int]
    seconds: float


class TurnReply(Frozen):
    """Wall time of each call, in milliseconds."""

    latencies_ms: tuple[float, ...]


def benchmark_engine(
    bench: Workbench, directory: ModelDirectory, engine: BuiltEngine, cell: Cell, data: DataArtifact
) -> Remembered[Benchmark]:
    """Time an engine, and beside it the PyTorch reference where torch is installed.

    Batch sizes are the batch dimension's min, opt and max, with every other dimension at its opt; the inputs are
    validation samples. Warm-up calls are not counted.

    Raises:
        StageError: the engine or the reference crashed.
    """
    source = module_key(directory) if importlib.util.find_spec("torch") is not None else None
    key: dict[str, object] = {
        "recipe": RECIPE,
        "plan": engine.plan.digest,
        "backend": backend_for(cell.target).identity().model_dump(),
        "reference": source,
        "data": data.inputs.digest,
        "dims": {name: dim.model_dump() for name, dim in directory.spec.dims.items()},
        "rounds": ROUNDS,
        "seconds": bench.benchmark_s,
    }

    def produce() -> Benchmark:
        with bench.store.scratch() as folder:
            samples = str(bench.store.fetch(data.inputs, folder / "inputs"))
            plan = str(bench.store.fetch(engine.plan, folder / "plan"))
            base: dict[str, Any] = {"data": samples, "inputs": directory.spec.inputs, "extents": {}, "seconds": 0.0}
            sides = [Turn(target=cell.target, plan=plan, **base)]
            if source is not None:
                (folder / "reference").mkdir()
                sides.append(Turn(module=lay_out(directory, folder / "reference", source), **base))
            rounds = _take_turns(bench, folder, sides, directory.spec.dims, directory.spec.batch_dim)
        return summarise(rounds, engine.plan.size_bytes, directory.spec.dims[directory.spec.batch_dim].opt)

    return remember(bench.store, "benchmark", key, Benchmark, produce)


Rounds = dict[int, list[list[tuple[float, ...]]]]


def _take_turns(bench: Workbench, folder: Path, sides: Sequence[Turn], dims: dict[str, Dim], batch_dim: str) -> Rounds:
    """Latencies in milliseconds by batch size, round and side."""
    batch = dims[batch_dim]
    sizes = sorted({batch.min, batch.opt, batch.max})
    rounds: Rounds = {}
    with ExitStack() as stack:
        children = []
        for number, _ in enumerate(sides):
            (folder / f"side{number}").mkdir()
            children.append(stack.enter_context(Child("tasks.benchmark:take_turn", folder / f"side{number}")))
        for position, size in enumerate(sizes):
            extents = {name: dim.opt for name, dim in dims.items()} | {batch_dim: size}

            def turn(side: int, seconds: float, extents: dict[str, int] = extents) -> tuple[float, ...]:
                request = sides[side].model_copy(update={"extents": extents, "seconds": seconds})
                return children[side].ask(request, TurnReply, time_limit_s=bench.time_limit_s).latencies_ms

            for side in range(len(sides)):
                turn(side, bench.benchmark_s * WARM_UP_SHARE)
            rounds[size] = []
            for number in range(ROUNDS):
                rounds[size].append([turn(side, bench.benchmark_s / ROUNDS) for side in range(len(sides))])
                bench.on_progress(position * ROUNDS + number + 1, len(sizes) * ROUNDS)
    return rounds


def summarise(rounds: Rounds, engine_size_bytes: int, headline_batch: int) -> Benchmark:
    """Percentiles of each side over all its calls, and the median over rounds of the ratio within a round."""
    sides = [
        tuple(_latency(size, [turns[side] for turns in taken]) for size, taken in rounds.items())
        for side in range(len(next(iter(rounds.values()))[0]))
    ]
    with_reference = len(sides) > 1
    speedup = {
        size: float(np.median([np.median(reference) / np.median(engine) for engine, reference in taken]))
        for size, taken in rounds.items()
        if with_reference
    }
    return Benchmark(
        engine=sides[0],
        reference=sides[1] if with_reference else (),
        speedup=speedup,
        engine_size_bytes=engine_size_bytes,
        headline_batch=headline_batch,
    )


def _latency(batch: int, turns: Sequence[Sequence[float]]) -> Latency:
    calls = np.concatenate([np.asarray(turn) for turn in turns])
    p50, p90, p99 = (float(value) for value in np.percentile(calls, (50, 90, 99)))
    return Latency(
        batch=batch, p50_ms=p50, p90_ms=p90, p99_ms=p99, throughput_per_s=1000 * batch / p50, calls=len(calls)
    )


def take_turn(payload: dict[str, Any], _progress: Callable[[int, int], None]) -> TurnReply:
    """Child entry: call the engine or the module for the time of one turn. Both stay loaded between turns."""
    turn = Turn.model_validate(payload)
    call = _engine_call(turn) if turn.module is None else _module_call(turn)
    latencies: list[float] = []
    ends = time.perf_counter() + turn.seconds
    while len(latencies) < LEAST_CALLS or time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        latencies.append(1000 * (time.perf_counter() - started))
    return TurnReply(latencies_ms=tuple(latencies))


@functools.cache
def _feeds(turn: str) -> Arrays:
    request = Turn.model_validate_json(turn)
    return make_feeds(Path(request.data), request.inputs, request.extents)


def _feeds_of(turn: Turn) -> Arrays:
    return _feeds(turn.model_copy(update={"seconds": 0.0}).model_dump_json())


@functools.cache
def _engine(target: str, plan: str) -> Engine:
    return backend_for(target).load(Path(plan))


def _engine_call(turn: Turn) -> Callable[[], object]:
    engine, feeds = _engine(turn.target, turn.plan), _feeds_of(turn)
    return lambda: engine.run(feeds)


@functools.cache
def _module(request: str) -> Any:
    from tasks.torch_module import load_module  # noqa: PLC0415 - imports torch, which a GPU runner need not have

    return load_module(ModuleRequest.model_validate_json(request))


def _module_call(turn: Turn) -> Callable[[], object]:
    import torch  # noqa: PLC0415 - as above

    from tasks.torch_module import as_tensors  # noqa: PLC0415 - as above

    assert turn.module is not None  # noqa: S101 - the caller looked
    module = _module(turn.module.model_dump_json())
    tensors = as_tensors({name: _feeds_of(turn)[name] for name in turn.inputs})

    def call() -> object:
        with torch.inference_mode():
            return module(*tensors)

    return call
