"""A server, or a proxy before it, that ignores the conditions of writes."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RefusedError
from tasks.objects.s3 import S3Objects
from tasks.registry import conditions
from tasks.registry.conditions import require_conditions, try_conditions
from tasks.registry.layout import PROBE
from tasks.registry.registry import Registry
from tasks.registry.retention import moment_ago, plan_removal
from tasks.registry.signing import Signing
from tasks.registry.survey import survey_registry
from tests.s3_servers import BUCKET, Faults, aws_settings, serve_faulty
from tests.tasks.conftest import place_at
from tests.tasks.serving_host import PRODUCTION, Shop
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.tasks.conftest import Place


@contextmanager
def careless(place: Place, condition: str) -> Iterator[S3Objects]:
    """The objects of a place behind a proxy that drops a condition."""
    with (
        serve_faulty(place.endpoint, Faults(1, kinds=(f"no_{condition}",))) as endpoint,
        pytest.MonkeyPatch.context() as p,
    ):
        for name, value in aws_settings(endpoint).items():
            p.setenv(name, value)
        yield S3Objects(BUCKET, place.prefix)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_at("moto", request, tmp_path)  # radosgw checks the signature of a header that is gone


@pytest.mark.parametrize(("condition", "name"), [("if_match", "If-Match"), ("if_none_match", "If-None-Match")])
def test_nothing_is_registered_or_moved_at_a_server_that_ignores_a_condition(
    place: Place, tmp_path: Path, condition: str, name: str
) -> None:
    with careless(place, condition) as objects:
        shop = Shop(tmp_path, objects)
        with pytest.raises(RefusedError, match=rf"^{objects.address}: this server ignores {name} of a write.*Use one"):
            shop.publish()
        with pytest.raises(RefusedError, match=f"this server ignores {name} of a write"):
            shop.promote(cell(), manifest="sha256:" + "0" * 64)
        assert [entry.key for entry in objects.list("")] == [PROBE]
    Shop(tmp_path / "later", place.open()).offer()


@pytest.mark.parametrize("kind", ["moto", "radosgw"])
def test_a_server_that_honours_them_is_tried_once_and_keeps_one_object_that_counts_for_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, tries = place_at(kind, request, tmp_path), []
    shop = Shop(tmp_path, place.open())
    monkeypatch.setattr(conditions, "try_conditions", lambda objects: tries.append(objects) or try_conditions(objects))
    manifest = shop.offer()
    shop.promote(manifest.cell, reason="again")
    assert len(tries) == 1
    require_conditions(place.open())
    assert len(tries) == 1
    assert try_conditions(place.open()), "as doctor does, where the object is there before"
    survey = survey_registry(shop.objects)
    assert (survey.strangers, {address.model for address in survey.channels}) == ((), {"tiny"})
    registry = Registry(shop.objects, Signing())
    assert plan_removal(registry, moment_ago(shop.objects, timedelta(days=1))).files == ()
    assert shop.pull().moved
    assert len(registry.channels.read(PRODUCTION).moves) == 2
