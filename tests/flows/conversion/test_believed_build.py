"""Engines that are built wrong the first times, by a stand-in of TensorRT that chooses kernels, some of them wrong."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import onnx
import pytest

from flows.console import Reporter
from flows.conversion import engine_making
from flows.conversion.believed_build import build_believed
from flows.conversion.engine_flow import make_engine
from flows.runners import gpu_lock
from flows.runners.handover import leave_job, take_outcome
from flows.session import Session, use_session
from flows.settings import Settings
from tasks.backends.gpu import Gpu
from tasks.backends.ort import OnnxRuntimeBackend
from tasks.backends.timing_cache import timing_cache_path
from tasks.backends.trt_tactics import read_tactics
from tasks.errors import StageError
from tasks.rebuild_records import TACTICS_FILE, Discard, Tactic, TacticList
from tasks.records import BackendIdentity, ReferenceArtifact
from tasks.runtimes import RUNTIMES, Runtime
from tasks.stages.pinned_tactics import PINNED
from tasks.store.stage_cache import StageResult
from tests.tasks.in_process import InProcess
from tests.tasks.tiny import job, make_features, make_outcome, put_data, put_model, put_shards, score
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.backends.interface import BuildJob
    from tasks.records import EngineJob, EngineOutcome

T4 = Gpu(name="NVIDIA T4", compute_capability="7.5", driver="1", cuda="13.0", mig=None, uuid="GPU-1")
RUN = "0cac9fe9-ad94-49b7-afed-3a4c7db956d1"
AGAIN = Discard(reason="the GPU was exchanged", who="ann", when="2026-12-01T00:00:00+00:00")


class StandIn(OnnxRuntimeBackend):
    """Takes the first of `kernels` that it may; by one that is called bad, or that `turned`, an engine is wrong."""

    kernels: ClassVar[tuple[str, ...]] = ("good",)
    turned: ClassVar[tuple[str, ...]] = ()
    tells: ClassVar[bool] = True
    breaks: ClassVar[bool] = False
    asked: ClassVar[list[BuildJob]] = []
    chosen: ClassVar[list[str]] = []

    def identity(self) -> BackendIdentity:
        return BackendIdentity(name="tensorrt", version="1", device="NVIDIA T4", compute_capability="7.5")

    def build(self, job: BuildJob, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        type(self).asked.append(job)
        if self.breaks and job.avoid:
            raise StageError("no implementation is left")
        kernel = self._choose(job)
        type(self).chosen.append(kernel)
        if kernel.startswith("bad") or kernel in self.turned:
            job = job.model_copy(update={"onnx": other_graph(job.onnx)})
        super().build(job, progress)
        if self.tells and job.tactics is not None:
            found = TacticList(tactics=(Tactic(plan="engine.onnx", layer="all", kernel=kernel),))
            (job.tactics / TACTICS_FILE).write_text(found.model_dump_json())
        return ()

    def _choose(self, job: BuildJob) -> str:
        if job.pinned is not None:
            return read_tactics(job.pinned).tactics[0].kernel
        avoided = {tactic.kernel for folder in job.avoid for tactic in read_tactics(folder).tactics}
        return next((kernel for kernel in self.kernels if kernel not in avoided), self.kernels[0])


def other_graph(file: Path) -> Path:
    model = onnx.load(str(file))
    for node in model.graph.node:
        node.op_type = "Tanh" if node.op_type == "Sigmoid" else node.op_type
    wrong = file.with_name("wrong.onnx")
    onnx.save(model, str(wrong))
    return wrong


class Told(Reporter):
    """Keeps what it says."""

    lines: ClassVar[list[str]] = []

    def say(self, text: str = "") -> None:
        type(self).lines.append(text)


@dataclass
class Bench:
    """A session on a host with a T4, whose TensorRT is the stand-in, and the job of an engine."""

    session: Session
    job: EngineJob
    built: type[StandIn] = field(default=StandIn)

    def make(self, **changes: Any) -> EngineOutcome:
        return build_believed(self.session, self.job.model_copy(update=changes))

    def forget(self, *kinds: str) -> None:
        for kind in kinds:
            shutil.rmtree(self.session.store.root / "records" / kind)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(sys.modules, "tasks.backends.stand_in", SimpleNamespace(StandIn=StandIn))
    row = Runtime("stand_in:StandIn", RUNTIMES["tensorrt"].targets, witness=RUNTIMES["tensorrt"].witness)
    monkeypatch.setitem(RUNTIMES, "tensorrt", row)
    monkeypatch.setattr("flows.session.StageContext", InProcess)
    fresh = {"kernels": ("good",), "turned": (), "tells": True, "breaks": False, "asked": [], "chosen": []}
    for name, value in fresh.items():
        monkeypatch.setattr(StandIn, name, value)
    monkeypatch.setattr(Told, "lines", [])
    session = Session(Settings(home=tmp_path / "home"), Told(to_stderr=True))
    return Bench(session, job_in(session, tmp_path / "onnx"))


def job_in(session: Session, folder: Path, **graph: str) -> EngineJob:
    features = make_features(400)
    return job(
        session.store,
        put_model(session.store, folder, **graph),
        target="t4",
        data=put_data(session.store, [{"features": features}]),
        reference=ReferenceArtifact(outputs=put_shards(session.store, [{"score": score(features)}])),
    )


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_an_engine_is_built_again_until_it_is_right_without_the_kernels_of_those_that_were_wrong(
    bench: Bench, wrong: int
) -> None:
    bench.built.kernels = (*(f"bad{number}" for number in range(wrong)), "good")
    made = bench.make()
    assert made.outcome is Outcome.PASS
    assert bench.built.chosen == list(bench.built.kernels)
    assert len(made.miscompiled) == wrong
    assert made.engine
    assert made.engine.plan.digest not in {build.plan for build in made.miscompiled}
    assert (f"built {wrong + 1} times" in made.reason) is (wrong > 0)
    assert bool(made.reason) is (wrong > 0)


def test_an_engine_that_stays_wrong_fails_and_says_that_it_was_miscompiled_and_of_what_it_was_made(
    bench: Bench,
) -> None:
    bench.built.kernels = tuple(f"bad{number}" for number in range(9))
    made = bench.make()
    assert made.outcome is Outcome.FAIL
    assert made.verdict
    assert made.verdict.outcome is Outcome.FAIL
    assert len(bench.built.asked) == len(made.miscompiled) == 4, "once, and three times again"
    assert made.reason.startswith("miscompiled: its ONNX file passes on onnxruntime ")
    assert made.reason.endswith(" where this engine fails; built 4 times")
    for number, build in enumerate(made.miscompiled):
        assert build.tactics
        (file,) = build.tactics.files
        kept = json.loads((bench.session.store.root / "blobs" / blob(file.digest)).read_text())
        assert kept["tactics"][0]["kernel"] == f"bad{number}"
    assert bench.session.store.list_records(PINNED) == ()
    assert Told.lines[-1] == f"! t4 fp32: {made.reason}"


def blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}/{value[:2]}/{value[2:]}"


def test_how_often_it_is_built_again_can_be_set(bench: Bench) -> None:
    bench.built.kernels = ("bad0", "good")
    session = Session(bench.session.settings.model_copy(update={"rebuilds": 0}), bench.session.reporter)
    made = build_believed(session, bench.job)
    assert (made.outcome, len(bench.built.asked)) == (Outcome.FAIL, 1)
    assert made.reason.endswith("built once")


def test_a_graph_that_is_wrong_itself_is_built_once_and_nothing_is_called_miscompiled(
    bench: Bench, tmp_path: Path
) -> None:
    wrong = job_in(bench.session, tmp_path / "wrong", body="t = ReduceSum<keepdims=0>(features, one) score = Tanh(t)")
    made = build_believed(bench.session, wrong)
    assert (made.outcome, made.miscompiled, made.reason) == (Outcome.FAIL, (), "")
    assert len(bench.built.asked) == 1


def test_where_no_witness_can_be_had_the_verdict_stands_and_that_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(OnnxRuntimeBackend):
        def build(self, *_: Any) -> tuple[str, ...]:
            raise StageError("an operator of a plugin")

    bench.built.kernels = ("bad0", "good")
    monkeypatch.setitem(sys.modules, "tasks.backends.silent", SimpleNamespace(Silent=Silent))
    monkeypatch.setitem(RUNTIMES, "silent", Runtime("silent:Silent", "cpu"))
    row = Runtime("stand_in:StandIn", RUNTIMES["tensorrt"].targets, witness="silent")
    monkeypatch.setitem(RUNTIMES, "tensorrt", row)
    made = bench.make()
    assert (made.outcome, made.miscompiled, len(bench.built.asked)) == (Outcome.FAIL, (), 1)
    assert Told.lines == ["! t4 fp32: silent cannot say whether the engine was miscompiled; its verdict stands"]


def test_a_rebuild_that_cannot_be_made_leaves_the_engine_that_was_compared(bench: Bench) -> None:
    bench.built.kernels, bench.built.breaks = ("bad0", "good"), True
    made = bench.make()
    assert made.outcome is Outcome.FAIL
    assert made.verdict
    assert [build.plan for build in made.miscompiled] == [made.engine.plan.digest if made.engine else ""]
    assert made.reason.startswith("miscompiled: ")


def test_a_runtime_that_does_not_tell_its_tactics_is_asked_again_all_the_same(bench: Bench) -> None:
    bench.built.kernels, bench.built.tells = ("bad0",), False
    made = bench.make()
    assert len(bench.built.asked) == len(made.miscompiled) == 4
    assert [asked.avoid for asked in bench.built.asked] == [()] * 4


def test_converted_again_nothing_is_built_and_the_outcome_is_the_same(bench: Bench) -> None:
    bench.built.kernels = ("bad0", "good")
    first, second = bench.make(), bench.make()
    assert first == second
    assert len(bench.built.asked) == 2


def test_a_rebuild_is_kept_apart_from_this_host_s_timings_which_are_thrown_away(bench: Bench) -> None:
    bench.built.kernels = ("bad0", "good")
    path = timing_cache_path(
        bench.session.stage_context().timing_caches or bench.session.downloads, StandIn().identity()
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(b"timings of the kernel that is wrong")
    bench.make()
    assert [asked.timing_cache for asked in bench.built.asked] == [path, None]
    assert not path.exists()


def test_the_next_build_of_the_same_key_is_led_to_the_kernels_that_passed(bench: Bench) -> None:
    bench.built.kernels = ("bad0", "bad1", "good", "fast")
    first = bench.make()
    bench.forget("build", "run", "measure")
    bench.built.kernels = ("bad0", "fast", "good")  # timed again, others would be chosen
    second = bench.make()
    assert bench.built.chosen == ["bad0", "bad1", "good", "good"]
    assert (second.outcome, second.miscompiled) == (Outcome.PASS, ())
    assert first.engine
    assert second.engine
    assert second.engine.plan == first.engine.plan


def test_tactics_that_are_gone_pin_nothing(bench: Bench) -> None:
    first = bench.make()
    assert first.engine
    assert first.engine.tactics
    (file,) = first.engine.tactics.files
    (bench.session.store.root / "blobs" / blob(file.digest)).unlink()
    bench.built.kernels = ("other",)
    bench.make()
    assert bench.built.chosen == ["good", "other"]


def test_pinned_kernels_that_turn_out_wrong_are_avoided_and_others_are_pinned(bench: Bench) -> None:
    bench.built.kernels = ("first", "second")
    bench.make()
    bench.built.turned = ("first",)
    for _ in range(2):
        bench.forget("build", "run", "measure")
        assert bench.make().outcome is Outcome.PASS
    assert bench.built.chosen == ["first", "first", "second", "second"]


def test_an_outcome_that_is_thrown_away_is_made_again_once_and_says_why_for_good(bench: Bench) -> None:
    first, again = bench.make(), bench.make(again=AGAIN)
    assert len(bench.built.asked) == 2
    assert first.engine
    assert again.engine
    assert (first.engine.again, again.engine.again) == (None, AGAIN)
    assert bench.make(again=AGAIN) == again, "the same job, sent again, finds what was made"
    assert bench.make() == again, "a conversion without a reason finds it too"
    assert len(bench.built.asked) == 2


def test_a_failed_engine_does_not_stay_in_the_cache_for_ever(bench: Bench) -> None:
    bench.built.kernels = tuple(f"bad{number}" for number in range(9))
    assert bench.make().outcome is Outcome.FAIL
    bench.built.kernels = ("good",)
    assert bench.make().outcome is Outcome.FAIL, "cached"
    assert bench.make(again=AGAIN).outcome is Outcome.PASS
    assert bench.make().outcome is Outcome.PASS


def test_where_nothing_was_there_to_throw_away_no_reason_is_told(bench: Bench) -> None:
    made = bench.make(again=AGAIN)
    assert made.engine
    assert made.engine.again is None


def test_a_runner_s_outcome_with_its_rebuilds_is_taken_by_the_conversion(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.built.kernels = ("bad0", "good")
    timed = make_outcome(bench.session.store).benchmark
    assert timed
    monkeypatch.setattr(engine_making, "benchmark_engine", lambda *_: StageResult(timed, cached=False, seconds=0.0))
    monkeypatch.setattr(gpu_lock, "find_gpu", lambda: T4)
    monkeypatch.setattr(gpu_lock, "LOCKS", tmp_path)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)
    with use_session(bench.session):
        made = make_engine.fn(bench.job.cell.engine_id, leave_job(bench.session.store, bench.job))
    left = take_outcome(bench.session.store, RUN, bench.job)
    assert left == made
    assert left.benchmark == timed
    assert len(left.miscompiled) == 1
    assert left.reason.startswith("built 2 times")
