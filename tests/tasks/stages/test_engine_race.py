from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends import backend_of
from tasks.errors import RefusedError, StageError
from tasks.stages import benchmark
from tasks.stages.benchmark import ROUNDS, TurnReply
from tasks.stages.engine_race import race_engines
from tests.tasks.tiny import job, make_features, put, put_data, put_model

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from tasks.artifact import Artifact
    from tasks.process.context import StageContext
    from tasks.records import BackendIdentity, EngineJob
    from tasks.stages.benchmark import Turn

TIMES_MS = {"new": 1.0, "old": 3.0}

OPTIONS: dict[str, str] = {}


class FakeChild:
    """Stands for a child: the old engine takes 3 ms, the new one 1 ms; `turns` are those of all children."""

    def __init__(self, turns: list[str], failing: str) -> None:
        self.turns, self.failing = turns, failing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def ask(self, turn: Turn, _reply: type[TurnReply], *, time_limit_s: float) -> TurnReply:
        assert time_limit_s == 120
        assert turn.plan is not None
        if turn.plan.name == self.failing:
            raise StageError("was killed by SIGSEGV")
        self.turns.append(turn.plan.name)
        return TurnReply(latencies_ms=(TIMES_MS[turn.plan.name],) * 2)


class Children:
    """What the children were asked, and which plan ends its own."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.failing = ""
        self.options: list[dict[str, Any]] = []

    def start(self, _entry: str, _folder: Path, **options: Any) -> FakeChild:
        self.options.append(options)
        return FakeChild(self.turns, self.failing)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    found = Children()
    monkeypatch.setattr(benchmark, "Child", found.start)
    return found


def work_of(context: StageContext, folder: Path) -> tuple[EngineJob, Artifact, Artifact, BackendIdentity]:
    data = put_data(context.store, [{"features": make_features(20)}])
    new, old = (put(context.store, {"engine.onnx": name.encode()}) for name in ("new", "old"))
    return job(context.store, put_model(context.store, folder / "onnx"), data=data), new, old, here()


def here() -> BackendIdentity:
    return backend_of("onnxruntime").identity()


def test_two_engines_take_turns_and_their_ratio_has_bounds(
    context: StageContext, tmp_path: Path, children: Children
) -> None:
    found = race_engines(context, *work_of(context, tmp_path), OPTIONS).result
    at = found.headline
    assert (at.speedup, at.low, at.high) == (3.0, 3.0, 3.0)
    assert (at.before.p50_ms, at.after.p50_ms, at.after.batch) == (3.0, 1.0, 8)
    assert [each.after.batch for each in found.batches] == [1, 8, 16]
    assert children.turns[-2 * ROUNDS :] == ["new", "old"] * ROUNDS
    assert children.options == [{"python": None, "memory_limit_bytes": None}] * 2, "neither runs the model's own code"


def test_a_race_is_run_once_for_two_engines(context: StageContext, tmp_path: Path, children: Children) -> None:
    work = work_of(context, tmp_path)
    race_engines(context, *work, OPTIONS)
    asked = len(children.turns)
    assert race_engines(context, *work, OPTIONS).cached
    assert len(children.turns) == asked
    assert not race_engines(context, work[0], work[2], work[1], work[3], OPTIONS).cached


@pytest.mark.parametrize("failing", ["new", "old"])
def test_a_race_of_an_engine_that_crashes_fails(
    context: StageContext, tmp_path: Path, children: Children, failing: str
) -> None:
    children.failing = failing
    with pytest.raises(StageError, match="SIGSEGV"):
        race_engines(context, *work_of(context, tmp_path), OPTIONS)


def test_an_engine_that_this_host_cannot_load_is_not_raced(
    context: StageContext, tmp_path: Path, children: Children
) -> None:
    *work, _ = work_of(context, tmp_path)
    tensorrt = here().model_copy(update={"name": "tensorrt", "compute_capability": "9.0"})
    with pytest.raises(RefusedError, match="load it with tensorrt"):
        race_engines(context, *work, tensorrt, OPTIONS)  # type: ignore[arg-type]  # the first three of four
    assert children.turns == []
