"""Which tactics TensorRT chose for a plan, kept beside it; and how the next build is led to them, or away from them.

From 10.12 on they are led by the timing cache, which holds the tactic of each operation and can be edited. NVIDIA's
own sample (`sampleEditableTimingCache`) shows how: what else could be chosen stands in the builder's log alone.
TensorRT 8.6 has an algorithm selector instead. Neither reaches into what Myelin, the inner compiler of 8.6, makes of
several layers; and TensorRT promises for neither that the plan is the same, byte for byte.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.backends import trt_rtx
from tasks.backends.trt_layers import inspect_layers
from tasks.rebuild_records import TACTICS_FILE, Tactic, TacticList

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tasks.backends.trt_log import TrtLog

TIMINGS_FILE = "timing.cache"
EDITABLE = "EDITABLE_TIMING_CACHE"
WORD = 1 << 64

# What the builder's log says of an operation that it times, in this order, where the timing cache can be edited.
_OPERATION = re.compile(r"Autotuning op .*\(key: (0x[0-9a-fA-F]+)\)")
_TACTIC = re.compile(r"^\s*\d+,\s*([\d.eE+-]+),[^,]*,[^,]*,\s*([^,]+?),\s*(0x[0-9a-fA-F]+)\s*,")
_CHOSEN = re.compile(r"\(tactic hash, cost\(in ms\)\):\s*(0x[0-9a-fA-F]+)")


def keep_tactics(
    trt: Any, log: TrtLog, plan: Path, files: Sequence[str], folder: Path, timings: bytes, *, edited: bool
) -> None:
    """Write which tactics the plans `files` of an engine have, and the timing cache after them, into `folder`.

    An `edited` cache has an entry for each layer, others one for all layers that are alike; each serves its kind. A
    plan that the inspector does not describe, or that cannot be loaded while others use the GPU, has none.
    """
    if trt_rtx.is_rtx(trt):  # it loads nothing without a driver, and times nothing
        return
    runtime = trt.Runtime(log.logger)
    tactics = tuple(tactic for file in files for tactic in _tactics_of(trt, runtime, plan / file))
    found = TacticList(tactics=tactics, edited=edited)
    log.clear()  # a plan that could not be looked into is no error of the build
    (folder / TACTICS_FILE).write_text(json.dumps(found.model_dump(), indent=1) + "\n", encoding="utf-8")
    if timings:
        (folder / TIMINGS_FILE).write_bytes(timings)


def _tactics_of(trt: Any, runtime: Any, file: Path) -> Iterable[Tactic]:
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    for layer in [] if engine is None else inspect_layers(trt, engine):
        kernel, value = str(layer.get("TacticName", "")), str(layer.get("TacticValue", ""))
        if kernel or value:
            yield Tactic(plan=file.name, layer=str(layer.get("Name", "")), kernel=kernel, value=value)


def read_tactics(folder: Path) -> TacticList:
    """What `keep_tactics` wrote of the plans."""
    return TacticList.model_validate_json((folder / TACTICS_FILE).read_bytes())


def read_timings(folder: Path | None) -> bytes:
    """The timing cache that `keep_tactics` wrote; empty where it wrote none."""
    file = None if folder is None else folder / TIMINGS_FILE
    return b"" if file is None or not file.is_file() else file.read_bytes()


@dataclass(frozen=True)
class TacticChoice:
    """Tactics that a build must not choose, where there are others, and those that it must, where it may."""

    avoid: tuple[Tactic, ...] = ()
    pinned: TacticList | None = None

    @classmethod
    def read(cls, avoid: Sequence[Path], pinned: Path | None) -> TacticChoice:
        """The choice that folders of `keep_tactics` come to."""
        avoided = tuple(tactic for folder in avoid for tactic in read_tactics(folder).tactics)
        return cls(avoided, None if pinned is None else read_tactics(pinned))

    @property
    def is_made(self) -> bool:
        """Whether anything is to be chosen otherwise than by its time alone."""
        return bool(self.avoid) or self.pinned is not None

    @property
    def edits(self) -> bool:
        """Whether the timing cache is of the editable kind: to avoid a kernel, or since the pinned one is."""
        return bool(self.kernels) or (self.pinned is not None and self.pinned.edited)

    @property
    def kernels(self) -> frozenset[str]:
        """The names of the kernels to avoid."""
        return frozenset(tactic.kernel for tactic in self.avoid) - {""}

    def allowed(self, plan: str, layer: str, numbers: Sequence[int]) -> list[int]:
        """The places in `numbers`, tactics as the builder counts them, that are left for a layer: never none."""
        pinned, avoided = (
            {int(tactic.value, 16) for tactic in tactics if _is_of(tactic, plan, layer)}
            for tactics in (() if self.pinned is None else self.pinned.tactics, self.avoid)
        )
        every = list(range(len(numbers)))
        wanted = [place for place in every if numbers[place] % WORD in pinned]
        return wanted or [place for place in every if numbers[place] % WORD not in avoided] or every


def _is_of(tactic: Tactic, plan: str, layer: str) -> bool:
    return (tactic.plan, tactic.layer) == (plan, layer) and re.fullmatch("0x[0-9a-fA-F]+", tactic.value) is not None


def algorithm_selector(trt: Any, choice: TacticChoice, plan: str) -> Any:
    """A selector for the builder of the file `plan`, which the caller keeps alive while it builds."""

    class Selector(trt.IAlgorithmSelector):  # type: ignore[misc]  # its base has no type
        def __init__(self) -> None:
            trt.IAlgorithmSelector.__init__(self)  # without it TensorRT crashes

        def select_algorithms(self, context: Any, choices: Any) -> list[int]:
            return choice.allowed(plan, context.name, [one.algorithm_variant.tactic for one in choices])

        def report_algorithms(self, contexts: Any, choices: Any) -> None:
            """Nothing: what was chosen, the inspector tells."""

    return Selector()


@dataclass
class _Operation:
    key: str
    tactics: list[tuple[float, str, str]] = field(default_factory=list)
    chosen: str = ""


class TimedTactics:
    """What a builder's log says of the tactics that it timed: for each operation, all of them, and the one chosen."""

    def __init__(self) -> None:
        self._operations: list[_Operation] = []

    @property
    def has_any(self) -> bool:
        """Whether the log told of an operation."""
        return bool(self._operations)

    def hear(self, message: str) -> None:
        """Take a message of the log."""
        for line in message.splitlines():
            if found := _OPERATION.search(line):
                self._operations.append(_Operation(found[1]))
            elif self._operations and (found := _TACTIC.match(line)):
                self._operations[-1].tactics.append((float(found[1]), found[2], found[3]))
            elif self._operations and (found := _CHOSEN.search(line)):
                self._operations[-1].chosen = found[1]

    def others(self, kernels: frozenset[str]) -> dict[str, tuple[int, float]]:
        """For each operation whose tactic runs one of `kernels`, the fastest that runs another: hash, time in ms.

        By the operation's key; one that has no other is left out.
        """
        found = {}
        for operation in self._operations:
            chosen = next((kernel for _, kernel, value in operation.tactics if value == operation.chosen), "")
            left = [(cost, value) for cost, kernel, value in operation.tactics if kernel not in kernels]
            if chosen in kernels and left:
                cost, value = min(left)
                found[operation.key] = (int(value, 16), cost)
        return found


def edit_timings(trt: Any, cache: Any, choices: dict[str, tuple[int, float]]) -> int:
    """Put a tactic in place of the one that a timing cache has for each operation; return for how many it took it."""
    return sum(
        bool(cache.update(trt.TimingCacheKey.parse(key), trt.TimingCacheValue(tactic, cost)))
        for key, (tactic, cost) in choices.items()
    )
