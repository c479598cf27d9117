from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

import pytest

from tasks.errors import RefusedError, StageError
from tasks.fresh_records import FreshAgreement, FreshArtifact
from tasks.objects.folder import LocalObjects
from tasks.rebuild_records import Discard, MiscompiledBuild
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.release.publish import describe_engine, publish_engine
from tasks.store.digests import digest_json
from tests.hardship import numbers
from tests.tasks.processes import kill_points
from tests.tasks.tiny import (
    make_features,
    make_outcome,
    manifest_of,
    put_reference,
    put_shards,
    put_validation,
    score,
    tiny_spec,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import EngineManifest, EngineOutcome


def describe(context: StageContext, outcome: EngineOutcome, commit: str | None = "c" * 40) -> EngineManifest:
    data, reference = put_validation(context.store), put_reference(context.store)
    return describe_engine(
        context, tiny_spec(), outcome, data, reference, source_commit=commit, mlflow_run="run", who="ann"
    )


def publish(context: StageContext, registry: Registry, outcome: EngineOutcome, commit: str | None = "c" * 40) -> bool:
    return publish_engine(context, registry, describe(context, outcome, commit))


def opened(root: Path) -> Registry:
    return Registry(LocalObjects(root), Signing())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return opened(tmp_path / "registry")


def test_a_passing_engine_is_registered_byte_for_byte_as_it_was_measured(
    context: StageContext, registry: Registry
) -> None:
    outcome = make_outcome(context.store)
    assert publish(context, registry, outcome)
    (found,) = (registry.engines.read_manifest(cell) for cell in registry.engines.list_cells())
    expected = manifest_of(context.store, outcome, created_at=found.created_at, data=put_validation(context.store))
    assert found == expected
    assert registry.engines.verify(outcome.cell) == []
    assert publish(context, registry, outcome, commit=None) is False


def test_smoke_samples_come_from_inputs_that_are_in_no_file_too(context: StageContext) -> None:
    outcome, store = make_outcome(context.store), context.store
    assert outcome.compared
    inputs, scores = (
        put_shards(store, [{name: array}])
        for name, array in {"features": make_features(4, seed=9), "score": score(make_features(4, seed=9))}.items()
    )
    fresh = FreshArtifact(inputs=inputs, outputs=scores, draws=("mixed",), samples=4, refused=(), difference=0.0)
    reference = put_reference(store).model_copy(update={"fresh": fresh})
    tried = {"fresh": FreshAgreement(outputs=scores, figures=())}
    found = describe_engine(
        context,
        tiny_spec(),
        outcome.model_copy(update={"compared": outcome.compared.model_copy(update=tried)}),
        put_validation(store),
        reference,
        source_commit=None,
        mlflow_run=None,
        who=None,
    ).smoke
    assert found.samples == 8
    assert [len(part.files) for part in (found.inputs, found.reference, found.candidate)] == [2, 2, 2]
    assert found.inputs.files[1].digest == inputs.files[0].digest


def test_an_engine_that_an_older_release_registered_without_naming_its_data_is_the_same(
    context: StageContext, registry: Registry
) -> None:
    outcome = make_outcome(context.store)
    publish_engine(context, registry, manifest_of(context.store, outcome))
    assert publish(context, registry, outcome) is False
    assert registry.engines.read_manifest(outcome.cell).data is None


def test_an_engine_that_failed_is_refused(context: StageContext, registry: Registry) -> None:
    with pytest.raises(RefusedError, match="verdict: is fail"):
        publish(context, registry, make_outcome(context.store, noise=0.3))
    assert registry.engines.list_cells() == []


@pytest.mark.parametrize("lacking", ["typed", "engine", "compared", "verdict", "policy", "benchmark"])
def test_an_engine_that_was_not_wholly_measured_is_refused(
    context: StageContext, registry: Registry, lacking: str
) -> None:
    outcome = make_outcome(context.store).model_copy(update={lacking: None, "reason": "the builder crashed"})
    with pytest.raises(RefusedError, match=r"not everything was measured \(the builder crashed\)"):
        publish(context, registry, outcome)
    assert registry.engines.list_cells() == []


def test_a_plan_that_was_damaged_after_it_was_compared_is_refused(
    context: StageContext, registry: Registry, tmp_path: Path
) -> None:
    outcome = make_outcome(context.store)
    assert outcome.engine
    digest = outcome.engine.plan.files[0].digest
    blob = tmp_path / "store" / "blobs" / "sha256" / digest[7:9] / digest[9:]
    blob.chmod(0o644)
    blob.write_bytes(b"plaN")
    with pytest.raises(RefusedError, match=r"artifact store: engine.onnx .* has digest"):
        publish(context, registry, outcome)
    assert registry.engines.list_cells() == []


def test_a_plan_that_was_not_the_one_compared_is_refused(context: StageContext, registry: Registry) -> None:
    outcome = make_outcome(context.store)
    assert outcome.compared
    other = outcome.compared.model_copy(update={"plan": digest_json("another plan")})
    with pytest.raises(RefusedError, match=r"was compared, and sha256:.* would be registered"):
        publish(context, registry, outcome.model_copy(update={"compared": other}))
    assert registry.engines.list_cells() == []


@pytest.mark.hardship
def test_killed_on_the_way_nothing_is_visible_and_the_next_run_registers_it(
    context: StageContext, tmp_path: Path
) -> None:
    outcome = make_outcome(context.store)
    killed = 0
    stride = 3 * numbers().stride  # what a registry does, killed anywhere, is tested in its room
    for root in kill_points(lambda root: publish(context, opened(root), outcome), tmp_path / "killed", stride=stride):
        registry = opened(root)
        assert [registry.engines.verify(found) for found in registry.engines.list_cells()] in ([], [[]])
        publish(context, registry, outcome)
        assert registry.engines.verify(outcome.cell) == []
        killed += 1
    assert killed > 5


def test_a_full_disk_beside_the_artifact_store_is_told_as_that_and_not_as_the_registry_s(
    context: StageContext, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = describe(context, make_outcome(context.store))

    def be_full(*_arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tasks.store.blobs.link_or_copy", be_full)
    with pytest.raises(StageError, match=r"^\S+/scratch/\w+: cannot be written: No space left on device; make room"):
        publish_engine(context, registry, manifest)


def test_what_an_engine_s_policy_was_is_told_and_no_reason_to_refuse_it_where_an_older_release_did_not_tell(
    context: StageContext, registry: Registry
) -> None:
    manifest = describe(context, make_outcome(context.store))
    assert (manifest.policy_origin, manifest.policy_floor) == ("default", None)
    content = manifest.model_dump(mode="json", exclude={"policy_origin", "policy_floor"})
    before = type(manifest).model_validate(content)
    assert before.policy_origin is None
    assert publish_engine(context, registry, before)
    assert not publish_engine(context, registry, manifest)


def test_an_engine_s_own_policy_and_the_floor_that_it_was_under_stand_in_its_manifest(context: StageContext) -> None:
    outcome, floor = make_outcome(context.store), "sha256:" + "f" * 64
    spec = tiny_spec(validation={"data": "validation.npz", "policy": "policy.yaml"})
    data, reference = put_validation(context.store), put_reference(context.store)
    found = describe_engine(
        context, spec, outcome, data, reference, source_commit=None, mlflow_run=None, who=None, policy_floor=floor
    )
    assert (found.policy_origin, found.policy_floor) == ("own", floor)


def test_a_manifest_counts_the_builds_that_were_miscompiled_and_says_why_its_engine_was_made_again(
    context: StageContext, registry: Registry
) -> None:
    outcome = make_outcome(context.store)
    plain = describe(context, outcome).model_dump(mode="json")
    assert not {"miscompiled", "again"} & plain.keys(), "others read as they did"
    assert outcome.engine
    again = Discard(reason="the driver changed", who="ann", when="2026-12-01T00:00:00+00:00")
    build = MiscompiledBuild(plan=outcome.engine.plan.digest, witness="onnxruntime 1", sentence="mae is 0.33")
    engine = outcome.engine.model_copy(update={"again": again})
    remade = outcome.model_copy(update={"engine": engine, "miscompiled": (build, build)})
    manifest = describe(context, remade)
    assert (manifest.miscompiled, manifest.again) == (2, again)
    assert publish(context, registry, outcome)
    assert not publish(context, registry, remade), "the same bytes: what was registered first stands"


def test_an_engine_that_was_made_again_takes_no_registered_engine_s_place(
    context: StageContext, registry: Registry
) -> None:
    first, other = make_outcome(context.store), make_outcome(context.store, plan=b"built again")
    publish(context, registry, first)
    with pytest.raises(RefusedError, match=r"registered already with other content \(plan differ\)"):
        publish(context, registry, other)
    assert registry.engines.read_manifest(first.cell).plan == (first.engine and first.engine.plan)
