from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError, RefusedError
from tasks.registry.signing import Signing
from tasks.release.promote import propose_promotion
from tasks.release.pull import find_offer
from tests.tasks.shelf import Shelf, address_of
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.registry.engines import SignedManifest

FUTURE = "2099-01-01T00:00:00+00:00"
SAID = "dated in the future: 2099-01-01T00:00:00"


@pytest.fixture
def shelf(tmp_path: Path, context: StageContext) -> Shelf:
    return Shelf(tmp_path / "registry", context, Signing())


def dated_ahead(shelf: Shelf) -> SignedManifest:
    """An engine whose manifest was dated so without asking a publisher of this release."""
    shelf.replace_manifest(shelf.register("fp16").manifest, created_at=FUTURE)
    return shelf.registry.engines.read_signed(cell("fp16"))


def test_an_engine_dated_in_the_future_is_not_registered_so_that_its_id_stays_free(shelf: Shelf) -> None:
    with pytest.raises(RefusedError, match=f"is not registered: created_at: {SAID}"):
        shelf.register("fp16", created_at=FUTURE)
    assert shelf.register("fp16").manifest.cell == cell("fp16")


def test_an_engine_dated_in_the_future_is_told_by_verify_and_refused_by_promote(shelf: Shelf) -> None:
    engine = dated_ahead(shelf).manifest
    assert [fault for fault in shelf.registry.engines.verify(cell("fp16")) if SAID in fault]
    with pytest.raises(RefusedError, match=SAID):
        propose_promotion(shelf.registry, shelf.rejected, address_of("staging"), engine.engine_id)
    with pytest.raises(InputError, match="none of its 1 registered engines passed"):
        propose_promotion(shelf.registry, shelf.rejected, address_of("staging"), None)


def test_an_engine_dated_in_the_future_is_not_pulled(shelf: Shelf) -> None:
    shelf.point("candidate", dated_ahead(shelf))
    with pytest.raises(RefusedError, match=SAID):
        find_offer(shelf.registry, address_of("candidate"), None, None)


def test_a_host_whose_clock_is_an_hour_ahead_signs_engines_all_the_same(shelf: Shelf) -> None:
    ahead = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    shelf.register("fp16", created_at=ahead)
    assert shelf.registry.engines.verify(cell("fp16")) == []
