"""What keeps a registry in order, and what signs it anew, know rollouts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from securesystemslib.signer import CryptoSigner

from tasks.errors import RefusedError
from tasks.registry.moves import ChannelName
from tasks.registry.registry import Registry
from tasks.registry.retention import Hold, plan_removal
from tasks.registry.rollouts import StepKind
from tasks.registry.signing import Signing
from tasks.registry.survey import survey_registry
from tasks.registry.upkeep import remove_loose
from tasks.release.resign import find_resignable, resign_channel, resign_engine, resign_rollouts
from tasks.rollout import transitions
from tests.tasks.canary import ROLLOUT, Canary, by
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.registry.keys import trust
from tests.tasks.shelf import address_of
from tests.tasks.traffic import Traffic

if TYPE_CHECKING:
    from tasks.process.context import StageContext

LEAKED, NEW = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
WITHDRAWN = trust(LEAKED)
LATER = timedelta(days=1)


@pytest.fixture
def shelf(context: StageContext) -> Canary:
    """A rollout that runs, and no channel that would hold its engines."""
    shelf = Canary(MemoryObjects(), context).stock()
    shelf.start()
    Traffic(shelf).flow()
    for name in ChannelName:
        shelf.objects.delete(address_of(name.value).key)
    return shelf


def test_the_engines_of_a_rollout_are_in_use_and_then_in_its_history(shelf: Canary) -> None:
    loose = shelf.register("int8")
    fresh = shelf.reopened()
    plan = plan_removal(fresh.registry, datetime.now(timezone.utc) + LATER)
    assert [one.cell.engine_id for one in plan.engines] == [loose.manifest.engine_id]
    held = {one.name: (one.hold, one.why) for one in plan.kept}
    assert held == dict.fromkeys(shelf.state.engines, (Hold.CHANNEL, "rollout of tiny for cpu"))
    shelf.step(transitions.abort, by())
    plan = plan_removal(shelf.reopened().registry, datetime.now(timezone.utc) + LATER)
    assert {one.hold for one in plan.kept} == {Hold.HISTORY}
    removed = remove_loose(shelf.reopened().registry, plan)
    assert [cell.engine_id for cell in removed.engines] == [loose.manifest.engine_id]


def test_an_engine_that_is_rolled_out_after_the_plan_stays_whole(shelf: Canary) -> None:
    shelf.step(transitions.abort, by())
    engine = shelf.register("int8")
    plan = plan_removal(shelf.reopened().registry, datetime.now(timezone.utc) + LATER)
    shelf.registry = shelf.reopened().registry
    shelf.point("production", shelf.production)
    shelf.point("canary", engine)
    shelf.start(rollout_id=f"{1:012x}")
    for name in ("production", "canary"):
        shelf.objects.delete(address_of(name).key)
    assert remove_loose(shelf.reopened().registry, plan).engines == ()


def test_a_history_of_rollouts_that_cannot_be_read_stops_gc(shelf: Canary) -> None:
    ObjectFile(shelf.objects, ROLLOUT.key).write_bytes(b"{")
    with pytest.raises(RefusedError, match="rollout of tiny for cpu is damaged; restore it"):
        plan_removal(shelf.reopened().registry, datetime.now(timezone.utc) + LATER)


def test_what_hosts_saw_is_neither_listed_nor_foreign(shelf: Canary) -> None:
    survey = survey_registry(shelf.objects)
    assert (survey.strangers, survey.rollouts) == ((), {ROLLOUT})


def test_after_a_leaked_key_a_rollout_is_signed_anew_and_stays_as_it_is(context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context, Signing(LEAKED, trusted=WITHDRAWN)).stock()
    shelf.start()
    before = shelf.state
    after = Registry(shelf.objects, Signing(NEW, trusted=trust(NEW)))
    with pytest.raises(RefusedError, match="rollout of tiny for cpu: step 1 is signed by keys that are not trusted"):
        after.rollouts.read(ROLLOUT)

    found = find_resignable(after, WITHDRAWN)
    for cell in found.engines:
        resign_engine(after, WITHDRAWN, cell)
    for channel in found.channels:
        resign_channel(after, WITHDRAWN, channel, reason="a leak", who="bob")
    for history in found.rollouts:
        resign_rollouts(after, WITHDRAWN, history, reason="a leak", who="bob")

    fresh = Registry(shelf.objects, Signing(NEW, trusted=trust(NEW)))
    last = fresh.rollouts.read(ROLLOUT).current
    assert last is not None
    assert (last.kind, last.rollout, last.reason) == (StepKind.RESIGN, before, "a leak")
    assert find_resignable(fresh, WITHDRAWN).is_empty


def test_a_rollout_that_went_on_since_it_was_shown_is_not_signed_anew(context: StageContext) -> None:
    shelf = Canary(MemoryObjects(), context, Signing(LEAKED, trusted=WITHDRAWN)).stock()
    shelf.start()
    after = Registry(shelf.objects, Signing(NEW, trusted=trust(NEW)))
    (shown,) = find_resignable(after, WITHDRAWN).rollouts
    shelf.step(transitions.hold, by())
    with pytest.raises(RefusedError, match="rollout of tiny for cpu went on meanwhile"):
        resign_rollouts(after, WITHDRAWN, shown, reason="a leak", who="bob")
