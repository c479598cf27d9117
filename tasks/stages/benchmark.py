"""Stage 5, on the target: latency and throughput of an engine and of the module in PyTorch, measured in turns.

A shared machine speeds up and slows down by a factor of two within minutes. So sides are never measured one after
the other: each lives in a child process of its own, and they take short turns (A-B-A-B). A speed-up is the median
over rounds of the ratio within a round, and its bounds are order statistics of these ratios: they hold whatever the
distribution, for rounds that are independent of each other.
"""

from __future__ import annotations

import functools
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.backends import CPU, backend_of
from tasks.backends.compatibility import refuse_elsewhere
from tasks.backends.interface import Engine, LayerTime
from tasks.declared import Frozen, InputSpec
from tasks.errors import InputError, StageError
from tasks.process.child import Child
from tasks.samples.feeds import make_feeds
from tasks.sources.interface import ModuleRequest
from tasks.stages.again import discard_before
from tasks.store.stage_cache import StageResult, run_cached
from tasks.timings import Benchmark, Latency, PytorchForm, Timing
from tasks.torch_side.module_source import fetch_module
from tasks.torch_side.torch_python import torch_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.records import BuiltEngine, EngineJob
    from tasks.samples.npz import Arrays

RECIPE = 4
ROUNDS = 12
# The third smallest of 12 rounds is above their true median with a probability of 0.019, as the third largest is below
# it (sign test): more than two of 12 fall on one side of it with 0.981.
BOUND_RANK = 3
WARM_UP_SHARE = 0.2
LEAST_CALLS = 2
LAYERS_FILE = "layers.json"
# On the CPU the reference is what an engine has to beat; FP16 there is emulated, and nobody serves it.
FORMS_ON_CPU = (PytorchForm.EAGER_FP32,)


class Turn(Frozen):
    """One turn: call an engine, or else the module, on a batch of `extents` for about `seconds`."""

    target: str
    runtime: str
    plan: Path | None = None
    module: ModuleRequest | None = None
    form: PytorchForm = PytorchForm.EAGER_FP32
    data: Path
    inputs: dict[str, InputSpec]
    extents: dict[str, int]
    seconds: float
    with_layers: bool = False


class TurnReply(Frozen):
    """Time of each call, in milliseconds, the device memory taken so far, in bytes, and the layers if asked for."""

    latencies_ms: tuple[float, ...]
    device_memory_bytes: int | None = None
    layers: tuple[LayerTime, ...] = ()


def benchmark_engine(context: StageContext, job: EngineJob, engine: BuiltEngine) -> StageResult[Benchmark]:
    """Time an engine, and beside it the module in PyTorch where torch is installed and the job has the module.

    Batch sizes are the batch dimension's buckets, or else its min, opt and max, with every other dimension at its opt;
    the inputs are validation samples. Warm-up calls are not counted. On a GPU, times are those of the device.

    Raises:
        RefusedError: the engine was built for another GPU or runtime than this host's.
        StageError: the engine crashed, or on the CPU the reference did; or this interpreter does not answer.
    """
    spec, target = job.spec, job.cell.target
    identity = backend_of(job.cell.runtime).identity()
    refuse_elsewhere(engine.backend, identity, engine.options, target)
    module = job.module
    versions = None if module is None else torch_versions(context.torch_python)
    key: dict[str, object] = {
        "recipe": RECIPE,
        "plan": engine.plan.digest,
        "backend": identity.model_dump(),
        "pytorch": None
        if module is None or versions is None
        else {"module": module.model_dump(mode="json"), "versions": versions},
        "data": job.data.inputs.digest,
        "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
        "dims": {name: dim.model_dump(mode="json") for name, dim in spec.dims.items()},
        "rounds": ROUNDS,
        "seconds": context.benchmark_s,
    }

    def produce(folder: Path) -> Benchmark:
        with ExitStack() as stack:
            base: dict[str, Any] = {"target": target, "runtime": job.cell.runtime, "inputs": spec.inputs}
            base |= {"extents": {}, "seconds": 0.0, "data": context.store.fetch(job.data.inputs, folder / "inputs")}
            plan = context.store.fetch(engine.plan, folder / "plan")
            race = Race(context, job, folder, stack)
            race.enter(None, Turn(plan=plan, **base))
            if module is not None and versions is not None:
                request = fetch_module(context.store, module, spec, folder / "module")
                for form in FORMS_ON_CPU if target == CPU else PytorchForm:
                    race.enter(form, Turn(module=request, form=form, **base))
            rounds = race.run()
            layers = _keep_layers(context, race.layers(), folder / "layers")
        found = summarise(rounds, race.memory, engine.plan.size_bytes, spec.dims[spec.batch_dim].opt)
        return found.model_copy(update={"missing": race.missing, "layers": layers})

    discard_before(context, job, "benchmark", key)
    return run_cached(context.store, "benchmark", key, Benchmark, produce)


BEFORE: Literal["before"] = "before"
"""The side of an engine that another one would replace."""
Side = PytorchForm | Literal["before"] | None
"""Who takes a turn: a form of PyTorch, an engine before, or None for the engine."""
Rounds = dict[int, list[dict[Side, tuple[float, ...]]]]
"""Latencies in milliseconds by batch size, round and side."""


class Race:
    """The sides of one benchmark, each in its child."""

    def __init__(self, context: StageContext, job: EngineJob, folder: Path, stack: ExitStack) -> None:
        self._context, self._spec, self._folder, self._stack = context, job.spec, folder, stack
        self._children: dict[Side, Child] = {}
        self._turns: dict[Side, Turn] = {}
        self.memory: dict[Side, int] = {}
        self.missing: dict[PytorchForm, str] = {}

    def enter(self, side: Side, turn: Turn) -> None:
        """Start the child of a side."""
        folder = self._folder / f"side{len(self._turns)}"
        folder.mkdir()
        is_engines = turn.module is None
        python = None if is_engines else self._context.torch_python
        limit = None if is_engines else self._context.memory_limit_bytes  # an engine runs none of the model's code
        child = Child("tasks.stages.benchmark:take_turn", folder, python=python, memory_limit_bytes=limit)
        self._children[side] = self._stack.enter_context(child)
        self._turns[side] = turn

    def run(self) -> Rounds:
        """Let the sides take turns at every batch size.

        A form of PyTorch that fails when it warms up drops out; on a GPU the reference may too.
        """
        sizes = self._spec.dims[self._spec.batch_dim].extents
        for side in list(self._turns):
            self._warm_up(side, sizes)
        rounds: Rounds = {size: [] for size in sizes}
        seconds = self._context.benchmark_s / ROUNDS
        for position, size in enumerate(sizes):
            for side in self._turns:  # a side may have moved on to another size, and its first call pays for that
                self._ask(side, size, 0.0)
            for number in range(ROUNDS):
                rounds[size].append({side: self._ask(side, size, seconds).latencies_ms for side in self._turns})
                self._context.on_progress(position * ROUNDS + number + 1, len(sizes) * ROUNDS)
        return rounds

    def layers(self) -> tuple[LayerTime, ...]:
        """The engine's layers, at every dimension's opt."""
        size = self._spec.dims[self._spec.batch_dim].opt
        return self._ask(None, size, 0.0, with_layers=True).layers

    def _warm_up(self, side: Side, sizes: Sequence[int]) -> None:
        """Call a side at every size while the others are idle: what the device's memory grows by is its own."""
        try:
            replies = [self._ask(side, size, self._context.benchmark_s * WARM_UP_SHARE) for size in sizes]
        except (InputError, StageError) as error:
            # A torch that sees no GPU is as good as none; on the CPU it is what the engine was exported from.
            turn = self._turns[side]
            if turn.module is None or (side is PytorchForm.EAGER_FP32 and turn.target == CPU):
                raise
            from tasks.graphs.onnx_files import short_reason  # noqa: PLC0415 - the interpreter with torch may lack onnx

            self.missing[PytorchForm(side)] = short_reason(error)
            self._children.pop(side).close()
            del self._turns[side]
            return
        taken = [reply.device_memory_bytes for reply in replies if reply.device_memory_bytes is not None]
        if taken:
            self.memory[side] = max(taken)

    def _ask(self, side: Side, size: int, seconds: float, *, with_layers: bool = False) -> TurnReply:
        dims = self._spec.dims
        extents = {name: dim.opt for name, dim in dims.items()} | {self._spec.batch_dim: size}
        change = {"extents": extents, "seconds": seconds, "with_layers": with_layers}
        request = self._turns[side].model_copy(update=change)
        return self._children[side].ask(request, TurnReply, time_limit_s=self._context.time_limit_s)


def _keep_layers(context: StageContext, layers: Sequence[LayerTime], folder: Path) -> Artifact | None:
    if not layers:
        return None
    folder.mkdir()
    text = json.dumps([layer.__dict__ for layer in layers], indent=1)
    (folder / LAYERS_FILE).write_text(text + "\n", encoding="utf-8")
    return context.store.put(folder)


def summarise(rounds: Rounds, memory: Mapping[Side, int], engine_size_bytes: int, headline_batch: int) -> Benchmark:
    """Percentiles of each side over all its calls, and the median over rounds of the ratio within a round."""
    sides = list(next(iter(rounds.values()))[0])

    def timing(side: Side) -> Timing:
        latencies = tuple(latency_of(size, [turns[side] for turns in taken]) for size, taken in rounds.items())
        return Timing(latencies=latencies, device_memory_bytes=memory.get(side))

    forms = [side for side in sides if isinstance(side, PytorchForm)]
    return Benchmark(
        engine=timing(None),
        pytorch={form: timing(form) for form in forms},
        speedup={
            form: {size: float(np.median(ratios_over(taken, form))) for size, taken in rounds.items()} for form in forms
        },
        speedup_interval={
            form: {size: median_bounds(ratios_over(taken, form)) for size, taken in rounds.items()} for form in forms
        },
        engine_size_bytes=engine_size_bytes,
        headline_batch=headline_batch,
    )


def ratios_over(taken: Sequence[Mapping[Side, tuple[float, ...]]], side: Side) -> list[float]:
    """A side's median latency over the engine's, round by round."""
    return [float(np.median(turns[side]) / np.median(turns[None])) for turns in taken]


def median_bounds(rounds: Sequence[float]) -> tuple[float, float]:
    """Bounds of the median over rounds; see `BOUND_RANK`."""
    ordered = sorted(rounds)
    return ordered[BOUND_RANK - 1], ordered[-BOUND_RANK]


def latency_of(batch: int, turns: Sequence[Sequence[float]]) -> Latency:
    """A side's percentiles over the calls of all its turns, in milliseconds."""
    calls = np.concatenate([np.asarray(turn) for turn in turns])
    p50, p90, p99 = (float(value) for value in np.percentile(calls, (50, 90, 99)))
    return Latency(
        batch=batch,
        p50_ms=p50,
        p50_interval=median_bounds([float(np.median(turn)) for turn in turns]),
        p90_ms=p90,
        p99_ms=p99,
        throughput_per_s=1000 * batch / p50,
        calls=len(calls),
    )


def take_turn(payload: dict[str, Any], _progress: Callable[[int, int], None]) -> TurnReply:
    """Child entry: call the engine or the module for the time of one turn. Both stay loaded between turns."""
    turn = Turn.model_validate(payload)
    if turn.with_layers:
        return TurnReply(latencies_ms=(), layers=tuple(_engine(turn.runtime, turn.plan).layer_times(_feeds_of(turn))))
    is_engines = turn.module is None
    call = _engine(turn.runtime, turn.plan).timed_call(_feeds_of(turn)) if is_engines else _module_call(turn)
    latencies: list[float] = []
    ends = time.perf_counter() + turn.seconds
    while len(latencies) < LEAST_CALLS or time.perf_counter() < ends:
        latencies.append(call())
    return TurnReply(latencies_ms=tuple(latencies), device_memory_bytes=_memory_of(turn))


@functools.cache
def _feeds(turn: str) -> Arrays:
    request = Turn.model_validate_json(turn)
    return make_feeds(request.data, request.inputs, request.extents)


def _feeds_of(turn: Turn) -> Arrays:
    return _feeds(turn.model_copy(update={"seconds": 0.0, "with_layers": False}).model_dump_json())


@functools.cache
def _engine(runtime: str, plan: Path | None) -> Engine:
    assert plan is not None  # noqa: S101 - it is an engine's turn
    return backend_of(runtime).load(plan)


def _module_call(turn: Turn) -> Callable[[], float]:
    from tasks.torch_side.torch_timing import timed_call  # noqa: PLC0415 - imports torch, which a runner need not have

    assert turn.module is not None  # noqa: S101 - the caller looked
    feeds = {name: _feeds_of(turn)[name] for name in turn.inputs}
    return timed_call(turn.module, turn.form, feeds, on_gpu=turn.target != CPU)


def _memory_of(turn: Turn) -> int | None:
    if turn.module is None:
        return _engine(turn.runtime, turn.plan).device_memory_bytes()
    from tasks.torch_side.torch_timing import device_memory_bytes  # noqa: PLC0415 - as above

    return None if turn.target == CPU else device_memory_bytes()
