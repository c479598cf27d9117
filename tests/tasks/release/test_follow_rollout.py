from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.declared import InputSpec
from tasks.errors import EnginegateError, RefusedError, StageError
from tasks.registry.signing import Signing
from tasks.release.evidence_upload import EvidenceUpload
from tasks.rollout import transitions
from tasks.rollout.shards import ArmShard, read_shard
from tasks.rollout_spec import RolloutPlan
from tasks.serving import route as routes
from tasks.store.scratch import ScratchSpace
from tests.tasks.registry.keys import signing_as
from tests.tasks.release.rollout_host import CANARY, ID, OTHER_ID, ROLLOUT, RolloutHost
from tests.tasks.serving_host import FIRST, SECOND, THIRD, Shop
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RolloutHost:
    monkeypatch.setattr("tasks.serving.engine_layout.router_files", lambda: {"1/model.py": b"router"})
    host = RolloutHost(Shop(tmp_path))
    host.pull()
    return host


def test_the_canary_comes_beside_production_and_takes_its_weight_by_one_rename(host: RolloutHost) -> None:
    before = host.route
    host.start(RolloutPlan(steps=("shadow", 5.0, 100.0), key="user", slices=("language",), mirror=0.1, noise=0.02))
    found = host.look()
    assert (found.rollout, found.step, found.weight, found.mirror, found.changed) == (ID, 1, 0.0, 0.1, True)
    rollout = host.route.rollout
    assert rollout is not None
    assert host.route.following(None) == before
    assert (rollout.id, rollout.weight, rollout.noise, rollout.key, rollout.slices) == (
        ID,
        0,
        0.02,
        "user",
        ("language",),
    )
    assert rollout.folder == str(host.repository.state / "rollout" / ID)
    assert rollout.keep_inputs == ()
    assert rollout.canary.engine_id == host.canary.engine_id
    assert [plan.model for plan in rollout.canary.plans] == host.canary_models
    assert host.server.loaded == {"tiny", *host.repository.engines()}
    host.step(transitions.advance)
    assert (host.look().weight, host.route.rollout and host.route.rollout.weight) == (5.0, 5.0)
    assert host.route.rollout == rollout.model_copy(update={"step": 2, "weight": 5.0})


def test_a_look_that_finds_nothing_new_changes_nothing(host: RolloutHost) -> None:
    assert not host.look().changed
    host.start()
    host.look()
    file = host.repository.router / "route.json"
    written = file.stat().st_ino
    assert not host.look().changed
    assert file.stat().st_ino == written


@pytest.mark.parametrize("rule", [transitions.roll_back, transitions.finish, transitions.abort])
def test_an_end_takes_the_canary_out(host: RolloutHost, rule: Any) -> None:
    host.start(RolloutPlan(steps=(100.0,)))
    host.look()
    host.step(rule)
    assert host.look().changed
    assert host.is_clean()


def test_a_hold_keeps_the_weight_as_the_signed_step_says(host: RolloutHost) -> None:
    host.start()
    host.step(transitions.advance)
    host.look()
    host.step(transitions.hold)
    assert host.look().weight == 5.0


def test_a_registry_that_cannot_be_read_leaves_all_as_it_was(
    host: RolloutHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start()
    host.step(transitions.advance)
    host.look()
    before = host.route

    def fail(_: str) -> None:
        raise StageError("the registry cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(host.shop.objects, "read", fail)
        with pytest.raises(StageError, match="cannot be reached"):
            host.look()
    assert host.route == before


@pytest.mark.parametrize(
    ("refusal", "wrong", "words"),
    [("CUDA out of memory", False, "CUDA out of memory"), (None, True, "does not do on the server what it did")],
)
def test_a_canary_that_does_not_come_up_leaves_production_and_is_evidence_once(
    host: RolloutHost, refusal: str | None, wrong: bool, words: str
) -> None:
    host.server.refusals = {"tiny--0-": refusal} if refusal else {}
    host.server.wrong = {"tiny--0-"} if wrong else set()
    host.start()
    loads: list[str] = []
    host.server.on_load = loads.append
    found = [host.look() for _ in range(3)]
    assert all(one.crashed and one.weight == 0 and words in str(one.note) for one in found)
    assert len(loads) == 1
    assert host.is_clean()
    (document,) = documents(host)
    assert words in document.arms.canary.crashed
    assert document.arms.production.crashed is None
    assert document.step == 1


def documents(host: RolloutHost) -> list[Any]:
    """The counts that the host left, as the judge's side reads them in the registry."""
    EvidenceUpload(host.repository.state / "rollout", ROLLOUT, "host-1").run(host.shop.objects)
    keys = [entry.key for entry in host.shop.objects.list(ROLLOUT.shards(ID))]
    found = [read_shard(host.shop.objects, key, ["score"], {1, 2, 3}) for key in keys]
    assert all(isinstance(one, ArmShard) for one in found), found
    return [one.document for one in found if isinstance(one, ArmShard)]


def test_the_next_rollout_is_tried_again(host: RolloutHost) -> None:
    host.server.refusals = {"tiny--0-": "no"}
    host.start()
    host.look()
    host.step(transitions.abort)
    host.look()
    host.server.refusals = {}
    host.start(rollout_id=OTHER_ID)
    assert not host.look().crashed
    assert host.route.rollout is not None


def test_a_server_that_is_gone_is_waited_for_and_no_evidence_at_first(host: RolloutHost) -> None:
    host.start()
    host.server.on_load = lambda _: setattr(host.server, "gone", True)
    with pytest.raises(StageError, match="no server answers"):
        host.look()
    assert documents(host) == []
    host.server.gone, host.server.on_load = False, lambda _: None
    assert host.look().weight == 0
    assert host.route.rollout is not None


def test_a_canary_that_ends_the_server_each_time_it_is_loaded_is_not_loaded_for_ever(host: RolloutHost) -> None:
    host.start()
    host.server.on_load = lambda _: setattr(host.server, "gone", True)
    with pytest.raises(StageError, match="no server answers"):
        host.look()
    host.server.gone = False
    with pytest.raises(EnginegateError):
        host.look()  # it is gone again, so that what was loaded cannot be unloaded
    host.server.gone, host.server.on_load = False, lambda _: pytest.fail("was loaded again")
    assert host.look().crashed
    (document,) = documents(host)
    assert "the server ended 2 times while" in document.arms.canary.crashed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"inputs": {"features": InputSpec(dtype="float32", shape=("batch", 5))}},
            "input features is float32 ['batch', 5]",
        ),
        ({"inputs": {"others": InputSpec(dtype="float32", shape=("batch", 4))}}, "input others is float32"),
    ],
)
def test_a_canary_with_another_interface_is_refused_in_words(
    host: RolloutHost, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    def other(production: Any, canary: Any) -> Any:
        inputs = {
            name: routes.RoutedInput(dtype=spec.dtype, shape=spec.shape, pad=0, shared=False)
            for name, spec in changes["inputs"].items()
        }
        return routes.canary_beside(production, canary.model_copy(update={"inputs": inputs}))

    monkeypatch.setattr("tasks.release.canary_engine.canary_beside", other)
    host.start()
    found = host.look()
    assert found.crashed
    assert words in str(found.note)
    assert host.is_clean()


def test_a_manifest_that_was_swapped_is_never_loaded(host: RolloutHost) -> None:
    host.start()
    host.server.on_load = lambda _: pytest.fail("was loaded")
    host.shop.manifest_file(SECOND).write_bytes(host.shop.manifest_file(FIRST).read_bytes())
    found = host.look()
    assert found.crashed
    assert host.is_clean()


def test_production_that_moved_meanwhile_takes_the_canary_out_until_the_rollout_is_beside_it(host: RolloutHost) -> None:
    host.start()
    host.step(transitions.advance)
    host.look()
    third = host.shop.publish(THIRD, plan=host.shop.onnx_plan())
    host.shop.promote(third.cell)
    host.pull()
    assert (host.route.rollout, host.canary_models) == (None, [])
    found = host.look()
    assert (found.weight, found.crashed) == (0, False)
    assert "the rollout is beside" in str(found.note)
    assert host.is_clean()


def test_the_canary_becomes_production_without_a_moment_in_which_nothing_answers(host: RolloutHost) -> None:
    host.start(RolloutPlan(steps=(100.0,)))
    host.look()
    host.shop.promote(cell(version=SECOND))
    host.pull()
    assert host.route.engine_id == host.canary.engine_id
    host.look()
    host.step(transitions.finish)
    host.look()
    assert host.is_clean()


def test_a_pull_of_the_same_engine_leaves_the_canary_where_it_is(host: RolloutHost) -> None:
    host.start()
    host.step(transitions.advance)
    host.look()
    before, loaded = host.route, set(host.server.loaded)
    host.pull()
    assert (host.route, host.server.loaded) == (before, loaded)


def test_a_canary_whose_files_no_runtime_loads_is_evidence_and_not_waited_for(host: RolloutHost) -> None:
    host.canary = host.shop.publish(THIRD, plan=b"no graph")
    host.shop.promote(host.canary.cell, address=CANARY)
    host.start()
    found = host.look()
    assert (found.crashed, found.weight) == (True, 0)
    (document,) = documents(host)
    assert "cannot load the engine" in document.arms.canary.crashed
    assert host.is_clean()


def test_a_canary_that_the_server_lost_is_loaded_again(host: RolloutHost) -> None:
    host.start()
    host.look()
    host.server.loaded -= set(host.canary_models)
    host.look()
    assert set(host.canary_models) <= host.server.loaded


def test_without_a_server_nothing_is_done_and_that_is_told(host: RolloutHost) -> None:
    host.start()
    switch = host.switch
    switch.api = None
    assert "give --server" in str(host.look(switch).note)
    assert host.route.rollout is None


def test_a_history_that_was_rewound_is_refused_across_restarts(host: RolloutHost) -> None:
    host.start()
    file = host.shop.objects.read(ROLLOUT.key)
    assert file is not None
    host.step(transitions.advance)
    host.look()
    before = host.route
    newest = host.shop.objects.read(ROLLOUT.key)
    assert newest is not None
    host.shop.objects.replace(ROLLOUT.key, file.content, newest.tag)
    with pytest.raises(RefusedError, match="its history was rewound: step 2"):
        host.look()
    assert host.route == before


def test_a_step_that_no_trusted_key_signed_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.serving.engine_layout.router_files", lambda: {"1/model.py": b"router"})
    ann = signing_as(tmp_path / "keys")
    host = RolloutHost(Shop(tmp_path, signing=ann))
    host.pull()
    host.start()
    host.look()
    before = host.route
    host.shop.signing, host.shop.trusting = Signing(), ann
    host.shop.__dict__.pop("registry")
    with pytest.raises(RefusedError):
        host.step(transitions.advance) and host.look()
    assert host.route == before


def test_inputs_are_kept_only_where_the_sampler_of_both_engines_may(host: RolloutHost) -> None:
    route = host.route
    sampled = route.model_copy(update={"sampling": {"redacted": {}}})
    redacted = route.model_copy(update={"sampling": {"redacted": {"features": 0}}})
    assert routes.inputs_to_keep(route) == routes.inputs_to_keep(redacted) == frozenset()
    assert routes.inputs_to_keep(sampled) == {"features"}


@pytest.mark.hardship(only=True)
def test_killed_before_any_write_the_next_look_completes_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before the first write to disk, the second, and so on, bringing a canary in and taking it out."""
    monkeypatch.setattr("tasks.serving.engine_layout.router_files", lambda: {"1/model.py": b"router"})
    rename, write = type(tmp_path).rename, ScratchSpace.write
    for die_at in range(1, 30):
        (tmp_path / str(die_at)).mkdir()
        host = RolloutHost(Shop(tmp_path / str(die_at)))
        host.pull()
        host.start(RolloutPlan(steps=(5.0, 100.0)))
        writes = iter(range(1, 1000))

        def dying(function: Any, writes: Any = writes, die_at: int = die_at) -> Any:
            def run(*arguments: Any) -> Any:
                if next(writes) == die_at:
                    raise KeyboardInterrupt
                return function(*arguments)

            return run

        died = 0
        for end in (False, True):
            if end:
                host.step(transitions.roll_back)
            try:
                with monkeypatch.context() as patch:
                    patch.setattr(type(tmp_path), "rename", dying(rename))
                    patch.setattr(ScratchSpace, "write", dying(write))
                    host.look()
            except KeyboardInterrupt:
                died += 1
            assert host.route.rollout is None or set(host.route.models) <= host.server.loaded
            host.look()
            assert (host.route.rollout is None) == end
        assert host.is_clean()
        if not died:
            break
    assert 5 < die_at < 29
