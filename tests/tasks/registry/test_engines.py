from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.objects.folder import LocalObjects
from tasks.registry.layout import blob_key, manifest_key
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.store.digests import digest_json
from tasks.store.local import LocalStore
from tests.hardship import numbers
from tests.tasks.damage import ObjectFile, flip_a_bit, remove, truncate
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.processes import kill_points, race
from tests.tasks.registry.keys import signing_as
from tests.tasks.tiny import cell, compare_scores, lay_out, make_outcome, manifest_of
from validation.policy import PerformanceRule, Policy, Rule
from validation.verdict import Outcome, Speedup, decide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.objects.interface import ObjectStore
    from tasks.records import EngineManifest


@pytest.fixture
def registry() -> Registry:
    return opened(MemoryObjects())


@pytest.fixture
def shared(tmp_path: Path) -> Registry:
    """One in a folder, which processes share."""
    return opened(LocalObjects(tmp_path / "registry"))


@pytest.fixture(scope="module")
def manifest(made: LocalStore) -> EngineManifest:
    return manifest_of(made, make_outcome(made))


@pytest.fixture(scope="module")
def folders(made: LocalStore, manifest: EngineManifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return lay_out(made, manifest, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """The artifact store of the engine that most tests publish."""
    return LocalStore(tmp_path_factory.mktemp("made"))


@pytest.fixture
def registered(registry: Registry, manifest: EngineManifest, folders: dict[str, Path]) -> Registry:
    """A registry that holds the engine."""
    assert registry.engines.publish(manifest, folders)
    return registry


def opened(objects: ObjectStore) -> Registry:
    return Registry(objects, Signing())


def visible(registry: Registry) -> list[str]:
    return [found.engine_id for found in registry.engines.list_cells()]


def blob(registry: Registry, digest: str) -> ObjectFile:
    return ObjectFile(registry.objects, blob_key(digest))


def manifest_file(registry: Registry) -> ObjectFile:
    (entry,) = registry.objects.list("engines/")
    return ObjectFile(registry.objects, entry.key)


def test_a_registered_engine_is_listed_read_back_and_verified(registered: Registry, manifest: EngineManifest) -> None:
    again = opened(registered.objects)
    assert [again.engines.read_manifest(found) for found in again.engines.list_cells()] == [manifest]
    assert again.engines.read_manifest(manifest.cell) == manifest
    assert again.engines.verify(manifest.cell) == []


def test_the_same_engine_twice_is_a_success(
    registered: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    before = manifest_file(registered).read_bytes()
    assert registered.engines.publish(manifest, folders) is False
    assert manifest_file(registered).read_bytes() == before


def test_the_same_engine_under_other_circumstances_is_the_same_engine(
    registered: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    faster = manifest.benchmark.model_copy(update={"speedup": {1: 9.0, 8: 9.0}})
    later = manifest.model_copy(
        update={"created_at": "2027", "mlflow_run": None, "benchmark": faster, "source_commit": "d" * 40}
    )
    assert registered.engines.publish(later, folders) is False
    assert registered.engines.read_manifest(manifest.cell) == manifest


def test_a_field_that_the_registered_manifest_lacks_is_other_content(
    registered: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    with pytest.raises(RefusedError, match=r"with other content \(half differ\)"):
        registered.engines.publish(manifest.model_copy(update={"half": manifest.onnx}), folders)


def test_the_same_id_with_other_content_is_refused_and_changes_nothing(
    registered: Registry, store: LocalStore, tmp_path: Path
) -> None:
    before = manifest_file(registered).read_bytes()
    other = manifest_of(store, make_outcome(store, plan=b"another plan"))
    with pytest.raises(RefusedError, match=r"tiny-cpu-fp32@0123456789ab is registered already .*plan differ") as caught:
        registered.engines.publish(other, lay_out(store, other, tmp_path / "other"))
    assert caught.value.exit_code == 5
    assert manifest_file(registered).read_bytes() == before
    assert not blob(registered, other.plan.files[0].digest).exists()


@pytest.mark.parametrize("noise", [0.3, 0.02])
def test_an_engine_that_did_not_pass_is_refused(
    registry: Registry, store: LocalStore, tmp_path: Path, noise: float
) -> None:
    failed = manifest_of(store, make_outcome(store, noise=noise))
    assert failed.verdict.outcome is not Outcome.PASS
    with pytest.raises(RefusedError, match=r"is not registered: verdict: is fail"):
        registry.engines.publish(failed, lay_out(store, failed, tmp_path / "files"))
    assert visible(registry) == []
    assert list(registry.objects.list("")) == []


def test_a_verdict_that_does_not_follow_from_the_evidence_is_refused(
    registry: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    forged = manifest.model_copy(update={"comparison": compare_scores(0.3)})
    with pytest.raises(RefusedError, match="does not follow from the stored comparison"):
        registry.engines.publish(forged, folders)
    assert visible(registry) == []


def test_a_manifest_under_another_engine_s_id_is_refused(
    registry: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    forged = manifest.model_copy(update={"engine_id": "tiny-cpu-int8@0123456789ab"})
    with pytest.raises(RefusedError, match="engine_id: tiny-cpu-int8@0123456789ab is not that of its cell"):
        registry.engines.publish(forged, folders)


def test_a_file_that_changed_on_its_way_is_refused(
    registry: Registry, manifest: EngineManifest, made: LocalStore, tmp_path: Path
) -> None:
    folders = lay_out(made, manifest, tmp_path / "files")
    plan = folders[manifest.plan.digest] / "engine.onnx"
    plan.unlink()
    plan.write_bytes(b"plaN")
    with pytest.raises(RefusedError, match=r"engine.onnx: should have digest sha256:.*, but has sha256:"):
        registry.engines.publish(manifest, folders)
    assert visible(registry) == []


def test_what_happens_to_the_store_does_not_reach_the_registry(
    registry: Registry, store: LocalStore, tmp_path: Path
) -> None:
    manifest = manifest_of(store, make_outcome(store))
    assert registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "files"))
    for path in (store.root / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"damage")
    assert registry.engines.verify(manifest.cell) == []


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize(
    ("role", "artifact_of"),
    [
        ("plan", lambda manifest: manifest.plan),
        ("onnx", lambda manifest: manifest.onnx),
        ("smoke inputs", lambda manifest: manifest.smoke.inputs),
    ],
)
def test_verify_names_every_damaged_file(
    registered: Registry,
    manifest: EngineManifest,
    damage: Callable[[ObjectFile], None],
    role: str,
    artifact_of: Callable[[EngineManifest], Artifact],
) -> None:
    file = artifact_of(manifest).files[-1]
    damage(blob(registered, file.digest))
    (fault,) = registered.engines.verify(manifest.cell)
    assert fault.startswith(f"{role}: {file.path}: ")
    assert ("is missing" if damage is remove else f"should have digest {file.digest}, but has sha256:") in fault


def test_verify_names_files_that_were_swapped(registered: Registry, manifest: EngineManifest) -> None:
    one, other = (blob(registered, file.digest) for file in manifest.plan.files)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    faults = registered.engines.verify(manifest.cell)
    assert [fault.split(": ")[:2] for fault in faults] == [["plan", "engine.onnx"], ["plan", "engine.onnx.data"]]


def test_a_damaged_engine_is_mended_when_the_same_one_is_published_again(
    registered: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    flip_a_bit(blob(registered, manifest.plan.files[0].digest))
    remove(blob(registered, manifest.onnx.files[0].digest))
    assert registered.engines.publish(manifest, folders) is False
    assert registered.engines.verify(manifest.cell) == []


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "verdict": lambda content: content["verdict"].update(outcome="inconclusive"),
    "plan": lambda content: content["plan"]["files"][0].update(digest="sha256:" + "0" * 64),
    "limit": lambda content: content["policy"]["rules"][0].update(max=0.5),
    "commit": lambda content: content.update(source_commit="0" * 40),
    "cell": lambda content: content["cell"].update(precision="int8"),
    "measurement": lambda content: content["comparison"]["measurements"][0].update(value=0.0),
    "NaN": lambda content: content["benchmark"]["engine"]["latencies"][0].update(p50_ms=float("nan")),
    "unknown key": lambda content: content.update(extra=1),
    "missing key": lambda content: content.pop("plan"),
    "path": lambda content: content["plan"]["files"][0].update(path="../../plan"),
    "schema": lambda content: content.update(schema_version=1),
}


def edit(registry: Registry, change: Callable[[dict[str, Any]], object], *, sealed: bool) -> None:
    """Change a manifest; `sealed` puts its digest right too, as one would who means harm."""
    path = manifest_file(registry)
    envelope = json.loads(path.read_bytes())
    content = json.loads(base64.b64decode(envelope["payload"]))
    change(content)
    payload = json.dumps(content).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    if sealed:
        envelope["digest"] = f"sha256:{hashlib.sha256(payload).hexdigest()}"
    path.write_bytes(json.dumps(envelope).encode())


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edited_manifest_is_refused_and_named(
    registered: Registry, manifest: EngineManifest, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(registered, change, sealed=False)
    (fault,) = registered.engines.verify(manifest.cell)
    assert fault.startswith("tiny-cpu-fp32@0123456789ab: its manifest ")
    with pytest.raises(RefusedError, match="its manifest"):
        registered.engines.read_manifest(manifest.cell)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["verdict"].update(outcome="fail"), "verdict: is fail, and only a pass"),
        (lambda content: content["policy"]["rules"][0].update(max=0.5), "verdict: does not follow"),
        (lambda content: content["comparison"].update(defects=["score: NaN"]), "verdict: does not follow"),
        (lambda content: content["comparison"].update(samples=0), "verdict: does not follow"),
        (lambda content: content["comparison"].update(confidence=0.9), "verdict: does not follow"),
        (lambda content: content.update(policy_digest="sha256:" + "0" * 64), "policy: is not the one of its digest"),
        (lambda content: content["plan"].update(files=[]), "plan: the list of files does not match"),
        (lambda content: content.update(engine_id="tiny-t4-fp32@0123456789ab"), "engine_id: tiny-t4-fp32@0123456789ab"),
    ],
)
def test_an_edited_manifest_with_its_digest_put_right_contradicts_itself(
    registered: Registry, manifest: EngineManifest, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(registered, change, sealed=True)
    assert [fault for fault in registered.engines.verify(manifest.cell) if words in fault]


def test_a_manifest_moved_to_another_engine_s_place_is_refused(registered: Registry, manifest: EngineManifest) -> None:
    manifest_file(registered).rename(ObjectFile(registered.objects, manifest_key(cell("int8"))))
    (fault,) = registered.engines.verify(cell("int8"))
    assert fault.startswith("tiny-cpu-int8@0123456789ab: its manifest is that of tiny-cpu-fp32@0123456789ab")
    with pytest.raises(InputError, match="is not registered"):
        registered.engines.verify(manifest.cell)


def test_a_failing_verdict_edited_to_pass_is_found_out(
    registered: Registry, manifest: EngineManifest, store: LocalStore
) -> None:
    failed = manifest_of(store, make_outcome(store, noise=0.3)).model_dump(mode="json")
    failed["verdict"]["outcome"] = "pass"
    for rule in failed["verdict"]["rules"]:
        rule["outcome"] = "pass"
    failed["verdict"]["defects"] = []
    manifest_file(registered).write_bytes(Signing().seal("manifest", failed))
    assert registered.engines.verify(manifest.cell) == [
        "verdict: does not follow from the stored comparison under the stored policy"
    ]


FASTER = Policy(
    rules=(Rule(output="score", metric="mae", max=0.01),),
    performance=(PerformanceRule(metric="speedup_vs_reference", min=1.0, precision="fp32"),),
)
SPEEDUPS = {"speedup_vs_reference": Speedup(value=1.5, low=1.4, high=1.6)}


def judged_by_speed(store: LocalStore, **told: Any) -> EngineManifest:
    """The manifest of an engine whose policy has a rule of performance, with the verdict of what it was told."""
    outcome = make_outcome(store, policy=FASTER)
    assert outcome.compared
    verdict = decide(FASTER, outcome.compared.comparison, precision="fp32", **told)
    return manifest_of(store, outcome, verdict=verdict)


def judge_by_another_limit(content: dict[str, Any]) -> None:
    """Change the policy, and put its digest right."""
    content["policy"]["performance"][0].update(min=1.45)
    content["policy_digest"] = digest_json(content["policy"])


def test_a_verdict_with_speed_ups_and_other_engines_p_values_is_decided_again_with_them(
    registry: Registry, store: LocalStore, tmp_path: Path
) -> None:
    manifest = judged_by_speed(store, speedups=SPEEDUPS, other_pvalues=(0.5, 0.01))
    assert registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "files"))
    assert registry.engines.verify(manifest.cell) == []


def test_an_engine_that_was_not_judged_by_the_speed_its_policy_asks_for_is_refused(
    registry: Registry, store: LocalStore, tmp_path: Path
) -> None:
    manifest = judged_by_speed(store)
    assert manifest.verdict.outcome is Outcome.PASS
    with pytest.raises(RefusedError, match="verdict: was given without the speed-ups that its policy asks for"):
        registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "files"))
    assert visible(registry) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["verdict"]["speedups"]["speedup_vs_reference"].update(low=0.9),
        lambda content: content["verdict"].update(performance=[]),
        lambda content: content["verdict"]["performance"][0].update(value=9.0),
        lambda content: content["verdict"].update(speedups={}),
        judge_by_another_limit,
    ],
)
def test_a_verdict_on_speed_that_was_tampered_with_is_found_out(
    registry: Registry,
    store: LocalStore,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
) -> None:
    manifest = judged_by_speed(store, speedups=SPEEDUPS)
    assert registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "files"))
    edit(registry, change, sealed=True)
    assert registry.engines.verify(manifest.cell) == [
        "verdict: does not follow from the stored comparison under the stored policy"
    ]


@pytest.mark.parametrize("change", [{"value": 1.6}, {"high": 1.7}, {"low": 1.45}])
def test_a_speed_up_that_the_benchmark_did_not_measure_is_found_out(
    registry: Registry, store: LocalStore, tmp_path: Path, change: dict[str, float]
) -> None:
    told = dataclasses.replace(SPEEDUPS["speedup_vs_reference"], **change)
    manifest = judged_by_speed(store, speedups={"speedup_vs_reference": told})
    with pytest.raises(RefusedError, match="verdict: was given another speed-up than the stored benchmark measured"):
        registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "files"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"payload": 1}', b"\xff", b'{"digest": {}}'])
def test_a_damaged_manifest_is_refused(registered: Registry, manifest: EngineManifest, content: bytes) -> None:
    manifest_file(registered).write_bytes(content)
    (fault,) = registered.engines.verify(manifest.cell)
    assert "its manifest is damaged" in fault


def test_a_manifest_of_another_release_is_refused_with_the_remedy(
    registered: Registry, manifest: EngineManifest
) -> None:
    edit(registered, lambda content: content.update(schema_version=3), sealed=True)
    (fault,) = registered.engines.verify(manifest.cell)
    assert "of another release of enginegate, or damaged; convert the model again" in fault


def test_removing_a_damaged_manifest_and_publishing_again_is_the_remedy(
    registered: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    manifest_file(registered).write_bytes(b"{")
    with pytest.raises(RefusedError):
        registered.engines.publish(manifest, folders)
    manifest_file(registered).unlink()
    assert registered.engines.publish(manifest, folders)
    assert registered.engines.verify(manifest.cell) == []


def test_an_unknown_engine_is_an_input_error(registry: Registry) -> None:
    for ask in (registry.engines.verify, registry.engines.read_manifest):
        with pytest.raises(InputError, match=r"tiny-cpu-fp32@0123456789ab is not registered; `enginegate engines`"):
            ask(cell())


def test_engines_are_listed_by_id(registry: Registry, store: LocalStore, tmp_path: Path) -> None:
    cells = [cell("int8"), cell("fp16", target="a100-mig-1g.5gb"), cell("fp32", version="f" * 12)]
    for number, one in enumerate(cells):
        outcome = make_outcome(store).model_copy(update={"cell": one})
        found = manifest_of(store, outcome)
        registry.engines.publish(found, lay_out(store, found, tmp_path / str(number)))
    assert visible(registry) == sorted(one.engine_id for one in cells)


def test_of_many_publishers_of_one_engine_exactly_one_registers_it(
    shared: Registry, manifest: EngineManifest, folders: dict[str, Path]
) -> None:
    found = race([lambda: opened(shared.objects).engines.publish(manifest, folders)] * 5)
    assert sorted(found) == ["False"] * 4 + ["True"]
    assert shared.engines.verify(manifest.cell) == []
    assert list((shared.objects.root / ".scratch").glob("*")) == []


def test_of_many_publishers_of_different_engines_under_one_id_one_wins_and_the_others_are_told(
    shared: Registry, store: LocalStore, tmp_path: Path
) -> None:
    manifests = [manifest_of(store, make_outcome(store, plan=b"plan %d" % n)) for n in range(5)]
    folders = [lay_out(store, manifest, tmp_path / str(n)) for n, manifest in enumerate(manifests)]
    works = [
        functools.partial(opened(shared.objects).engines.publish, *each)
        for each in zip(manifests, folders, strict=True)
    ]
    found = race(works)
    assert sorted(found) == ["RefusedError"] * 4 + ["True"]
    assert shared.engines.read_manifest(cell()) == manifests[found.index("True")]
    assert shared.engines.verify(cell()) == []


@pytest.mark.hardship
def test_killed_at_any_change_a_publisher_leaves_the_whole_engine_or_none(
    manifest: EngineManifest, folders: dict[str, Path], tmp_path: Path
) -> None:
    seen = {True: 0, False: 0}
    for root in kill_points(
        lambda root: opened(LocalObjects(root)).engines.publish(manifest, folders), tmp_path / "killed"
    ):
        registry = opened(LocalObjects(root))
        assert list((root / ".scratch").glob("*")) == []
        there = visible(registry) == [manifest.engine_id]
        if there:
            assert registry.engines.verify(manifest.cell) == []
        assert registry.engines.publish(manifest, folders) is not there
        assert registry.engines.verify(manifest.cell) == []
        seen[there] += 1
    assert min(seen.values()) > 0
    assert sum(seen.values()) > 100 // numbers().stride


def test_a_blob_that_is_larger_than_the_manifest_says_is_not_taken_in(
    registered: Registry, manifest: EngineManifest, tmp_path: Path
) -> None:
    file = manifest.plan.files[0]
    blob(registered, file.digest).write_bytes(b"plan" * 999)
    with pytest.raises(RefusedError, match=r"should have 4 bytes, but has 3,996"):
        registered.engines.fetch(manifest.plan, tmp_path / "host", lambda _done, _total: None)
    assert not list((tmp_path / "host").iterdir())
    (fault,) = registered.engines.verify(manifest.cell)
    assert "should have 4 bytes, but has 3,996" in fault


def test_nothing_is_written_that_nobody_here_could_read_again(
    manifest: EngineManifest, folders: dict[str, Path], tmp_path: Path
) -> None:
    signing_as(tmp_path)
    registry = Registry(MemoryObjects(), Signing.from_files(None, tmp_path / "ann.pem"))
    with pytest.raises(RefusedError, match="the manifest that this host writes is signed by nobody"):
        registry.engines.publish(manifest, folders)
    assert list(registry.objects.list("")) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["plan"]["files"][0].update(path="a\0b"),
        lambda content: content["plan"]["files"][0].update(path="a/../b"),
        lambda content: content["plan"]["files"][0].update(path="engine.onnx.data/x"),
        lambda content: content["plan"]["files"][0].update(path="engine.onnx.data"),
        lambda content: content["benchmark"].update(headline_batch=999),
    ],
)
def test_a_manifest_that_no_host_could_use_is_refused(
    registered: Registry, manifest: EngineManifest, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(registered, change, sealed=True)
    with pytest.raises(RefusedError, match="its manifest is of another release of enginegate, or damaged"):
        registered.engines.read_manifest(manifest.cell)
