"""The emergency, rehearsed: a key has leaked and was withdrawn, and what it signed must be served on."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from securesystemslib.signer import CryptoSigner

from tasks.errors import InputError, RefusedError
from tasks.process.context import StageContext
from tasks.registry.layout import resigned_key, resigned_keys
from tasks.registry.registry import Registry
from tasks.registry.retention import plan_removal
from tasks.registry.signing import Signing
from tasks.registry.survey import survey_registry
from tasks.registry.upkeep import remove_loose
from tasks.release.promote import propose_promotion, propose_rollback
from tasks.release.resign import Resignable, find_resignable, resign_channel, resign_engine
from tasks.store.local import LocalStore
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.registry.keys import trust
from tests.tasks.shelf import Shelf, address_of

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.registry.engines import SignedManifest

LEAKED, NEW = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
WITHDRAWN = trust(LEAKED)
REASON = "the key of ann's laptop leaked"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Two engines and three moves of a key that was trusted when it signed them."""
    context = StageContext(LocalStore(tmp_path / "store"))
    shelf = Shelf(MemoryObjects(), context, Signing(LEAKED, trusted=WITHDRAWN))
    for precision in ("fp16", "fp32"):
        engine = shelf.register(precision)
        shelf.point("staging", engine)
    shelf.point("canary", engine)
    return shelf


@pytest.fixture
def after(shelf: Shelf) -> Registry:
    """The same registry for those who no longer trust that key, and have another."""
    return Registry(shelf.objects, Signing(NEW, trusted=trust(NEW)))


def engines_of(shelf: Shelf) -> list[SignedManifest]:
    return [shelf.registry.engines.read_signed(cell) for cell in shelf.registry.engines.list_cells()]


def resign_all(registry: Registry) -> None:
    found = find_resignable(registry, WITHDRAWN)
    assert found.faults == ()
    for cell in found.engines:
        resign_engine(registry, WITHDRAWN, cell)
    for channel in found.channels:
        resign_channel(registry, WITHDRAWN, channel, reason=REASON, who="bob")


def test_what_a_withdrawn_key_signed_is_refused_everywhere_until_it_is_signed_anew(
    shelf: Shelf, after: Registry
) -> None:
    before = engines_of(shelf)
    for cell in after.engines.list_cells():
        with pytest.raises(RefusedError, match=r"by keys that are not trusted; .* see `enginegate resign`"):
            after.engines.read_signed(cell)
    with pytest.raises(RefusedError, match="see `enginegate resign`"):
        after.channels.read(address_of("staging"))

    resign_all(after)

    fresh = Registry(shelf.objects, Signing(NEW, trusted=trust(NEW)))
    for engine in before:
        again = fresh.engines.read_signed(engine.manifest.cell)
        assert (again.manifest, again.digest) == (engine.manifest, engine.digest)
        assert again.signature.verified == (NEW.public_key.keyid,)
        assert fresh.engines.verify(engine.manifest.cell) == []
    for name, count in (("staging", 3), ("canary", 2)):
        moves = fresh.channels.read(address_of(name)).moves
        assert len(moves) == count
        assert (moves[-1].move.kind, moves[-1].move.reason) == ("resign", REASON)
        assert moves[-1].move.engine_id == moves[-2].move.engine_id
        assert moves[-1].move.manifest == moves[-2].move.manifest
    assert survey_registry(shelf.objects).strangers == ()
    assert find_resignable(fresh, WITHDRAWN) == Resignable((), (), ())


def test_then_channels_move_on_and_back_as_before(shelf: Shelf, after: Registry) -> None:
    resign_all(after)
    fresh = Shelf(shelf.objects, shelf.context, Signing(NEW, trusted=trust(NEW)))
    slow, fast = (one.manifest for one in engines_of(fresh))
    proposal = propose_promotion(fresh.registry, fresh.rejected, address_of("staging"), slow.engine_id)
    assert proposal.objections == ()
    back = propose_rollback(fresh.registry, address_of("staging"))
    assert {back.proposed.manifest.engine_id} == {slow.engine_id, fast.engine_id} - {fresh.engine_at("staging")}


def test_an_engine_that_is_damaged_or_a_channel_that_was_forged_is_not_signed(shelf: Shelf, after: Registry) -> None:
    damaged, whole = engines_of(shelf)
    key = next(
        entry.key for entry in shelf.objects.list("blobs/") if damaged.manifest.plan.files[0].digest[9:] in entry.key
    )
    shelf.objects.delete(key)
    eve = Shelf(shelf.objects, shelf.context, Signing(CryptoSigner.generate_ed25519()))
    eve.point("canary", whole)
    found = find_resignable(after, WITHDRAWN)
    assert [cell.engine_id for cell in found.engines] == [whole.manifest.engine_id]
    assert [channel.address for channel in found.channels] == [address_of("staging")]
    assert any("is missing" in fault for fault in found.faults)
    assert any("canary" in fault and "not trusted" in fault for fault in found.faults)


def test_a_channel_that_moved_since_it_was_shown_is_left_as_it_is(shelf: Shelf, after: Registry) -> None:
    found = find_resignable(after, WITHDRAWN)
    shelf.point("canary", engines_of(shelf)[0])
    canary = next(channel for channel in found.channels if channel.address == address_of("canary"))
    with pytest.raises(RefusedError, match="was moved meanwhile"):
        resign_channel(after, WITHDRAWN, canary, reason=REASON, who="bob")


def test_a_host_whose_key_is_not_trusted_signs_nothing(shelf: Shelf) -> None:
    for signing in (Signing(trusted=trust(NEW)), Signing(LEAKED, trusted=trust(NEW))):
        registry = Registry(shelf.objects, signing)
        found = find_resignable(registry, WITHDRAWN)
        before = list(shelf.objects.list(""))
        with pytest.raises(RefusedError, match="nothing was written"):
            resign_engine(registry, WITHDRAWN, found.engines[0])
        with pytest.raises(RefusedError, match="nothing was written"):
            resign_channel(registry, WITHDRAWN, found.channels[0], reason=REASON, who="bob")
        assert list(shelf.objects.list("")) == before


def test_a_key_that_is_still_trusted_is_not_withdrawn(shelf: Shelf) -> None:
    with pytest.raises(InputError, match=r"key-1 \(.*\) is still trusted; remove it from ENGINEGATE_TRUST first"):
        find_resignable(shelf.registry, WITHDRAWN)
    with pytest.raises(InputError, match="ENGINEGATE_TRUST: is not set"):
        find_resignable(Registry(shelf.objects, Signing(NEW)), WITHDRAWN)


def test_gc_takes_an_envelope_with_its_engine(shelf: Shelf, after: Registry) -> None:
    loose = shelf.register("int8")
    resign_all(after)
    assert len([entry for entry in shelf.objects.list("engines/") if "resigned-" in entry.key]) == 3
    plan = plan_removal(after, datetime.now(timezone.utc) + timedelta(days=1))
    assert [engine.cell for engine in plan.engines] == [loose.manifest.cell]
    remove_loose(after, plan)
    assert len([entry for entry in shelf.objects.list("engines/") if "resigned-" in entry.key]) == 2


def test_junk_beside_a_manifest_locks_no_engine(shelf: Shelf, after: Registry) -> None:
    cell = after.engines.list_cells()[0]
    shelf.objects.create(f"{resigned_keys(cell)}{'0' * 16}.json", b"junk")
    resign_all(after)
    assert after.engines.read_signed(cell).signature.verified == (NEW.public_key.keyid,)


def test_a_key_whose_place_is_taken_is_told_so(shelf: Shelf, after: Registry) -> None:
    cell = after.engines.list_cells()[0]
    shelf.objects.create(resigned_key(cell, NEW.public_key.keyid), b"junk")
    with pytest.raises(RefusedError, match="by keys that are not trusted"):
        resign_engine(after, WITHDRAWN, cell)


def test_a_move_of_kind_resign_goes_nowhere_else(shelf: Shelf, after: Registry) -> None:
    resign_all(after)
    fresh = Shelf(shelf.objects, shelf.context, Signing(NEW, trusted=trust(NEW)))
    other = next(one for one in engines_of(fresh) if one.manifest.engine_id != fresh.engine_at("staging"))
    with pytest.raises(RefusedError, match="is a `resign` that goes elsewhere"):
        fresh.point("staging", other, kind="resign")
