from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError
from tasks.release.known_data import needs_data, refuse_other_data
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import Shelf
from tests.tasks.tiny import SMOKE, make_features, put_data, put_validation

if TYPE_CHECKING:
    from tasks.process.context import StageContext
    from tasks.records import DataArtifact, EngineManifest


def described(context: StageContext, *, names_data: bool) -> EngineManifest:
    data = put_validation(context.store) if names_data else None
    return Shelf(MemoryObjects(), context).describe("fp16", data=data)


def data_of(context: StageContext, samples: int, seed: int = 0, *, level: int = 1) -> DataArtifact:
    rows = [{"slice.level": make_features(samples)[:, 0] * 0 + level}]
    return put_data(context.store, [{"features": make_features(samples, seed)}], rows)


def test_the_very_data_are_believed(context: StageContext) -> None:
    for names_data in (True, False):
        manifest = described(context, names_data=names_data)
        refuse_other_data(context, manifest, put_validation(context.store), "--data d")


@pytest.mark.parametrize(("seed", "what"), [(1, "inputs"), (0, "annotations")])
def test_other_inputs_or_labels_are_refused_by_their_digests(context: StageContext, seed: int, what: str) -> None:
    manifest, data = described(context, names_data=True), data_of(context, SMOKE, seed)
    assert manifest.data is not None
    wanted, found = (getattr(each, what).digest for each in (manifest.data, data))
    with pytest.raises(InputError, match=f"on {what} {wanted}, and --data d holds {found}"):
        refuse_other_data(context, manifest, data, "--data d")


@pytest.mark.parametrize(
    ("samples", "seed", "told"), [(SMOKE + 1, 0, "8 samples, and --data d holds 9"), (SMOKE, 1, "first samples")]
)
def test_a_manifest_that_names_no_data_is_held_against_what_the_registry_has(
    context: StageContext, samples: int, seed: int, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        refuse_other_data(context, described(context, names_data=False), data_of(context, samples, seed), "--data d")


def test_what_is_needed_is_told_with_digests_where_they_are_known(context: StageContext) -> None:
    manifest = described(context, names_data=True)
    assert manifest.data is not None
    told = needs_data(manifest)
    assert manifest.data.inputs.digest in told
    assert manifest.data.annotations.digest in told
    assert "--data" in told
    old = needs_data(described(context, names_data=False))
    assert "400 validation samples" in old
    assert "sha256" not in old
