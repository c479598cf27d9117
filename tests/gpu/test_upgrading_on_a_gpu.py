"""`enginegate upgrade` on a real GPU: TensorRT against itself, with other options of its builder.

Neither torch, Prefect nor MLflow is needed: an engine is registered by the stages alone, and what would be logged goes
nowhere. `python -m pytest tests/gpu/test_upgrading_on_a_gpu.py -s` shows the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flows.console import Reporter
from flows.conversion.engine_making import make_here
from flows.conversion.verdicts import judge_together
from flows.session import Session
from flows.settings import Settings
from flows.upgrades.upgrade_lines import show_upgrade
from flows.upgrades.upgrading import run_upgrade
from tasks.records import EngineJob, ReferenceArtifact
from tasks.registry.channels import next_move
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.publish import describe_engine, publish_engine
from tests.tasks.tiny import job, make_features, put, put_data, put_model, put_shards, score
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flows.upgrades.upgrade_report import UpgradedEngine
    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel

PRODUCTION = ChannelName.PRODUCTION
SAMPLES = 400


class NoTracker:
    """Takes what would be logged."""

    def connect(self) -> None:
        """Nothing is opened."""

    def find_runs(self, _conversion: object, outcomes: Sequence[Any]) -> dict[str, str]:
        return {outcome.cell.engine_id: "run" for outcome in outcomes}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    found = Session(Settings(home=tmp_path / "home", benchmark_s=0.5), Reporter())
    vars(found)["tracker"] = NoTracker()
    return found


def tiny_work(session: Session, folder: Path, target: str) -> EngineJob:
    """The tiny scorer's job for this GPU, as opset 17, which every TensorRT takes."""
    import onnx  # noqa: PLC0415 - as the stages do, after their session

    store, features = session.store, make_features(SAMPLES)
    typed = put_model(store, folder)
    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = 17
    data = put_data(store, [{"features": features}])
    return job(
        store,
        typed.model_copy(update={"onnx": put(store, {"model.onnx": model.SerializeToString()})}),
        target=target,
        data=data,
        reference=ReferenceArtifact(outputs=put_shards(store, [{"score": score(features)}])),
    ).model_copy(update={"module": None})


def serve(session: Session, work: EngineJob) -> EngineManifest:
    """Make an engine as a conversion does, register it, and point production at it."""
    (outcome,) = judge_together([make_here(session, work)])
    assert outcome.outcome is Outcome.PASS, outcome.reason
    context = session.stage_context()
    manifest = describe_engine(
        context, work.spec, outcome, work.data, work.reference, source_commit=None, mlflow_run="run", who="ann"
    )
    publish_engine(context, session.registry, manifest)
    engine = session.registry.engines.read_signed(work.cell)

    def decide(channel: Channel) -> Any:
        named = {"engine_id": work.cell.engine_id, "manifest": engine.digest}
        return next_move(channel, kind="promote", reason="", override=None, who="ann", **named)

    session.registry.channels.move(ChannelAddress(work.cell.model, work.cell.target, PRODUCTION), decide)
    return manifest


def upgrade(session: Session, old: EngineManifest, **wish: Any) -> UpgradedEngine:
    """Upgrade it, show the report, and see that no channel moved."""
    cell = old.cell
    report, code = run_upgrade(session, [cell.model], PRODUCTION, cell.target, **wish)
    show_upgrade(session.reporter, report)
    (engine,) = report.engines
    assert code == engine.code
    moves = session.registry.channels.read(ChannelAddress(cell.model, cell.target, PRODUCTION)).moves
    assert [one.move.engine_id for one in moves] == [old.engine_id]
    return engine


def check_upgrades(session: Session, old: EngineManifest, **wish: Any) -> None:
    """An engine that this host built is left alone, and made again where something is asked for; then it is known."""
    assert upgrade(session, old).state == "nothing to do"
    made = upgrade(session, old, **wish)
    assert (made.state, made.may_follow) == ("made", True), made.reason
    assert made.upgraded in {one.engine_id for one in session.registry.engines.list_cells(old.cell.model)}
    assert made.speed is not None
    assert made.speed.in_turns, "both can be loaded here"
    assert upgrade(session, old, **wish).state == "made before"


def test_an_engine_is_upgraded_to_other_options_of_the_builder(session: Session, tmp_path: Path, target: str) -> None:
    old = serve(session, tiny_work(session, tmp_path / "onnx", target))
    check_upgrades(session, old, build=["optimization_level=5"])
    made = upgrade(session, old, build=["optimization_level=5"])
    assert made.before is not None
    assert made.after is not None
    levels = [side.options["optimization_level"] for side in (made.before, made.after)]
    assert levels == ["3", "5"]
    assert made.before.backend == made.after.backend


def test_an_engine_is_built_once_more_for_a_reason(session: Session, tmp_path: Path, target: str) -> None:
    old = serve(session, tiny_work(session, tmp_path / "onnx", target))
    check_upgrades(session, old, again="a kernel is in doubt")


@pytest.mark.parametrize("name", ["essay-scorer", "oral-scorer"])
def test_an_example_is_upgraded_to_other_options_of_the_builder(
    session: Session,
    gpu_bench: Any,
    example_job: Callable[[str], EngineJob],
    target: str,
    name: str,
) -> None:
    vars(session)["store"] = gpu_bench.store
    work = example_job(f"{name}-{target}-fp16").model_copy(update={"module": None})
    check_upgrades(session, serve(session, work), build=["optimization_level=4"])
