from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.registry.moves import RegistryName
from tasks.registry.registry import Registry
from tasks.registry.rollouts import RolloutAddress, RolloutStep, StepKind
from tasks.registry.signing import Signing
from tasks.registry.steps import RolloutStatus
from tasks.rollout import transitions
from tasks.rollout_spec import RolloutPlan
from tests.tasks.canary import BEGAN, ID, OTHER_ID, ROLLOUT, Canary, by
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.registry.keys import signing_as, write_key

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext


@pytest.fixture
def shelf(context: StageContext) -> Canary:
    return Canary(MemoryObjects(), context).stock()


def test_where_nothing_was_rolled_out_there_is_no_step(shelf: Canary) -> None:
    assert (shelf.history.current, shelf.history.open_rollout) == (None, None)


def test_a_step_carries_the_whole_state_so_that_the_newest_is_enough(shelf: Canary) -> None:
    shelf.start()
    shelf.step(transitions.advance, by(minutes=10, why=("score mae is 0.001",), evidence=f"sha256:{1:064x}"))
    current = shelf.reopened().registry.rollouts.read(ROLLOUT).current
    assert current is not None
    assert current.rollout is not None
    assert (current.number, current.kind, current.rollout.id) == (2, StepKind.ADVANCE, ID)
    assert (current.rollout.stage, current.rollout.weight, current.rollout.mirror) == (1, 1.0, 0.05)
    assert current.rollout.stage_since == "2026-01-20T12:10:00+00:00"
    assert current.rollout.production.engine_id == shelf.production.manifest.engine_id
    assert current.rollout.canary.manifest == shelf.canary.digest
    assert current.why == ("score mae is 0.001",)


def test_steps_are_chained_by_their_digests(shelf: Canary) -> None:
    shelf.start()
    shelf.step(transitions.hold, by())
    first, second = shelf.history.steps
    assert (first.step.previous, second.step.previous) == (None, first.digest)


def test_an_ended_rollout_has_neither_weight_nor_mirror(shelf: Canary) -> None:
    for number, rule in enumerate((transitions.abort, transitions.roll_back, transitions.supersede)):
        shelf.start(rollout_id=f"{number:012x}")
        shelf.step(rule, by())
        assert (shelf.state.weight, shelf.state.mirror, shelf.state.is_open) == (0.0, 0.0, False)


def state_of(step: RolloutStep, **changes: Any) -> RolloutStep:
    assert step.rollout is not None
    return step.model_copy(update={"rollout": step.rollout.model_copy(update=changes)})


def jumped(history: Any) -> RolloutStep:
    return state_of(transitions.advance(history, by()), stage=3, weight=25.0)


def renamed(history: Any) -> RolloutStep:
    return state_of(transitions.advance(history, by()), id=OTHER_ID)


def replanned(history: Any) -> RolloutStep:
    return state_of(transitions.hold(history, by()), plan=RolloutPlan(steps=(100.0,)), weight=100.0)


def heavier(history: Any) -> RolloutStep:
    return state_of(transitions.hold(history, by()), weight=50.0)


def sneaking(history: Any) -> RolloutStep:
    return state_of(transitions.freeze(history, BEGAN.replace(year=2027), by()), status=RolloutStatus.HELD)


def restarted(history: Any) -> RolloutStep:
    return state_of(transitions.hold(history, by()).model_copy(update={"kind": StepKind.START}), id=OTHER_ID)


def resumed(history: Any) -> RolloutStep:
    return state_of(
        transitions.hold(history, by()).model_copy(update={"kind": StepKind.RESUME}), status=RolloutStatus.RUNNING
    )


def other_model(history: Any) -> RolloutStep:
    return transitions.hold(history, by()).model_copy(update={"model": "other"})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (jumped, "step 2 .`advance`. changes what it may not"),
        (renamed, "step 2 .`advance`. changes what it may not"),
        (replanned, "damaged|changes what it may not"),
        (heavier, "is damaged"),
        (sneaking, "`freeze`. changes the rollout"),
        (restarted, "`start`. comes while a rollout is open"),
        (resumed, "`resume`. is of a rollout that was not held"),
        (other_model, "step 2 does not follow from the one before"),
    ],
)
def test_what_no_step_may_change_is_refused_before_it_is_written_and_by_every_reader(
    shelf: Canary, rule: Any, words: str
) -> None:
    shelf.start()
    with pytest.raises(RefusedError, match=rf"rollout of tiny for cpu.*({words})"):
        shelf.step(rule)
    assert len(shelf.history.steps) == 1
    envelope = json.loads(Signing().seal("step", rule(shelf.history).model_dump(mode="json")))
    file = ObjectFile(shelf.objects, ROLLOUT.key)
    document = json.loads(file.read_bytes())
    file.write_bytes(json.dumps({"steps": [*document["steps"], envelope]}).encode())
    with pytest.raises(RefusedError, match=words):
        shelf.reopened().registry.rollouts.read(ROLLOUT)


def test_a_freeze_holds_for_whoever_signs_and_only_freeze_and_thaw_change_it(shelf: Canary) -> None:
    shelf.start()
    shelf.step(transitions.freeze, BEGAN.replace(year=2027), by())

    def through(history: Any) -> RolloutStep:
        step = transitions.hold(history, by())
        return step.model_copy(update={"kind": StepKind.ADVANCE, "rollout": history.current.rollout})

    def thawing(history: Any) -> RolloutStep:
        return transitions.hold(history, by()).model_copy(update={"frozen_until": None})

    with pytest.raises(RefusedError, match=r"`advance`\) comes before 2027-.*, until when nothing moves"):
        shelf.step(through)
    with pytest.raises(RefusedError, match=r"`hold`\) changes a freeze"):
        shelf.step(thawing)
    assert shelf.step(transitions.abort, by()).frozen_until is not None


def test_a_rollout_goes_no_further_than_its_last_stage_whatever_is_signed(shelf: Canary) -> None:
    shelf.start(RolloutPlan(steps=(50.0, 100.0)))
    shelf.step(transitions.advance, by())

    def further(history: Any) -> RolloutStep:
        return transitions.hold(history, by()).model_copy(
            update={"kind": StepKind.ADVANCE, "rollout": history.current.rollout}
        )

    with pytest.raises(RefusedError, match="changes what it may not"):
        shelf.step(further)


def test_a_move_in_a_step_s_place_is_refused(shelf: Canary) -> None:
    channel = json.loads(ObjectFile(shelf.objects, "channels/tiny/cpu/canary.json").read_bytes())
    shelf.objects.create(ROLLOUT.key, json.dumps({"steps": channel["moves"]}).encode())
    with pytest.raises(RefusedError, match="rollout of tiny for cpu: step 1 was changed after it was written"):
        shelf.history.current  # noqa: B018


def test_a_history_copied_from_another_registry_is_refused(shelf: Canary) -> None:
    there = Registry(shelf.objects, Signing(), name=RegistryName("there"))
    there.rollouts.write(ROLLOUT, lambda history: transitions.freeze(history, BEGAN.replace(year=2027), by()))
    with pytest.raises(RefusedError, match="step 1 was made in registry there, and this one is here"):
        Registry(shelf.objects, Signing(), name=RegistryName("here")).rollouts.read(ROLLOUT)


ROLES = "{own}: {{roles: [promote], channels: [{channels}]}}\n"


@pytest.mark.parametrize(
    ("channels", "may"),
    [("canary, production", True), ("canary", False), ("production", False), ("candidate, staging", False)],
)
def test_a_key_signs_a_step_that_may_promote_to_canary_and_to_production(
    tmp_path: Path, context: StageContext, channels: str, *, may: bool
) -> None:
    shelf = Canary(MemoryObjects(), context).stock()
    write_key(tmp_path / "keys", "ann")
    (tmp_path / "keys" / "roles.yaml").write_text(ROLES.format(own="ann.pem", channels=channels))
    shelf.registry = Registry(shelf.objects, Signing.from_files(tmp_path / "keys" / "ann.key", tmp_path / "keys"))
    frozen = lambda: shelf.step(transitions.freeze, BEGAN.replace(year=2027), by())  # noqa: E731
    if may:
        assert frozen().kind is StepKind.FREEZE
        return
    with pytest.raises(RefusedError, match="whose role does not allow it"):
        frozen()
    assert shelf.objects.read(ROLLOUT.key) is None


def test_a_build_key_signs_no_step(tmp_path: Path, context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context).stock()
    write_key(tmp_path / "keys", "ci")
    (tmp_path / "keys" / "roles.yaml").write_text("ci.pem: {roles: [build]}\n")
    shelf.registry = Registry(shelf.objects, Signing.from_files(tmp_path / "keys" / "ci.key", tmp_path / "keys"))
    with pytest.raises(RefusedError, match="whose role does not allow it"):
        shelf.step(transitions.freeze, BEGAN.replace(year=2027), by())


def test_a_step_whose_key_was_withdrawn_is_refused_as_the_newest(tmp_path: Path, context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context).stock()
    shelf.registry.signing = signing_as(tmp_path)
    signed = Registry(shelf.objects, signing_as(tmp_path))
    signed.rollouts.write(ROLLOUT, lambda history: transitions.freeze(history, BEGAN.replace(year=2027), by()))
    withdrawn = Registry(shelf.objects, signing_as(tmp_path, "bob"))
    with pytest.raises(RefusedError, match="rollout of tiny for cpu: step 1 is signed by keys that are not trusted"):
        withdrawn.rollouts.read(ROLLOUT)


def test_a_long_history_goes_to_parts_and_is_read_whole(shelf: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.registry.history.LONGEST_BYTES", 8_000)
    for number in range(6):
        shelf.start(rollout_id=f"{number:012x}")
        shelf.step(transitions.abort, by())
    keys = [entry.key for entry in shelf.objects.list("rollouts/")]
    assert len(keys) > 1
    assert all(RolloutAddress.from_key(key) or RolloutAddress.of_part(key) for key in keys)
    assert len(shelf.reopened().registry.rollouts.read(ROLLOUT).steps) == 12


@pytest.mark.parametrize(
    ("key", "is_history", "is_part"),
    [
        ("rollouts/tiny/cpu.json", True, False),
        (f"rollouts/tiny/cpu/{1:064x}.json", False, True),
        (f"rollouts/tiny/cpu/evidence-{1:064x}.json", False, True),
        (f"rollouts/tiny/cpu/{ID}/host-1/120000-a-3-00.npz", False, True),
        (f"rollouts/tiny/cpu/{ID}/stray.npz", False, False),
        ("rollouts/tiny/abacus.json", False, False),
        ("rollouts/tiny/cpu/notes.txt", False, False),
        ("rollouts/cpu.json", False, False),
        ("rollouts/Tiny/cpu.json", False, False),
    ],
)
def test_each_key_below_rollouts_is_known_or_foreign(key: str, *, is_history: bool, is_part: bool) -> None:
    assert RolloutAddress.from_key(key) == (ROLLOUT if is_history else None)
    assert RolloutAddress.of_part(key) == (ROLLOUT if is_part else None)


@pytest.mark.parametrize(("model", "target"), [("Tiny", "cpu"), ("tiny", "abacus"), ("../x", "cpu")])
def test_a_name_that_is_none_is_refused(model: str, target: str) -> None:
    with pytest.raises(InputError, match="is no"):
        RolloutAddress(model, target)
