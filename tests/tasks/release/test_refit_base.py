from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import RefusedError
from tasks.process.context import StageContext
from tasks.records import Override
from tasks.registry.layout import blob_key
from tasks.release.publish import publish_engine
from tasks.release.refit_base import take_registered
from tasks.stages.refit import find_passed
from tasks.store.digests import digest_json
from tasks.store.local import LocalStore
from tests.tasks.release.test_publish import describe, opened
from tests.tasks.tiny import cell, make_outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.registry.registry import Registry

STRUCTURE = digest_json("structure")
NEW = cell(version="f" * 12)
OF_ENGINE = {"structure", "refitted_from"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return opened(tmp_path / "registry")


@pytest.fixture
def elsewhere(tmp_path: Path) -> StageContext:
    """A host with another artifact store."""
    return StageContext(LocalStore(tmp_path / "elsewhere"))


def register(context: StageContext, registry: Registry, version: str = "1" * 12, **changes: Any) -> EngineManifest:
    """Register an engine that was built to be refitted, each version with a plan of its own."""
    outcome = make_outcome(context.store, plan=version.encode(), engine=cell(version=version))
    assert outcome.engine
    of_engine = {"structure": STRUCTURE, **{name: changes.pop(name) for name in list(changes) if name in OF_ENGINE}}
    engine = outcome.engine.model_copy(update=of_engine)
    manifest = describe(context, outcome.model_copy(update={"engine": engine})).model_copy(update=changes)
    publish_engine(context, registry, manifest)
    return manifest


def test_the_manifest_says_what_an_engine_was_refitted_from(context: StageContext, registry: Registry) -> None:
    register(context, registry, refitted_from=digest_json("plan"))
    (found,) = (registry.engines.read_manifest(one) for one in registry.engines.list_cells())
    assert (found.structure, found.refitted_from) == (STRUCTURE, digest_json("plan"))
    plain = describe(context, make_outcome(context.store)).model_dump()
    assert not OF_ENGINE & plain.keys()


def test_a_host_without_the_engine_takes_the_newest_of_the_registry(
    context: StageContext, registry: Registry, elsewhere: StageContext
) -> None:
    register(context, registry, "1" * 12, created_at="2026-11-01T00:00:00+00:00")
    newest = register(context, registry, "2" * 12, created_at="2026-11-03T00:00:00+00:00")
    register(context, registry, "3" * 12, created_at="2026-11-02T00:00:00+00:00")
    assert take_registered(elsewhere, registry, NEW) == newest.engine_id
    found = find_passed(elsewhere.store, STRUCTURE)
    assert found
    assert (found.plan, found.onnx) == (newest.plan, newest.onnx)
    assert take_registered(elsewhere, registry, NEW) is None, "it is there by now"


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": None},
        {"refitted_from": digest_json("plan")},
    ],
    ids=["not built for it", "refitted itself"],
)
def test_other_engines_are_left_where_they_are(
    context: StageContext, registry: Registry, elsewhere: StageContext, changes: dict[str, Any]
) -> None:
    register(context, registry, **changes)
    assert take_registered(elsewhere, registry, NEW) is None
    assert elsewhere.store.list_records("refittable") == ()


def test_one_of_another_target_or_precision_or_of_this_very_version_is_left(
    context: StageContext, registry: Registry, elsewhere: StageContext
) -> None:
    register(context, registry)
    for other in (cell("fp16", "f" * 12), cell(version="f" * 12, target="t4"), cell(version="1" * 12)):
        assert take_registered(elsewhere, registry, other) is None


def test_one_that_is_there_by_an_override_is_left(
    context: StageContext, registry: Registry, elsewhere: StageContext
) -> None:
    outcome = make_outcome(context.store, noise=0.3, engine=cell(version="1" * 12))
    assert outcome.engine
    engine = outcome.engine.model_copy(update={"structure": STRUCTURE})
    override = Override(reason="a demo", who="ann", when="2026-11-01T00:00:00+00:00")
    manifest = describe(context, outcome.model_copy(update={"engine": engine}))
    publish_engine(context, registry, manifest.model_copy(update={"override": override}))
    assert take_registered(elsewhere, registry, NEW) is None


def test_a_file_that_was_changed_is_refused(
    context: StageContext, registry: Registry, elsewhere: StageContext, tmp_path: Path
) -> None:
    manifest = register(context, registry)
    blob = tmp_path / "registry" / blob_key(manifest.plan.files[0].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"?" * blob.stat().st_size)
    with pytest.raises(RefusedError):
        take_registered(elsewhere, registry, NEW)
    assert find_passed(elsewhere.store, STRUCTURE) is None
