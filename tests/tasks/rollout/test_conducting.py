from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.registry.registry import Registry
from tasks.registry.rollouts import StepKind
from tasks.registry.steps import RolloutStatus
from tasks.rollout import conducting, transitions
from tasks.rollout.choosing import Action
from tasks.rollout.conducting import Conducted, OvertakenError, start
from tasks.rollout.evidence_list import EvidenceShelf
from tasks.rollout.taking_back import abort, take_back_canary
from tasks.rollout_spec import RolloutPlan
from tests.tasks.canary import BEGAN, ROLLOUT, Canary, by
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.registry.keys import signing_as
from tests.tasks.traffic import Traffic, conductor

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext

SHORT = RolloutPlan(steps=("shadow", 5.0, 100.0), soak="1m")
LATER = timedelta(minutes=10)


@pytest.fixture
def shelf(context: StageContext) -> Canary:
    return Canary(MemoryObjects(), context).stock()


@pytest.fixture
def traffic(shelf: Canary) -> Traffic:
    return Traffic(shelf)


def conduct(shelf: Canary, minutes: float = 10) -> Conducted:
    """A look of a judge that has just been started."""
    return conductor(shelf).conduct(BEGAN + timedelta(minutes=minutes))


def kinds(shelf: Canary) -> list[str]:
    return [one.step.kind.value for one in shelf.history.steps]


def test_a_good_canary_goes_through_every_step_and_production_is_promoted(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    for minutes in (10, 20, 30):
        traffic.flow()
        conduct(shelf, minutes)
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]
    assert [one.step.rollout.weight for one in shelf.history.steps if one.step.rollout] == [0.0, 5.0, 100.0, 0.0]
    assert shelf.engine_at("production") == shelf.canary.manifest.engine_id
    move = shelf.channel("production").current
    assert move is not None
    assert move.reason.startswith(f"rollout {shelf.state.id} passed (sha256:")
    assert shelf.state.status is RolloutStatus.FINISHED


def test_each_step_holds_the_digest_of_its_evidence(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    pairs, arms = traffic.pairs(), traffic.arms()
    step = conduct(shelf).step
    assert step is not None
    assert step.evidence is not None
    kept = EvidenceShelf(shelf.registry, ROLLOUT)
    evidence = kept.read(step.evidence)
    assert [file.key for file in kept.files(evidence.files)] == [pairs, arms]
    assert (evidence.outcome, evidence.pairs, evidence.groups) == ("pass", 40, 40)
    assert step.why == evidence.sentences


def test_a_step_adds_to_the_list_of_the_last_one_whoever_judges(
    shelf: Canary, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rollout.evidence_list.LONGEST_PART", 2)
    shelf.start(SHORT)
    keys = []
    for minutes in (10, 20, 30):
        keys += [traffic.pairs(), traffic.arms(), traffic.arms()]
        conduct(shelf, minutes)
    kept = EvidenceShelf(shelf.registry, ROLLOUT)
    last = shelf.history.steps[-1].step.evidence
    assert last is not None
    assert [file.key for file in kept.files(kept.read(last).files)] == keys
    parts = [entry for entry in shelf.objects.list(ROLLOUT.folder) if "/evidence-" in entry.key]
    assert len(parts) == 3 * (1 + 2), "each file is listed once"


def test_evidence_of_the_last_step_that_was_changed_since_is_named_and_not_used(
    shelf: Canary, traffic: Traffic
) -> None:
    shelf.start(SHORT)
    key = traffic.pairs()
    traffic.arms()
    conduct(shelf)
    shelf.objects.delete(key)
    traffic.flow()
    step = conduct(shelf, 20).step
    assert step is not None
    assert step.why[0] == f"1 damaged file not used: {key} is missing"


def test_a_bad_canary_is_rolled_back_and_production_is_untouched(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.flow(error=0.3)
    step = conduct(shelf).step
    assert step is not None
    assert (step.kind, shelf.state.weight, shelf.state.mirror) == (StepKind.ROLLBACK, 0.0, 0.0)
    assert any(line.startswith("worst pair: score ") for line in step.why)
    canary, production = shelf.channel("canary").current, shelf.channel("production")
    assert canary is not None
    assert (canary.kind, canary.engine_id) == ("rollback", shelf.production.manifest.engine_id)
    assert canary.reason.startswith(f"rollout {shelf.state.id} was rolled back at shadow: score mae is 0.3")
    assert "→" in canary.reason, "the worst pairs are named"
    assert len(production.moves) == 1


def test_a_rollback_comes_before_the_soak_is_over(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(soak="10d"))
    traffic.flow(error=0.3)
    conduct(shelf, minutes=0)
    assert kinds(shelf) == ["start", "rollback"]


def test_without_traffic_nothing_moves(shelf: Canary) -> None:
    shelf.start(SHORT)
    found = conduct(shelf, minutes=1000)
    assert found.intent is not None
    assert (found.intent.action, found.intent.reason) == (Action.WAIT, "nothing was seen")
    assert kinds(shelf) == ["start"]


def test_evidence_of_an_earlier_step_does_not_speak_for_a_later_one(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.pairs(2000)
    conduct(shelf, 10)
    found = conduct(shelf, 1000)
    assert found.intent is not None
    assert found.intent.reason == "passes so far, and waits for 30 more independent pairs of this step"
    traffic.pairs(40)
    found = conduct(shelf, 1001)
    assert found.intent is not None
    assert "waits for 30 more requests that the canary answers" in found.intent.reason
    assert kinds(shelf) == ["start", "advance"]


def test_where_the_canary_answers_everything_no_pairs_are_waited_for(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(steps=("shadow", 100.0), soak="1m"))
    traffic.flow()
    conduct(shelf, 10)
    traffic.arms(production=0, canary=500)
    conduct(shelf, 20)
    assert kinds(shelf) == ["start", "advance", "finish"]


def test_a_user_with_many_requests_counts_once(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.pairs(400, key=_keys(400))
    found = conduct(shelf)
    assert found.intent is not None
    assert found.intent.reason.endswith("waits for 29 more independent pairs of this step")


def _keys(n: int) -> Any:
    import numpy as np  # noqa: PLC0415

    return np.array(["ab" * 8] * n, "U16")


def test_a_step_lasts_as_long_as_its_soak(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT.model_copy(update={"soak": "30m"}))
    traffic.flow()
    found = conduct(shelf, 29)
    assert found.intent is not None
    assert found.intent.reason == "passes so far, and soaks until 2026-01-20T12:30:00+00:00"
    conduct(shelf, 30)
    assert kinds(shelf) == ["start", "advance"]


def test_a_step_that_asks_for_approval_waits_for_it(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(steps=("shadow", 5.0, 100.0), soak="1m", approve={"5": ("ann", "ben")}))
    traffic.flow()
    found = conduct(shelf)
    assert found.intent is not None
    assert found.intent.reason == "passes so far, and step 5 waits for `enginegate rollout approve` by ann or ben"
    with pytest.raises(RefusedError, match="step 5 is approved by ann or ben, and you are eve"):
        shelf.step(transitions.approve, by("eve"))
    shelf.step(transitions.approve, by("ben"))
    conduct(shelf)
    assert kinds(shelf) == ["start", "approve", "advance"]
    with pytest.raises(RefusedError, match="nobody has to approve what follows"):
        shelf.step(transitions.approve, by("ben"))


def test_who_approved_before_a_hold_is_asked_again(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(steps=("shadow", 100.0), soak="1m", approve={"100": ("ann",)}))
    traffic.flow()
    for rule in (transitions.approve, transitions.hold, transitions.resume):
        shelf.step(rule, by())
    conduct(shelf)
    assert kinds(shelf) == ["start", "approve", "hold", "resume"]


@pytest.mark.parametrize(
    ("undecided", "kind", "status"),
    [("hold", "hold", RolloutStatus.HELD), ("rollback", "rollback", RolloutStatus.ROLLED_BACK)],
)
def test_at_the_horizon_what_is_undecided_is_held_or_rolled_back_and_never_passes(
    shelf: Canary, traffic: Traffic, undecided: Any, kind: str, status: RolloutStatus
) -> None:
    plan = SHORT.model_copy(update={"undecided": undecided})
    shelf.start(RolloutPlan.model_validate(plan.model_dump() | {"horizon": {"hours": 1, "requests": 10**6}}))
    traffic.pairs(5)
    conduct(shelf, 59)
    assert kinds(shelf) == ["start"]
    conduct(shelf, 60)
    assert (kinds(shelf), shelf.state.status) == (["start", kind], status)
    last = shelf.history.current
    assert last is not None
    assert last.reason.startswith("undecided at its horizon, 1 hours: score mae")


def test_the_horizon_counts_requests_too_and_begins_anew_with_a_resume(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan.model_validate({"horizon": {"requests": 1500}, "mirror": 1.0, "errors": 0.01}))
    traffic.arms()
    conduct(shelf, 1)
    traffic.arms()
    conduct(shelf, 2)
    assert kinds(shelf) == ["start", "hold"]
    shelf.step(transitions.resume, by(minutes=3))
    conduct(shelf, 4)
    assert kinds(shelf) == ["start", "hold", "resume"]


def test_silence_until_the_horizon_holds(shelf: Canary) -> None:
    shelf.start(SHORT)
    conduct(shelf, 72 * 60)
    assert kinds(shelf) == ["start", "hold"]


def test_a_held_rollout_does_not_advance_but_is_rolled_back(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    shelf.step(transitions.hold, by())
    traffic.flow()
    conduct(shelf, 1000)
    assert kinds(shelf) == ["start", "hold"]
    traffic.pairs(400, error=0.5)
    conduct(shelf, 1001)
    assert kinds(shelf) == ["start", "hold", "rollback"]


def freeze(shelf: Canary) -> None:
    shelf.step(transitions.freeze, BEGAN + timedelta(days=30), by())


def test_a_freeze_stops_every_step_but_back(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    freeze(shelf)
    traffic.flow()
    found = conduct(shelf, 1000)
    assert found.intent is not None
    assert found.intent.reason == "is frozen until 2026-02-19T12:00:00+00:00"
    traffic.pairs(400, error=0.5)
    conduct(shelf, 1001)
    assert kinds(shelf) == ["start", "freeze", "rollback"]
    with pytest.raises(RefusedError, match="is frozen until 2026-02-19"):
        shelf.start(SHORT)
    assert shelf.engine_at("canary") == shelf.production.manifest.engine_id


def test_a_freeze_ends_by_itself_or_by_thaw(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    freeze(shelf)
    traffic.flow()
    conduct(shelf, 30 * 24 * 60 - 1)
    assert kinds(shelf) == ["start", "freeze"]
    conduct(shelf, 30 * 24 * 60)
    assert kinds(shelf) == ["start", "freeze", "advance"]
    freeze(shelf)
    shelf.step(transitions.thaw, by())
    traffic.flow()
    conduct(shelf, 30 * 24 * 60 + 10)
    assert kinds(shelf)[-1] == "advance"


# --- who was faster, and who was killed -------------------------------------------------------------------------------


def test_of_two_judges_at_once_one_writes_the_step_and_the_other_is_told(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.flow()
    first, second = conductor(shelf, "ann"), conductor(Meddling(shelf, lambda: first.conduct(BEGAN + LATER)), "ben")
    with pytest.raises(OvertakenError, match=r"ann made step 2 \(advance\) meanwhile; nothing was written"):
        second.conduct(BEGAN + LATER)
    assert kinds(shelf) == ["start", "advance"]


class Meddling(Canary):
    """The same shelf, on which something happens just before the next step is written."""

    def __init__(self, shelf: Canary, meanwhile: Any) -> None:
        super().__init__(shelf.objects, shelf.context)
        write, pending = self.registry.rollouts.write, [meanwhile]

        def after(*arguments: Any, **options: Any) -> Any:
            if pending:
                pending.pop()()
            return write(*arguments, **options)

        self.registry.rollouts.write = after  # type: ignore[method-assign]


def test_a_hold_between_the_look_and_the_promotion_keeps_production(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    traffic.flow()
    judge = conductor(shelf)
    found, _ = judge.look(BEGAN + LATER)
    shelf.step(transitions.hold, by("ann"))
    assert found.intent is not None
    assert found.look is not None
    with pytest.raises(OvertakenError, match=r"ann made step 2 \(hold\) meanwhile"):
        judge._act(found, found.intent, found.look, BEGAN + LATER)  # noqa: SLF001 - the moment between
    assert shelf.engine_at("production") == shelf.production.manifest.engine_id


def test_a_hold_in_the_midst_of_the_promotion_keeps_production_too(
    shelf: Canary, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = conducting.carry_out

    def late(*arguments: Any, **options: Any) -> None:
        shelf.step(transitions.hold, by("ann"))
        promote(*arguments, **options)

    monkeypatch.setattr(conducting, "carry_out", late)
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    traffic.flow()
    with pytest.raises(OvertakenError, match=r"ann made step 2 \(hold\) meanwhile"):
        conduct(shelf)
    assert shelf.engine_at("production") == shelf.production.manifest.engine_id
    assert kinds(shelf) == ["start", "hold"]


def test_a_promotion_that_another_judge_made_first_is_no_reason_to_hold(
    shelf: Canary, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = conducting.carry_out

    def lose(*arguments: Any, **options: Any) -> None:
        promote(*arguments, **options)
        raise RefusedError("production: somebody moved it meanwhile; you moved nothing: look again")

    monkeypatch.setattr(conducting, "carry_out", lose)
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    traffic.flow()
    conduct(shelf)
    assert kinds(shelf) == ["start", "finish"]


class Killed(BaseException):
    """The process is gone."""


class Mortal(MemoryObjects):
    """Objects whose writer is killed before its nth write from now, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def _write(self, key: str, content: bytes, tag: str | None) -> str | None:
        if self.left == 0:
            self.left = None
            raise Killed
        if self.left is not None:
            self.left -= 1
        return super()._write(key, content, tag)


def run_to_the_end(shelf: Canary, traffic: Traffic, error: float, die_at: int) -> int:
    """Conduct with one kill, before the write of that number; each look begins from the registry alone."""
    objects: Any = shelf.objects
    weights = []
    for minutes in range(10, 200, 10):
        if shelf.history.open_rollout is not None:
            objects.left = None
            traffic.flow(error)
            objects.left = die_at
        try:
            conductor(shelf.reopened_canary()).conduct(BEGAN + timedelta(minutes=minutes))
        except Killed:
            die_at = 10**6
        else:
            die_at = 10**6 if objects.left is None else objects.left
        weights.append(shelf.state.weight)
    objects.left = None
    steps = [one.step for one in shelf.history.steps]
    stages = [step.rollout.stage for step in steps if step.rollout]
    assert all(after - before in {0, 1} for before, after in itertools.pairwise(stages)), "it never jumps"
    return len(weights)


@pytest.mark.parametrize("die_at", range(12))
def test_killed_before_any_write_a_good_rollout_still_finishes_once(context: StageContext, die_at: int) -> None:
    shelf = Canary(Mortal(), context).stock()
    shelf.start(SHORT)
    run_to_the_end(shelf, Traffic(shelf), 0.001, die_at)
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]
    assert shelf.engine_at("production") == shelf.canary.manifest.engine_id
    assert len(shelf.channel("production").moves) == 2


@pytest.mark.parametrize("die_at", range(5))
def test_killed_before_any_write_a_bad_rollout_is_still_taken_back_once(context: StageContext, die_at: int) -> None:
    shelf = Canary(Mortal(), context).stock()
    shelf.start(SHORT)
    run_to_the_end(shelf, Traffic(shelf), 0.3, die_at)
    assert kinds(shelf) == ["start", "rollback"]
    assert [one.move.kind for one in shelf.channel("canary").moves] == ["promote", "promote", "rollback"]
    assert len(shelf.channel("production").moves) == 1


def test_a_canary_that_a_person_brings_back_after_a_rollback_stays(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.flow(error=0.3)
    conduct(shelf)
    shelf.point("canary", shelf.canary)
    conduct(shelf)
    assert shelf.engine_at("canary") == shelf.canary.manifest.engine_id
    assert shelf.start(SHORT, rollout_id=f"{7:012x}").kind is StepKind.START


# --- what others do meanwhile -----------------------------------------------------------------------------------------


def test_an_abort_takes_the_canary_back(shelf: Canary) -> None:
    shelf.start(SHORT)
    step = abort(shelf.registry, ROLLOUT, by(reason="the phones ring"))
    canary = shelf.channel("canary").current
    assert (step.kind, shelf.state.weight) == (StepKind.ABORT, 0.0)
    assert canary is not None
    assert canary.engine_id == shelf.production.manifest.engine_id
    assert canary.reason.endswith("was aborted at shadow: the phones ring")


def test_a_newer_canary_waits_by_default(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    newer = shelf.register("fp16", version="abcdefabcdef")
    shelf.point("canary", newer)
    for minutes in (10, 20, 30):
        traffic.flow()
        conduct(shelf, minutes)
    assert kinds(shelf) == ["start", "advance", "advance", "finish"]
    assert shelf.engine_at("production") == shelf.canary.manifest.engine_id
    assert shelf.engine_at("canary") == newer.manifest.engine_id


def test_a_newer_canary_that_waits_is_not_moved_by_a_rollback(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    newer = shelf.register("fp16", version="abcdefabcdef")
    shelf.point("canary", newer)
    traffic.flow(error=0.3)
    conduct(shelf)
    assert shelf.engine_at("canary") == newer.manifest.engine_id


def superseding(shelf: Canary) -> Any:
    shelf.start(SHORT.model_copy(update={"newer": "supersede"}))
    newer = shelf.register("fp16", version="abcdefabcdef")
    shelf.point("canary", newer)
    return newer


def test_a_newer_canary_supersedes_where_the_plan_says_so(shelf: Canary) -> None:
    newer, first = superseding(shelf), shelf.state.id
    conduct(shelf)
    assert shelf.state.status is RolloutStatus.SUPERSEDED
    conduct(shelf)
    assert kinds(shelf) == ["start", "supersede", "start"]
    assert (shelf.state.canary.engine_id, shelf.state.id != first) == (newer.manifest.engine_id, True)
    assert shelf.engine_at("canary") == newer.manifest.engine_id


def test_frozen_nothing_supersedes(shelf: Canary) -> None:
    superseding(shelf)
    freeze(shelf)
    conduct(shelf)
    assert kinds(shelf) == ["start", "freeze"]


def test_a_rollout_whose_production_was_moved_is_held(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    shelf.point("production", shelf.register("fp32", version="abcdefabcdef"))
    traffic.flow()
    conduct(shelf)
    last = shelf.history.current
    assert last is not None
    assert last.kind is StepKind.HOLD
    assert last.reason.startswith("bob moved production to tiny-cpu-fp32@abcdefabcdef, which no pair was compared with")


def test_production_that_a_person_took_back_right_after_the_promotion_is_not_promoted_again(
    shelf: Canary, traffic: Traffic
) -> None:
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    traffic.flow()
    shelf.point("production", shelf.canary)  # by a judge who was killed before it could say so
    shelf.point("production", shelf.production)
    conduct(shelf)
    assert kinds(shelf) == ["start", "hold"]
    assert shelf.engine_at("production") == shelf.production.manifest.engine_id


def test_a_failure_after_the_promotion_is_told_with_what_is_left_to_do(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    traffic.flow(error=0.3)
    shelf.point("production", shelf.canary)
    conduct(shelf)
    last = shelf.history.current
    assert last is not None
    assert last.kind is StepKind.ROLLBACK
    assert last.reason.endswith("; production points at it already, so roll that back too")


def test_a_canary_that_a_person_moved_back_is_aborted(shelf: Canary) -> None:
    shelf.start(SHORT)
    shelf.point("canary", shelf.production)
    conduct(shelf)
    assert kinds(shelf) == ["start", "abort"]


def test_a_canary_that_production_may_not_take_is_held_at_the_end(context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context)
    shelf.production, shelf.canary = shelf.register("fp32"), shelf.register("fp16", synthetic=True)
    shelf.point("production", shelf.production)
    shelf.point("canary", shelf.canary)
    shelf.start(RolloutPlan(steps=(100.0,), soak="1m"))
    Traffic(shelf).flow()
    conduct(shelf)
    last = shelf.history.current
    assert last is not None
    assert (last.kind, shelf.engine_at("production")) == (StepKind.HOLD, shelf.production.manifest.engine_id)
    assert "production was not moved: production of tiny for cpu does not move to" in last.reason


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_named_counted_and_not_used(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.put("120000-a-40-00.npz", b"PK damaged")
    traffic.flow()
    found = conduct(shelf)
    assert found.step is not None
    assert found.step.kind is StepKind.ADVANCE
    assert found.step.why[0].startswith("1 damaged file not used: rollouts/tiny/cpu/")
    assert "120000-a-40-00.npz is no file of arrays, or damaged" in found.step.why[0]
    assert found.look is not None
    assert len(found.look.evidence(ROLLOUT, shelf.state.id).refused) == 1


def test_damaged_files_alone_are_no_evidence(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    for number in range(50):
        traffic.put(f"120000-a-40-{number:02x}.npz", b"PK damaged")
    conduct(shelf, 1000)
    assert kinds(shelf) == ["start"]


def test_pairs_that_hosts_lost_are_told(shelf: Canary, traffic: Traffic) -> None:
    shelf.start(SHORT)
    traffic.pairs()
    traffic.arms(lost_pairs=7)
    step = conduct(shelf).step
    assert step is not None
    assert step.why[-1] == "7 pairs were lost by hosts that could not keep up"


# --- starting ---------------------------------------------------------------------------------------------------------


def test_one_starts_what_canary_points_at(shelf: Canary) -> None:
    step = start(shelf.registry, ROLLOUT, RolloutPlan(), by(reason="week 47"))
    assert (step.kind, step.reason) == (StepKind.START, "week 47")
    assert shelf.state.canary.engine_id == shelf.canary.manifest.engine_id
    assert len(shelf.state.id) == 12


def test_two_rollouts_of_one_model_and_target_are_refused(shelf: Canary) -> None:
    shelf.start(SHORT)
    with pytest.raises(RefusedError, match=r"one of tiny-cpu-fp16@0123456789ab is running at shadow, by ann; wait"):
        start(shelf.registry, ROLLOUT, RolloutPlan(), by())


def test_without_a_canary_or_production_none_starts(context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context)
    with pytest.raises(InputError, match="canary of tiny for cpu: points at nothing that could be rolled out"):
        start(shelf.registry, ROLLOUT, RolloutPlan(), by())
    shelf.point("canary", shelf.register("fp16"))
    with pytest.raises(InputError, match="production of tiny for cpu: points at nothing that a canary could be"):
        start(shelf.registry, ROLLOUT, RolloutPlan(), by())


def test_what_production_serves_already_is_not_rolled_out(shelf: Canary) -> None:
    shelf.point("canary", shelf.production)
    with pytest.raises(RefusedError, match="points at tiny-cpu-fp32@0123456789ab, which production serves already"):
        start(shelf.registry, ROLLOUT, RolloutPlan(), by())


def test_a_step_of_a_withdrawn_key_moves_nothing(tmp_path: Path, context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context, signing_as(tmp_path)).stock()
    shelf.start(SHORT)
    Traffic(shelf).flow()
    shelf.registry = Registry(shelf.objects, signing_as(tmp_path, "bob"))
    with pytest.raises(RefusedError, match="step 1 is signed by keys that are not trusted"):
        conduct(shelf)


def test_taking_back_twice_moves_once(shelf: Canary) -> None:
    shelf.start(SHORT)
    abort(shelf.registry, ROLLOUT, by())
    assert take_back_canary(shelf.registry, ROLLOUT, shelf.state, "again", "ann") is None
