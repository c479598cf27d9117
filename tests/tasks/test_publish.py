from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.digests import digest_json
from tasks.errors import RefusedError
from tasks.publish import publish_engine
from tasks.registry.local import LocalRegistry
from tests.tasks.processes import kill_points
from tests.tasks.tiny import make_outcome, manifest_of, put_reference, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineOutcome
    from tasks.workbench import Workbench


def publish(bench: Workbench, registry: LocalRegistry, outcome: EngineOutcome, commit: str | None = "c" * 40) -> bool:
    reference = put_reference(bench.store)
    return publish_engine(bench, registry, tiny_spec(), outcome, reference, source_commit=commit, mlflow_run="run")


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def test_a_passing_engine_is_registered_byte_for_byte_as_it_was_measured(
    bench: Workbench, registry: LocalRegistry
) -> None:
    outcome = make_outcome(bench.store)
    assert publish(bench, registry, outcome)
    (found,) = (registry.read_manifest(cell) for cell in registry.list_cells())
    expected = manifest_of(outcome, put_reference(bench.store), created_at=found.created_at)
    assert found == expected
    assert registry.verify(outcome.cell) == []
    assert publish(bench, registry, outcome, commit=None) is False


def test_an_engine_that_failed_is_refused(bench: Workbench, registry: LocalRegistry) -> None:
    with pytest.raises(RefusedError, match="verdict: is fail"):
        publish(bench, registry, make_outcome(bench.store, noise=0.3))
    assert registry.list_cells() == []


@pytest.mark.parametrize("lacking", ["typed", "engine", "compared", "verdict", "policy", "benchmark"])
def test_an_engine_that_was_not_wholly_measured_is_refused(
    bench: Workbench, registry: LocalRegistry, lacking: str
) -> None:
    outcome = make_outcome(bench.store).model_copy(update={lacking: None, "reason": "the builder crashed"})
    with pytest.raises(RefusedError, match=r"not everything was measured \(the builder crashed\)"):
        publish(bench, registry, outcome)
    assert registry.list_cells() == []


def test_a_plan_that_was_damaged_after_it_was_compared_is_refused(
    bench: Workbench, registry: LocalRegistry, tmp_path: Path
) -> None:
    outcome = make_outcome(bench.store)
    assert outcome.engine
    digest = outcome.engine.plan.files[0].digest
    blob = tmp_path / "store" / "blobs" / "sha256" / digest[7:9] / digest[9:]
    blob.chmod(0o644)
    blob.write_bytes(b"plaN")
    with pytest.raises(RefusedError, match=r"artifact store: engine.onnx .* has digest"):
        publish(bench, registry, outcome)
    assert registry.list_cells() == []


def test_a_plan_that_was_not_the_one_compared_is_refused(bench: Workbench, registry: LocalRegistry) -> None:
    outcome = make_outcome(bench.store)
    assert outcome.compared
    other = outcome.compared.model_copy(update={"plan": digest_json("another plan")})
    with pytest.raises(RefusedError, match=r"was compared, and sha256:.* would be registered"):
        publish(bench, registry, outcome.model_copy(update={"compared": other}))
    assert registry.list_cells() == []


def test_killed_on_the_way_nothing_is_visible_and_the_next_run_registers_it(bench: Workbench, tmp_path: Path) -> None:
    outcome = make_outcome(bench.store)
    killed = 0
    for root in kill_points(lambda root: publish(bench, LocalRegistry(root), outcome), tmp_path / "killed", stride=60):
        registry = LocalRegistry(root)
        assert [registry.verify(found) for found in registry.list_cells()] in ([], [[]])
        publish(bench, registry, outcome)
        assert registry.verify(outcome.cell) == []
        killed += 1
    assert killed > 5
