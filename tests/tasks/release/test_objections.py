from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RefusedError
from tasks.release.promote import carry_out, propose_promotion, propose_rollback, require_permission
from tasks.release.select import point_candidate
from tasks.rollout import transitions
from tests.tasks.canary import Canary, by
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import address_of
from tests.tasks.tiny import VERSION

if TYPE_CHECKING:
    from tasks.process.context import StageContext
    from tasks.registry.moves import Move


@pytest.fixture
def shelf(context: StageContext) -> Canary:
    return Canary(MemoryObjects(), context).stock()


def promote(shelf: Canary, to: str, override: str | None = None) -> Move:
    proposal = propose_promotion(shelf.registry, shelf.rejected, address_of(to), shelf.canary.manifest.engine_id)
    require_permission(proposal, override)
    return carry_out(shelf.registry, shelf.context, proposal, reason="", override=override, who="ann")


def freeze(shelf: Canary) -> None:
    until = datetime.now(timezone.utc) + timedelta(days=1)
    shelf.step(transitions.freeze, until, by())


@pytest.mark.parametrize("held", [False, True])
def test_production_is_not_promoted_while_a_rollout_is_open(shelf: Canary, *, held: bool) -> None:
    shelf.start()
    if held:
        shelf.step(transitions.hold, by())
    status = "held" if held else "running"
    with pytest.raises(RefusedError, match=f"a rollout of tiny-cpu-fp16@{VERSION} is {status} at shadow; wait for its"):
        promote(shelf, "production")
    assert promote(shelf, "production", override="an incident").override == "an incident"


@pytest.mark.parametrize(("rule", "words"), [(transitions.roll_back, "rolled back"), (transitions.abort, "aborted")])
def test_an_engine_that_did_not_outlast_its_last_rollout_is_not_promoted(
    shelf: Canary, rule: object, words: str
) -> None:
    shelf.start()
    shelf.step(rule, by())  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=f"its last rollout was {words}; see `enginegate rollout history`"):
        promote(shelf, "production")
    shelf.start(rollout_id=f"{1:012x}")
    shelf.step(transitions.supersede, by())
    assert promote(shelf, "production").engine_id == shelf.canary.manifest.engine_id


def test_other_channels_and_rollbacks_do_not_wait_for_a_rollout(shelf: Canary) -> None:
    before = shelf.register("fp32", version="abcdefabcdef")
    for engine in (before, shelf.production):
        shelf.point("production", engine)
    shelf.start()
    assert promote(shelf, "staging").engine_id == shelf.canary.manifest.engine_id
    proposal = propose_rollback(shelf.registry, address_of("production"))
    moved = carry_out(shelf.registry, shelf.context, proposal, reason="", override=None, who="ann")
    assert moved.engine_id == before.manifest.engine_id


def test_a_rollout_that_begins_after_the_look_stops_the_promotion(shelf: Canary) -> None:
    engine = shelf.canary.manifest.engine_id
    proposal = propose_promotion(shelf.registry, shelf.rejected, address_of("production"), engine)
    shelf.start()
    with pytest.raises(RefusedError, match=r"a rollout of .* is running at shadow.*nothing was moved"):
        carry_out(shelf.registry, shelf.context, proposal, reason="", override=None, who="ann")


@pytest.mark.parametrize("to", ["candidate", "staging", "production"])
def test_a_freeze_stops_every_promotion_whatever_is_overridden(shelf: Canary, to: str) -> None:
    freeze(shelf)
    with pytest.raises(RefusedError, match="rollout of tiny for cpu: is frozen until"):
        promote(shelf, to, override="an incident")
    with pytest.raises(RefusedError, match="is frozen until"):
        point_candidate(shelf.registry, "tiny", VERSION, "cpu", None)


def test_a_freeze_after_the_look_stops_the_promotion_and_lets_a_rollback_be(shelf: Canary) -> None:
    engine = shelf.canary.manifest.engine_id
    shown = propose_promotion(shelf.registry, shelf.rejected, address_of("production"), engine)
    freeze(shelf)
    with pytest.raises(RefusedError, match="is frozen until"):
        carry_out(shelf.registry, shelf.context, shown, reason="", override=None, who="ann")
    back = propose_rollback(shelf.registry, address_of("canary"))
    moved = carry_out(shelf.registry, shelf.context, back, reason="", override=None, who="ann")
    assert moved.engine_id == shelf.production.manifest.engine_id
