from __future__ import annotations

import functools
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from tasks.errors import InputError, RefusedError
from tasks.objects.folder import LocalObjects
from tasks.process.context import StageContext
from tasks.registry.layout import blob_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.signing import Signing
from tasks.release.promote import Proposal, carry_out, printable, propose_promotion, propose_rollback
from tasks.store.local import LocalStore
from tests.hardship import numbers
from tests.tasks.damage import ObjectFile, contents_of, remove, truncate
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.processes import kill_points, race
from tests.tasks.registry.keys import trust
from tests.tasks.shelf import BAD, FAILING, FAST, SLOW, Shelf, address_of, stock
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import Move

OLDER, NEWER = "a" * 12, "b" * 12


@pytest.fixture
def shelf(context: StageContext) -> Shelf:
    return Shelf(MemoryObjects(), context)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines; made once."""
    return stock(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def contents(template: Path) -> dict[str, bytes]:
    """The objects of their registry."""
    return contents_of(LocalObjects(template / "registry"))


@pytest.fixture
def stocked(template: Path, contents: dict[str, bytes], tmp_path: Path) -> Shelf:
    """The same, to be changed; the registry in memory."""
    for name in ("store", "state"):
        shutil.copytree(template / name, tmp_path / name, dirs_exist_ok=True)
    objects = MemoryObjects()
    for key, content in contents.items():
        objects.create(key, content)
    return Shelf(objects, StageContext(LocalStore(tmp_path / "store")))


@pytest.fixture
def shared(template: Path, tmp_path: Path) -> Shelf:
    """The same in a folder, which processes share."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Shelf(tmp_path / "registry", StageContext(LocalStore(tmp_path / "store")))


def engine(shelf: Shelf, engine_id: str) -> SignedManifest:
    return next(
        shelf.registry.engines.read_signed(one)
        for one in shelf.registry.engines.list_cells()
        if one.engine_id == engine_id
    )


def propose(shelf: Shelf, to: str, engine_id: str | None = None, **place: str) -> Proposal:
    where: dict[str, Any] = {"model": "tiny", "target": "cpu"} | place
    return propose_promotion(
        shelf.registry, shelf.rejected, ChannelAddress(channel=ChannelName(to), **where), engine_id
    )


def back(shelf: Shelf, name: str) -> Proposal:
    return propose_rollback(shelf.registry, address_of(name))


def carry(shelf: Shelf, proposal: Proposal, *, reason: str = "", override: str | None = None, who: str = "ann") -> Move:
    return carry_out(shelf.registry, shelf.context, proposal, reason=reason, override=override, who=who)


def kept_out(shelf: Shelf) -> EngineManifest:
    found = shelf.rejected.find(cell("int8"))
    assert found
    return found


def promote(shelf: Shelf, to: str, engine_id: str | None = None, override: str | None = None) -> Move:
    return carry(shelf, propose(shelf, to, engine_id), override=override)


@pytest.mark.parametrize(
    ("pointing", "to", "named", "objection"),
    [
        ({}, "candidate", SLOW, None),
        ({}, "staging", SLOW, None),
        ({"candidate": FAST}, "staging", SLOW, None),
        ({"staging": SLOW}, "canary", SLOW, None),
        ({"staging": SLOW, "candidate": FAST}, "canary", None, None),
        ({"staging": FAST, "canary": SLOW}, "production", SLOW, None),
        ({}, "canary", SLOW, "skips staging, which points at no engine yet"),
        ({"staging": FAST}, "canary", SLOW, f"skips staging, which points at {FAST}"),
        ({"staging": SLOW}, "production", SLOW, "skips canary, which points at no engine yet"),
        ({"staging": SLOW, "canary": FAST}, "production", SLOW, f"skips canary, which points at {FAST}"),
    ],
)
def test_no_step_is_skipped_and_staging_takes_any_engine_that_passed(
    stocked: Shelf, pointing: dict[str, str], to: str, named: str | None, objection: str | None
) -> None:
    for name, engine_id in pointing.items():
        stocked.point(name, engine(stocked, engine_id))
    proposal = propose(stocked, to, named)
    assert proposal.objections == (() if objection is None else (f"{objection}; promote it there first",))
    assert proposal.proposed == engine(stocked, SLOW)
    if objection:
        before = contents_of(stocked.objects)
        with pytest.raises(RefusedError, match=r"skips .*`--override REASON` breaks the rule"):
            carry(stocked, proposal)
        assert contents_of(stocked.objects) == before
    else:
        move = carry(stocked, proposal, reason="because")
        assert (stocked.engine_at(to), move.reason, move.who, move.override) == (SLOW, "because", "ann", None)
        assert stocked.channel(to).current == move


@pytest.mark.parametrize("to", ["candidate", "staging", "canary", "production"])
def test_an_engine_that_failed_is_objected_to_at_every_step_and_moves_by_an_override_alone(
    stocked: Shelf, to: str
) -> None:
    assert promote(stocked, "candidate", BAD, override="the demo").override == "the demo"
    for name in ("staging", "canary", "production"):
        stocked.point(name, engine(stocked, SLOW))
    proposal = propose(stocked, to, BAD)
    if to == "candidate":
        assert proposal.is_done
        return
    assert proposal.registered
    assert proposal.objections[-1].startswith("verdict is fail: score p99_sd is 2.769, with 95 % confidence")
    with pytest.raises(RefusedError, match="verdict is fail"):
        carry(stocked, proposal)
    assert stocked.engine_at(to) == SLOW


def test_candidate_gets_the_fastest_engine_that_passed_of_the_version_converted_last(shelf: Shelf) -> None:
    shelf.register("fp16", version=OLDER, p50_ms=0.5, created_at="2026-11-18T12:00:00+00:00")
    shelf.register("fp32", version=NEWER, p50_ms=4.0, created_at="2026-11-19T12:00:00+00:00")
    shelf.register("fp16", version=NEWER, p50_ms=2.0, created_at="2026-11-19T12:00:00+00:00")
    override = {"reason": "r", "who": "ann", "when": "now"}
    latest = {"version": "c" * 12, "noise": FAILING, "created_at": "2026-11-20T12:00:00+00:00", "override": override}
    shelf.register("int8", p50_ms=0.1, **latest)
    best = f"tiny-cpu-fp16@{NEWER}"
    for to in ("candidate", "staging"):  # there is no candidate yet that staging could take
        assert propose(shelf, to).proposed.manifest.engine_id == best
    shelf.point("candidate", engine(shelf, f"tiny-cpu-fp32@{NEWER}"))
    assert propose(shelf, "staging").proposed.manifest.engine_id == f"tiny-cpu-fp32@{NEWER}"
    assert propose(shelf, "candidate").proposed.manifest.engine_id == best


@pytest.mark.parametrize("to", ["canary", "production"])
def test_a_step_after_one_that_points_at_nothing_has_no_default(stocked: Shelf, to: str) -> None:
    with pytest.raises(InputError, match=r"points at no engine yet that .* could take; promote one to .* first"):
        propose(stocked, to)


@pytest.mark.parametrize("to", ["candidate", "staging"])
def test_where_nothing_passed_there_is_no_default(shelf: Shelf, to: str) -> None:
    with pytest.raises(InputError, match="none of its 0 registered engines passed; convert it first"):
        propose(shelf, to)


HOSTILE = ["", "..", "../tiny", "tiny/../x", "Tiny", "tiny\n", "a" * 65, "tiny\x1b[31m", "-tiny", "tïny", "a--b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_of_a_model_or_a_target_makes_no_key(stocked: Shelf, name: str) -> None:
    for place in ({"model": name}, {"target": name}):
        with pytest.raises(InputError, match="is no ") as caught:
            propose(stocked, "staging", **place)
        assert str(caught.value).isprintable()
    with pytest.raises(InputError, match="is no engine id"):
        propose(stocked, "staging", name)


@pytest.mark.parametrize("target", ["a100-mig-1g.5gb\n", "t4-mig-1g.5gb", "gpu", "CPU"])
def test_a_target_is_one_that_there_is(stocked: Shelf, target: str) -> None:
    with pytest.raises(InputError, match="is no target; choose from cpu, t4"):
        propose(stocked, "staging", target=target)


@pytest.mark.parametrize("engine_id", ["other-cpu-fp32@0123456789ab", "tiny-t4-fp32@0123456789ab"])
def test_an_engine_of_another_model_or_target_is_refused(stocked: Shelf, engine_id: str) -> None:
    with pytest.raises(InputError, match="and the channel is one of tiny for cpu"):
        propose(stocked, "staging", engine_id)


def test_an_engine_that_is_nowhere_is_asked_for_where_it_was_converted(stocked: Shelf) -> None:
    with pytest.raises(InputError, match=r"is not registered, .* on the host that converted"):
        propose(stocked, "staging", f"tiny-cpu-int8@{OLDER}")


def test_an_engine_kept_out_is_objected_to_and_registered_by_an_override_with_its_reason(stocked: Shelf) -> None:
    kept = kept_out(stocked)
    proposal = propose(stocked, "staging", BAD)
    assert not proposal.registered
    assert proposal.proposed.manifest == kept
    assert proposal.proposed.signature.words == "unsigned"
    with pytest.raises(RefusedError, match=rf"staging of tiny for cpu does not move to {BAD}: verdict is fail: "):
        carry(stocked, proposal)
    assert kept.cell not in stocked.registry.engines.list_cells()
    move = carry(stocked, proposal, reason="why", override="the demo of Monday")
    found = stocked.registry.engines.read_signed(kept.cell)
    assert found.manifest.override
    assert (found.manifest.override.reason, found.manifest.override.who) == ("the demo of Monday", "ann")
    assert found.manifest.model_copy(update={"override": None}) == kept
    assert stocked.registry.engines.verify(kept.cell) == []
    assert (move.engine_id, move.manifest, move.override) == (BAD, found.digest, "the demo of Monday")
    assert stocked.channel("staging").current == move


def test_an_override_of_nothing_is_refused(stocked: Shelf) -> None:
    with pytest.raises(InputError, match="override: this promotion breaks no rule"):
        promote(stocked, "staging", SLOW, override="just in case")
    assert stocked.engine_at("staging") is None


def test_an_override_skips_steps(stocked: Shelf) -> None:
    assert promote(stocked, "production", SLOW, override="hot fix").override == "hot fix"
    assert [stocked.engine_at(name) for name in ("staging", "canary", "production")] == [None, None, SLOW]


def test_a_channel_that_points_there_already_is_not_moved(stocked: Shelf) -> None:
    made = promote(stocked, "staging", SLOW)
    before = contents_of(stocked.objects)
    proposal = propose(stocked, "staging", SLOW)
    assert proposal.is_done
    assert carry(stocked, proposal, reason="again") == made
    assert contents_of(stocked.objects) == before


def damage_file(shelf: Shelf, signed: SignedManifest) -> None:
    remove(ObjectFile(shelf.objects, blob_key(signed.manifest.plan.files[0].digest)))


def cut_file(shelf: Shelf, signed: SignedManifest) -> None:
    truncate(ObjectFile(shelf.objects, blob_key(signed.manifest.plan.files[-1].digest)))


def forge_verdict(shelf: Shelf, signed: SignedManifest) -> None:
    failed = shelf.describe("int8", noise=FAILING)
    shelf.replace_manifest(signed.manifest, comparison=failed.comparison)


def spoil_manifest(shelf: Shelf, signed: SignedManifest) -> None:
    shelf.manifest_file(signed.manifest).write_bytes(b"{")


DAMAGE = {
    "a missing file": (damage_file, "cannot be served: plan: engine.onnx is missing or has another size; convert"),
    "a truncated file": (cut_file, r"plan: engine.onnx.data is missing or has another size"),
    "a forged verdict": (forge_verdict, "does not follow from the stored comparison"),
    "a damaged manifest": (spoil_manifest, "its manifest is damaged"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_an_engine_that_could_not_be_served_moves_nowhere_override_or_not(
    stocked: Shelf, damage: Callable[[Shelf, SignedManifest], None], words: str
) -> None:
    shown = propose(stocked, "production", SLOW)
    damage(stocked, engine(stocked, SLOW))
    with pytest.raises(RefusedError, match=words) as caught:
        propose(stocked, "production", SLOW)
    assert caught.value.exit_code == 5
    with pytest.raises(RefusedError):
        carry(stocked, shown, override="all the same")
    assert stocked.engine_at("production") is None


def test_a_manifest_that_was_replaced_by_one_that_holds_together_is_not_what_was_shown(stocked: Shelf) -> None:
    shown = propose(stocked, "staging", SLOW)
    stocked.replace_manifest(shown.proposed.manifest, source_commit="d" * 40)
    with pytest.raises(RefusedError, match="its manifest was replaced meanwhile"):
        carry(stocked, shown)


def test_an_engine_kept_out_whose_files_are_gone_is_refused(stocked: Shelf) -> None:
    kept = kept_out(stocked)
    digest = kept.plan.files[0].digest
    for path in (stocked.context.store.root / "blobs").rglob(digest[9:]):  # type: ignore[attr-defined]
        path.unlink()
    with pytest.raises(RefusedError, match="plan: files are missing in the artifact store; convert the model again"):
        propose(stocked, "staging", BAD)


def test_who_comes_second_is_told_who_won_and_moves_nothing(stocked: Shelf) -> None:
    shown = propose(stocked, "staging", SLOW)
    stocked.point("staging", engine(stocked, FAST), who="eve\x1b[2J", reason="faster")
    (won,) = stocked.channel("staging").moves
    with pytest.raises(RefusedError) as caught:
        carry(stocked, shown)
    assert str(caught.value) == (
        rf"staging of tiny for cpu: eve\x1b[2J moved it to {FAST} at {won.move.when} (faster) meanwhile; you moved"
        " nothing: look again"
    )
    assert stocked.channel("staging").moves == (won,)


def test_a_channel_that_went_away_and_came_back_is_not_what_was_shown(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, FAST))
    shown = propose(stocked, "staging", SLOW)
    stocked.point("staging", engine(stocked, SLOW))
    stocked.point("staging", engine(stocked, FAST))
    with pytest.raises(RefusedError, match="bob moved it to tiny-cpu-fp16"):
        carry(stocked, shown)


def test_a_history_that_was_rewound_is_not_what_was_shown(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, FAST))
    kept = stocked.channel_file("staging").read_bytes()
    stocked.point("staging", engine(stocked, SLOW))
    shown = propose(stocked, "staging", FAST)
    stocked.channel_file("staging").write_bytes(kept)
    fresh = stocked.reopened()
    with pytest.raises(RefusedError, match="has another history than before; nothing was moved"):
        carry(fresh, shown)
    with pytest.raises(RefusedError, match="was rewound while this ran"):
        carry(stocked, shown)


def test_a_step_before_that_moved_on_meanwhile_is_told(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, SLOW))
    shown = propose(stocked, "canary")
    stocked.point("staging", engine(stocked, FAST))
    with pytest.raises(RefusedError, match=rf"staging of tiny for cpu: bob moved it to {FAST} at .*look again"):
        carry(stocked, shown)
    assert stocked.engine_at("canary") is None


def test_an_engine_that_somebody_registered_meanwhile_is_not_registered_twice(stocked: Shelf) -> None:
    shown = propose(stocked, "staging", BAD)
    promote(stocked, "candidate", BAD, override="mine")
    with pytest.raises(RefusedError, match="was registered by somebody meanwhile"):
        carry(stocked, shown, override="theirs")
    assert stocked.engine_at("staging") is None


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_refused(shared: Shelf) -> None:
    shown = [propose(shared, "staging", engine_id) for engine_id in (FAST, SLOW)] * 3
    found = race([lambda proposal=proposal: carry(shared, proposal).engine_id for proposal in shown])  # type: ignore[misc]
    (won,) = (one for one in found if one != "RefusedError")
    assert sorted(found) == sorted(["RefusedError"] * 5 + [won])
    assert [one.move.engine_id for one in shared.channel("staging").moves] == [won]


def test_a_damaged_channel_is_refused(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, SLOW))
    stocked.channel_file("staging").write_bytes(b'{"moves": []}')
    for ask in (
        lambda: propose(stocked, "staging"),
        lambda: propose(stocked, "canary"),
        lambda: back(stocked, "staging"),
    ):
        with pytest.raises(RefusedError, match="staging of tiny for cpu has lost its history"):
            ask()


def test_a_channel_can_leave_an_engine_that_is_damaged(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, FAST))
    spoil_manifest(stocked, engine(stocked, FAST))
    proposal = propose(stocked, "staging", SLOW)
    assert proposal.current is None
    assert proposal.current_fault
    assert f"{FAST}: its manifest is damaged" in proposal.current_fault
    carry(stocked, proposal)
    assert stocked.engine_at("staging") == SLOW


@pytest.mark.parametrize("forged", ["other-cpu-fp16@0123456789ab", FAST])
def test_a_move_that_names_what_is_not_there_is_never_followed(shelf: Shelf, forged: str) -> None:
    slow = shelf.register("fp32")
    shelf.point("staging", slow, engine_id=forged)
    with pytest.raises(RefusedError, match="move 1 of staging of tiny for cpu"):
        propose(shelf, "canary")
    shelf.point("staging", slow)
    with pytest.raises(RefusedError, match="move 1 of staging of tiny for cpu"):
        back(shelf, "staging")


def test_a_move_whose_manifest_is_not_the_registered_one_is_never_followed(stocked: Shelf) -> None:
    stocked.point("staging", engine(stocked, SLOW), manifest="sha256:" + "0" * 64)
    with pytest.raises(RefusedError, match=r"names .* by manifest sha256:000.*, but sha256:.* is registered"):
        propose(stocked, "canary")
    proposal = propose(stocked, "canary", SLOW)
    assert proposal.objections == (f"skips staging, which points at {SLOW}; promote it there first",)


def test_a_second_rollback_goes_back_further_and_the_first_engine_is_the_end(shelf: Shelf) -> None:
    ids = [shelf.register("fp16", version=one * 12).manifest.engine_id for one in "abc"]
    for engine_id in ids:
        promote(shelf, "staging", engine_id)
    for expected in reversed(ids[:-1]):
        proposal = back(shelf, "staging")
        assert (proposal.kind, proposal.objections) == ("rollback", ())
        assert carry(shelf, proposal, reason="slow").engine_id == expected
    with pytest.raises(InputError, match="has no engine before the current one"):
        back(shelf, "staging")
    assert [one.move.kind for one in shelf.channel("staging").moves] == ["promote"] * 3 + ["rollback"] * 2


def test_a_rollback_to_an_overridden_engine_carries_the_override(stocked: Shelf) -> None:
    promote(stocked, "staging", BAD, override="the demo")
    promote(stocked, "staging", SLOW)
    proposal = back(stocked, "staging")
    assert (proposal.override, proposal.objections) == ("the demo", ())
    with pytest.raises(InputError, match="a rollback carries over"):
        carry(stocked, proposal, override="another")
    assert carry(stocked, proposal).override == "the demo"
    assert stocked.engine_at("staging") == BAD


def test_a_rollback_to_a_failing_engine_that_nobody_overrode_is_refused(stocked: Shelf) -> None:
    promote(stocked, "candidate", BAD, override="the demo")
    stocked.point("staging", engine(stocked, BAD))  # as if by other software
    stocked.point("staging", engine(stocked, SLOW))
    proposal = back(stocked, "staging")
    with pytest.raises(RefusedError, match=r"verdict is fail: .*; promote another engine"):
        carry(stocked, proposal)


def test_a_rollback_that_comes_second_is_told_who_won(stocked: Shelf) -> None:
    promote(stocked, "staging", SLOW)
    promote(stocked, "staging", FAST)
    first, second = back(stocked, "staging"), back(stocked, "staging")
    carry(stocked, first)
    with pytest.raises(RefusedError, match=f"ann moved it to {SLOW}"):
        carry(stocked, second)
    assert stocked.engine_at("staging") == SLOW


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from("ab<"), max_size=8))
@example(steps=list("ab<ab<<"))
def test_a_channel_is_a_stack_of_promotions(stocked: Shelf, steps: list[str]) -> None:
    stocked.channel_file("staging").unlink()  # of the example before
    stocked = stocked.reopened()
    ids = {"a": FAST, "b": SLOW}
    stack: list[str] = []
    for step in steps:
        if step != "<":
            promote(stocked, "staging", ids[step])
            stack += [step] if stack[-1:] != [step] else []
        elif len(stack) < 2:
            with pytest.raises(InputError):
                back(stocked, "staging")
        else:
            carry(stocked, back(stocked, "staging"))
            stack.pop()
        assert stocked.engine_at("staging") == (ids[stack[-1]] if stack else None)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"reason": "a" * 2001}, "reason: has 2,001 characters, and 2,000 is the most"),
        ({"reason": "two\nlines"}, r"reason: holds '\\n', which cannot be shown"),
        ({"reason": "\x1b[2J"}, r"reason: holds '\\x1b'"),
        ({"who": "  "}, "who: is blank"),
        ({"who": "ann\u202e"}, r"who: holds '\\u202e'"),
    ],
)
def test_what_cannot_be_shown_in_a_history_is_refused(stocked: Shelf, texts: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        carry(stocked, propose(stocked, "staging", SLOW), **texts)
    with pytest.raises(InputError, match="override: is blank"):
        carry(stocked, propose(stocked, "canary", SLOW), override=" ")
    assert stocked.engine_at("staging") is None


@given(st.text())
def test_what_others_wrote_is_shown_in_one_line_and_plain_text_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_where_trust_is_configured_nothing_is_written_that_nobody_would_trust(context: StageContext) -> None:
    ours, theirs = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    trusted = trust(ours)
    shelf = Shelf(MemoryObjects(), context, Signing(ours, trusted=trusted))
    shelf.register("fp32")
    before = contents_of(shelf.objects)
    for signers in ((), (theirs,)):
        other = Shelf(shelf.objects, context, Signing(*signers, trusted=trusted))
        with pytest.raises(RefusedError, match=r"is signed by .*ENGINEGATE_SIGNING_KEY names the key"):
            promote(other, "staging", SLOW)
    assert contents_of(shelf.objects) == before
    promote(shelf, "staging", SLOW)
    (moved,) = shelf.channel("staging").moves
    assert moved.signature.verified == (ours.public_key.keyid,)


@pytest.mark.hardship
@pytest.mark.parametrize(("engine_id", "stride"), [(SLOW, 1), (BAD, 2 * numbers().stride)])
def test_killed_anywhere_the_channel_is_the_old_or_the_new_one(
    shared: Shelf, tmp_path: Path, engine_id: str, stride: int
) -> None:
    shared.point("staging", engine(shared, FAST))
    override = "the demo" if engine_id == BAD else None
    ends = set()

    def move(root: Path) -> None:
        promote(Shelf(root, shared.context), "staging", engine_id, override)

    copy = functools.partial(shutil.copytree, tmp_path / "registry")
    for root in kill_points(move, tmp_path / "killed", prepare=copy, stride=stride):
        shelf = Shelf(root, shared.context)
        ends.add(shelf.engine_at("staging"))
        assert [shelf.registry.engines.verify(one) for one in shelf.registry.engines.list_cells()] in (
            [[]] * 2,
            [[]] * 3,
        )
        promote(shelf, "staging", engine_id, override)
        assert [one.move.engine_id for one in shelf.channel("staging").moves] == [FAST, engine_id]
    assert ends == {FAST, engine_id}, "killed between the write and the end, too"


def test_an_engine_of_made_up_data_stays_a_candidate_unless_somebody_says_why(shelf: Shelf) -> None:
    made = shelf.register("fp16", synthetic=True)
    carry(shelf, propose(shelf, "candidate", FAST))
    proposal = propose(shelf, "staging", FAST)
    assert proposal.objections == (
        "its validation data are synthetic, and say nothing of real ones; validate it on data and convert again",
    )
    with pytest.raises(RefusedError, match="its validation data are synthetic"):
        carry(shelf, proposal)
    assert shelf.engine_at("staging") is None
    carry(shelf, proposal, override="a rehearsal without traffic")
    assert shelf.engine_at("staging") == made.manifest.engine_id


def test_a_manifest_says_that_data_are_made_up_only_where_they_are(shelf: Shelf) -> None:
    made, real = shelf.describe("fp16", synthetic=True), shelf.describe("fp32")
    assert made.model_dump(mode="json")["synthetic"] is True
    assert "synthetic" not in real.model_dump(mode="json")
    assert type(real).model_validate(real.model_dump(mode="json")) == real
