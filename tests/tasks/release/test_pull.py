from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import pytest
from securesystemslib.signer import CryptoSigner

from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.objects.folder import LocalObjects
from tasks.records import BackendIdentity, Override
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.signing import Signing
from tasks.release.promote import propose_promotion, require_permission
from tasks.release.pull import Milestone
from tasks.release.serving_folder import Accepted, ServingFolder
from tests.hardship import numbers
from tests.tasks.conftest import place_at
from tests.tasks.damage import ObjectFile, flip_a_bit, remove, truncate
from tests.tasks.processes import kill_points, race
from tests.tasks.registry.keys import trust
from tests.tasks.serving_host import (
    FIRST,
    PRODUCTION,
    SECOND,
    SQUARED,
    THIRD,
    Shop,
    names_in,
    version_before,
    version_in,
    version_served,
)
from tests.tasks.tiny import cell, make_features, make_outcome, manifest_of, put_shards, score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.release.pull import Offer

CHECK_S = 60.0


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A registry in memory, with nothing in it. Processes that are forked read it as it was then."""
    return Shop(tmp_path)


@pytest.fixture
def served(shop: Shop) -> Shop:
    """The same with one engine, which the host serves, and another that was promoted since."""
    shop.offer(FIRST)
    shop.pull()
    shop.offer(SECOND)
    return shop


@pytest.fixture
def _nothing_may_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine may be loaded, here or in a child."""

    def explode(*_arguments: object) -> NoReturn:
        raise AssertionError("an engine was loaded")

    monkeypatch.setattr("tasks.release.pull.run_smoke", explode)
    monkeypatch.setattr("tasks.backends.ort.OnnxRuntimeBackend.load", explode)


def root_of(shop: Shop) -> Path:
    return shop.folder.root


# The happy path


@pytest.mark.parametrize("kind", ["local", "moto"])
def test_the_engine_of_the_channel_is_put_in_place_and_the_next_one_keeps_it_as_previous(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, place_at(kind, request, tmp_path).open())
    first = shop.offer(FIRST)
    steps: list[tuple[int, int]] = []
    pulled = shop.pull(on_progress=lambda done, total: steps.append((done, total)))
    assert (pulled.moved, pulled.fetched, pulled.mended, pulled.removed, pulled.report) == (True, True, (), (), None)
    assert pulled.path.name == f"{first.engine_id}-{pulled.offer.signed.digest[7:19]}"
    assert version_served(root_of(shop)) == FIRST
    size = sum(
        part.size_bytes for part in (first.plan, first.smoke.inputs, first.smoke.reference, first.smoke.candidate)
    )
    assert steps[-1] == (size, size)
    assert steps == sorted(steps)
    assert names_in(root_of(shop)) == ["current", "state.json", pulled.path.name]
    shop.offer(SECOND)
    shop.pull()
    assert (version_served(root_of(shop)), version_before(root_of(shop))) == (SECOND, FIRST)


def test_folders_that_are_neither_current_nor_previous_go_and_nothing_else_does(served: Shop) -> None:
    kept = root_of(served) / f"notes-{'a' * 12}"
    kept.mkdir()
    served.pull()
    served.offer(THIRD)
    pulled = served.pull()
    assert [name[: len("tiny-cpu-fp32@1")] for name in pulled.removed] == ["tiny-cpu-fp32@1"]
    assert (version_served(root_of(served)), version_before(root_of(served))) == (THIRD, SECOND)
    assert len(names_in(root_of(served))) == 6
    assert kept.is_dir()


def test_a_rolled_back_channel_takes_the_host_back(served: Shop) -> None:
    served.pull()
    served.promote(cell(version=FIRST), kind="rollback")
    pulled = served.pull()
    assert (pulled.moved, pulled.fetched) == (True, False)
    assert (version_served(root_of(served)), version_before(root_of(served))) == (FIRST, SECOND)


def test_the_envelope_lies_beside_the_engine_as_it_was_signed(tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ed25519()
    shop = Shop(tmp_path, signing=Signing(signer, trusted=trust(signer)))
    shop.offer()
    pulled = shop.pull()
    content = (pulled.path / "manifest.json").read_bytes()
    opened = Signing(trusted=trust(signer)).open("manifest", content, "it")
    assert opened.signature.verified == (signer.public_key.keyid,)
    assert pulled.offer.move.signature.verified == (signer.public_key.keyid,)


# Again


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file and link that people see."""
    paths = [path for path in root.rglob("*") if not path.relative_to(root).parts[0].startswith(".")]
    return {str(path.relative_to(root)): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths}


def test_a_second_pull_of_the_same_engine_changes_nothing(shop: Shop) -> None:
    shop.offer()
    shop.pull()
    before = tree(root_of(shop))
    pulled = shop.pull()
    assert (pulled.moved, pulled.fetched, pulled.mended, pulled.removed) == (False, False, (), ())
    assert tree(root_of(shop)) == before


def make_a_folder_of(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"")


def link_elsewhere(path: Path) -> None:
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove, make_a_folder_of, link_elsewhere])
@pytest.mark.parametrize("file", ["plan/engine.onnx", "smoke/inputs/00000.npz", "manifest.json"])
def test_damage_on_the_host_is_mended_and_told(shop: Shop, damage: Callable[[Path], None], file: str) -> None:
    shop.offer()
    path = shop.pull().path
    damage(path / file)
    pulled = shop.pull()
    assert file in pulled.mended
    assert (pulled.moved, pulled.fetched) == (False, False)
    assert version_served(root_of(shop)) == FIRST


def test_what_does_not_belong_to_an_engine_is_removed_from_it(shop: Shop) -> None:
    shop.offer()
    path = shop.pull().path
    (path / "plan" / "engine.onnx.so").write_bytes(b"code")
    (path / "plan" / "more" / "deep").mkdir(parents=True)
    (path / "link").symlink_to(shop.root)
    assert shop.pull().mended == ("link", "plan/engine.onnx.so", "plan/more")
    assert version_served(root_of(shop)) == FIRST
    assert shop.root.is_dir()


def test_a_folder_of_the_engine_that_is_a_link_or_a_file_is_replaced(served: Shop, tmp_path: Path) -> None:
    path = served.pull().path
    served.promote(cell(version=FIRST))
    served.pull()
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    served.promote(cell(version=SECOND))
    assert served.pull().fetched
    assert not path.is_symlink()
    assert version_served(root_of(served)) == SECOND


# Refused before a byte is deserialised


def swap_blob(shop: Shop) -> None:
    """The bytes of another engine's plan under this one's name."""
    first, second = (shop.registry.engines.read_manifest(cell(version=version)) for version in (FIRST, SECOND))
    content = shop.blob(first.plan.files[0].digest).read_bytes()
    shop.blob(second.plan.files[0].digest).write_bytes(content)


def swap_plan_in_manifest(shop: Shop) -> None:
    """A manifest that names another engine's plan, its own digest put right."""
    first, second = (shop.registry.engines.read_manifest(cell(version=version)) for version in (FIRST, SECOND))
    forged = second.model_copy(update={"plan": first.plan})
    shop.manifest_file(SECOND).write_bytes(shop.registry.signing.seal("manifest", forged.model_dump(mode="json")))


def plan_of(shop: Shop) -> ObjectFile:
    return shop.blob(shop.registry.engines.read_manifest(cell(version=SECOND)).plan.files[0].digest)


def smoke_of(shop: Shop) -> ObjectFile:
    return shop.blob(shop.registry.engines.read_manifest(cell(version=SECOND)).smoke.inputs.files[0].digest)


def publish_failing(shop: Shop, **changes: object) -> None:
    """Promote an engine whose verdict is no pass, in a registry that nobody kept that out of."""
    manifest = manifest_of(
        shop.store, make_outcome(shop.store, engine=cell(version=THIRD), noise=0.3, plan=b"bad"), **changes
    )
    shop.registry.objects.create(
        manifest_key(manifest.cell), shop.registry.signing.seal("manifest", manifest.model_dump(mode="json"))
    )
    shop.promote(manifest.cell)


def promote_to_no_engine(shop: Shop) -> None:
    """Written by one who means harm: our own software does not write what it would not read."""
    signed = shop.registry.channels.read(PRODUCTION).moves[-1]
    forged = signed.move.model_dump(mode="json") | {"engine_id": "../../tiny", "number": 3}
    content = json.loads(shop.channel_file.read_bytes())
    content["moves"].append(json.loads(shop.registry.signing.seal("move", forged | {"previous": signed.digest})))
    shop.channel_file.write_bytes(json.dumps(content).encode())


OVERRIDE = Override(reason="a demo", who="bob", when="2026-11-20T12:00:00+00:00")
DAMAGES: dict[str, tuple[Callable[[Shop], object], str]] = {
    "a bit of the plan": (lambda shop: flip_a_bit(plan_of(shop)), "damaged or swapped"),
    "a plan cut short": (lambda shop: truncate(plan_of(shop)), "damaged or swapped"),
    "no plan": (lambda shop: remove(plan_of(shop)), "is missing"),
    "a bit of the smoke inputs": (lambda shop: flip_a_bit(smoke_of(shop)), "damaged or swapped"),
    "another engine's plan": (swap_blob, "damaged or swapped"),
    "another engine's plan in the manifest": (swap_plan_in_manifest, "the channel names sha256:"),
    "a bit of the manifest": (lambda shop: flip_a_bit(shop.manifest_file(SECOND)), "its manifest"),
    "no manifest": (lambda shop: remove(shop.manifest_file(SECOND)), "is not registered"),
    "a bit of the channel": (lambda shop: flip_a_bit(shop.channel_file), "channel production of tiny for cpu"),
    "half a channel": (lambda shop: shop.channel_file.write_bytes(b'{"moves": ['), "is damaged"),
    "a failing engine": (publish_failing, "verdict: is fail, and only a pass may be registered"),
    "an engine by override that was moved without": (
        lambda shop: publish_failing(shop, override=OVERRIDE),
        "its verdict is fail, and the move has no override",
    ),
    "another target's engine": (lambda shop: shop.promote(shop.publish(THIRD, target="t4").cell), "model tiny for t4"),
    "another digest": (
        lambda shop: shop.promote(cell(version=SECOND), manifest="sha256:" + "0" * 64),
        "the channel names sha256:0000",
    ),
    "no engine id": (promote_to_no_engine, "is damaged; restore it from the bucket's versions"),
    "another runtime's engine": (
        lambda shop: shop.offer(THIRD, backend=BackendIdentity(name="openvino", version="1", device="cpu")),
        "built for openvino 1; this host has onnxruntime .*: load it with openvino",
    ),
}


@pytest.mark.usefixtures("_nothing_may_load")
@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_wrong_is_refused_and_named_and_the_last_good_engine_stays(
    served: Shop, damage: Callable[[Shop], object], words: str
) -> None:
    damage(served)
    before = tree(root_of(served))
    with pytest.raises(RefusedError, match=words) as caught:
        served.pull(check_limit_s=CHECK_S)
    assert caught.value.exit_code == 5
    assert tree(root_of(served)) == before
    assert version_served(root_of(served)) == FIRST


@pytest.mark.usefixtures("_nothing_may_load")
@pytest.mark.parametrize("forged", ["manifest", "move"])
def test_what_another_key_signed_is_refused(tmp_path: Path, forged: str) -> None:
    ours, theirs = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()
    trusted = Signing(trusted=trust(ours))
    shop = Shop(tmp_path, signing=Signing(ours), trusting=trusted)
    shop.offer(FIRST)
    shop.pull()
    other = Shop(tmp_path, shop.objects, signing=Signing(theirs), trusting=trusted)
    (other if forged == "manifest" else shop).publish(SECOND)
    (other if forged == "move" else shop).promote(cell(version=SECOND))
    with pytest.raises(RefusedError, match="is signed by keys that are not trusted"):
        shop.pull(check_limit_s=CHECK_S)
    assert version_served(root_of(shop)) == FIRST


def test_a_refused_first_pull_writes_nothing_at_all(shop: Shop) -> None:
    shop.offer()
    flip_a_bit(shop.manifest_file(FIRST))
    with pytest.raises(RefusedError):
        shop.pull()
    assert not root_of(shop).exists()


def test_an_engine_by_override_of_both_manifest_and_move_is_served(shop: Shop) -> None:
    manifest = shop.publish(noise=0.3, override=OVERRIDE)
    shop.promote(manifest.cell, override="a demo")
    shop.pull()
    assert version_served(root_of(shop)) == FIRST


T4 = BackendIdentity(name="tensorrt", version="10.13", device="Tesla T4", compute_capability="7.5", cuda="12.9")
H200 = BackendIdentity(name="tensorrt", version="10.13", device="NVIDIA H200", compute_capability="9.0", cuda="12.9")


class Elsewhere:
    """A backend on another GPU."""

    def identity(self) -> BackendIdentity:
        return H200


def test_an_engine_for_another_gpu_is_refused_before_anything_is_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.release.pull.backend_of", lambda _runtime: Elsewhere())
    address = ChannelAddress("tiny", "t4", ChannelName.PRODUCTION)
    shop.promote(shop.publish(target="t4", backend=T4).cell, address=address)
    with pytest.raises(RefusedError, match=r"tiny-t4-fp32@1+: built for Tesla T4 .*build target h200 instead"):
        shop.pull(address=address)
    assert not root_of(shop).exists()


def advice(shop: Shop, channel: str) -> str:
    """What a pull of a channel that points nowhere tells people to do."""
    with pytest.raises(InputError, match="points at no engine yet; ") as caught:
        shop.pull(address=ChannelAddress("tiny", "cpu", ChannelName(channel)))
    assert not root_of(shop).exists()
    return str(caught.value).partition("yet; ")[2]


def test_a_channel_that_points_nowhere_is_told_with_the_step_that_no_rule_forbids(shop: Shop) -> None:
    assert advice(shop, "production").startswith("no engine of tiny for cpu is registered: convert the model first")
    shop.publish(FIRST, target="t4")
    assert advice(shop, "canary").startswith("no engine of tiny for cpu is registered")
    shop.publish()
    steps = [name.value for name in ChannelName]
    for channel in ("production", "canary", "staging"):
        step = re.search(r"enginegate promote tiny --target cpu --to (\w+)`", advice(shop, channel))
        assert step is not None
        assert step[1] == "staging"
    while step[1] != "production":
        address = ChannelAddress("tiny", "cpu", ChannelName(step[1]))
        proposal = propose_promotion(shop.registry, shop.rejected, address, None)
        require_permission(proposal, None)
        shop.promote(proposal.proposed.manifest.cell, address=address)
        step = re.search(r"--to (\w+)`", advice(shop, "production"))
        assert step is not None
        assert steps.index(step[1]) == steps.index(address.channel.value) + 1


# History


def test_a_rewound_channel_is_refused_until_its_state_is_removed(served: Shop) -> None:
    old = served.channel_file.read_bytes()
    served.promote(cell(version=FIRST))
    served.pull()
    served.channel_file.write_bytes(old)
    with pytest.raises(RefusedError, match=r"rewound: move 3, which .*\(2 moves\).* remove state.json"):
        served.pull()
    assert version_served(root_of(served)) == FIRST
    (root_of(served) / "state.json").unlink()
    served.pull()
    assert version_served(root_of(served)) == SECOND


def test_a_history_of_the_same_length_with_another_move_is_refused(served: Shop) -> None:
    old = served.channel_file.read_bytes()
    served.pull()
    served.channel_file.write_bytes(json.dumps({"moves": json.loads(old)["moves"][:1]}).encode())
    Shop(served.root, served.objects).promote(cell(version=SECOND), reason="another")
    with pytest.raises(RefusedError, match="rewound: move 2"):
        served.pull()


def test_a_channel_that_vanished_is_refused(served: Shop) -> None:
    served.channel_file.unlink()
    with pytest.raises(RefusedError, match=r"rewound: move 1, .*\(0 moves\)"):
        served.pull()


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"\xff", b'{"schema_version": 2}'])
def test_a_damaged_state_is_refused(served: Shop, content: bytes) -> None:
    (root_of(served) / "state.json").write_bytes(content)
    with pytest.raises(RefusedError, match=r"state.json is damaged.* remove the file"):
        served.pull()


@pytest.mark.parametrize(
    "address",
    [
        ChannelAddress("tiny", "cpu", ChannelName.STAGING),
        ChannelAddress("tiny", "t4", ChannelName.PRODUCTION),
        ChannelAddress("big", "cpu", ChannelName.PRODUCTION),
    ],
    ids=str,
)
def test_a_folder_follows_one_channel(served: Shop, address: ChannelAddress) -> None:
    with pytest.raises(InputError, match="this folder follows channel production of tiny for cpu, and not") as caught:
        served.pull(address=address)
    assert caught.value.exit_code == 2


def test_the_last_move_is_remembered_where_the_engine_stays(served: Shop) -> None:
    served.pull()
    move = served.promote(cell(version=SECOND), reason="once more")
    assert not served.pull().moved
    accepted = served.folder.read_accepted()
    assert accepted == Accepted(
        model="tiny",
        target="cpu",
        channel=PRODUCTION.channel,
        number=move.number,
        move=accepted.move if accepted else "",
    )
    assert accepted.number == 3


@pytest.mark.parametrize("link", ["current", "previous"])
@pytest.mark.parametrize("made", ["folder", "file", "link"])
def test_what_somebody_else_calls_current_is_left_alone(shop: Shop, link: str, made: str) -> None:
    shop.offer()
    root_of(shop).mkdir()
    path = root_of(shop) / link
    {"folder": path.mkdir, "file": path.touch, "link": lambda: path.symlink_to("/srv/tiny")}[made]()
    with pytest.raises(InputError, match=f"{link} is no link of enginegate's"):
        shop.pull()
    assert os.path.lexists(path)


def test_a_file_is_no_folder_to_pull_into(shop: Shop) -> None:
    shop.offer()
    root_of(shop).touch()
    with pytest.raises(InputError, match="is a file; name a folder"):
        shop.pull()


# Killed, full, raced


def killed(shop: Shop, prepare: Callable[[Path], object]) -> Iterator[ServingFolder]:
    """Hosts on which a pull was killed, each some changes later than the one before."""

    def pull(root: Path) -> None:
        shop.pull(folder=ServingFolder(root))

    return map(ServingFolder, kill_points(pull, shop.root / "hosts", prepare=prepare))


@pytest.mark.hardship
def test_killed_in_a_first_pull_there_is_no_engine_or_a_whole_one(shop: Shop) -> None:
    shop.offer()
    found = []
    for folder in killed(shop, lambda root: root.parent.mkdir(exist_ok=True)):
        found.append(version_served(folder.root))
        shop.pull(folder=folder)
        assert version_served(folder.root) == FIRST
        assert list((folder.root / ".scratch").iterdir()) == []
    assert len(found) > 50 // numbers().stride
    assert set(found) == {None, FIRST}


@pytest.mark.hardship
def test_killed_on_the_way_to_the_next_engine_the_old_one_or_the_new_one_is_served_and_none_is_there_by_half(
    served: Shop,
) -> None:
    served.pull()
    served.offer(THIRD)  # FIRST is removed then
    copy, found = functools.partial(shutil.copytree, root_of(served), symlinks=True), []
    for folder in killed(served, copy):
        found.append(version_served(folder.root))
        assert all(version_in(folder.root / name) for name in names_in(folder.root) if "@" in name)
        served.pull(folder=folder)
        assert (version_served(folder.root), version_before(folder.root)) == (THIRD, SECOND)
        assert len(names_in(folder.root)) == 5
    assert len(found) > 50 // numbers().stride
    assert set(found) == {SECOND, THIRD}


def fail(*_arguments: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "function", ["tests.tasks.memory_objects.write_checked", "tasks.release.serving_folder._sync_tree", "os.fsync"]
)
def test_on_a_full_disk_the_old_engine_stays_and_the_next_pull_succeeds(served: Shop, function: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(StageError, match=r"/host.* cannot be written: No space left on device; make room"):
            served.pull()
    assert version_served(root_of(served)) == FIRST
    served.pull()
    assert (version_served(root_of(served)), version_before(root_of(served))) == (SECOND, FIRST)


def test_a_disk_without_room_for_a_file_is_told_before_it_is_fetched(
    served: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.release.engine_files.shutil.disk_usage", lambda _path: SimpleNamespace(free=2))
    with pytest.raises(StageError, match="has no room in the 2 that are free"):
        served.pull()
    assert version_served(root_of(served)) == FIRST


def test_of_pulls_at_once_one_fetches_and_all_succeed(served: Shop) -> None:
    def pull() -> bool:
        return served.pull().fetched

    assert sorted(race([pull] * 6)) == ["False"] * 5 + ["True"]
    assert (version_served(root_of(served)), version_before(root_of(served))) == (SECOND, FIRST)
    assert len(names_in(root_of(served))) == 5


def test_a_pull_that_another_one_overtook_does_not_go_back(shop: Shop) -> None:
    shop.offer()
    offered: list[str] = []

    def overtake(offer: Offer) -> None:
        offered.append(offer.signed.manifest.cell.version)
        if len(offered) == 1:
            shop.offer(SECOND)
            shop.pull()

    pulled = shop.pull(on_offer=overtake)
    assert offered == [FIRST, SECOND]
    assert (pulled.moved, pulled.fetched) == (False, False)
    assert version_served(root_of(shop)) == SECOND
    assert version_before(root_of(shop)) is None


def test_pulls_and_promotions_at_once_leave_a_whole_engine_that_the_channel_named(tmp_path: Path) -> None:
    served = Shop(tmp_path, LocalObjects(tmp_path / "registry"))  # which processes share
    for version in (FIRST, SECOND):
        served.offer(version)

    def move(version: str) -> str:
        for _ in range(3):
            served.promote(cell(version=version))
        return ""

    def pull() -> str:
        for _ in range(3):
            served.pull()
        return ""

    assert race([functools.partial(move, FIRST), functools.partial(move, SECOND), pull, pull, pull]) == [""] * 5
    assert version_served(root_of(served)) in {FIRST, SECOND}
    served.pull()
    (*_, last) = served.registry.channels.read(PRODUCTION).moves
    assert version_served(root_of(served)) == last.move.engine_id[-12:]


def test_who_waits_too_long_for_another_pull_is_told(served: Shop) -> None:
    with (
        served.folder.held(1),
        pytest.raises(StageError, match=r"host: another pull has been at work there for 0.01 s; wait for it"),
    ):
        served.pull(wait_s=0.01)


def test_who_waits_for_another_pull_is_told_so_and_for_how_long(served: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.release.serving_folder.SILENT_S", 0.01)
    waited: list[float] = []
    with served.folder.held(1), pytest.raises(StageError, match="another pull has been at work"):
        served.pull(wait_s=0.02, on_wait=waited.append)
    assert waited == [0.02]
    served.pull(on_wait=waited.append)
    assert waited == [0.02], "of a pull that does not wait there is nothing to tell"


# Tried out


def test_a_real_engine_that_does_what_it_did_is_served(shop: Shop) -> None:
    shop.offer(plan=shop.onnx_plan())
    report = shop.pull(check_limit_s=CHECK_S).report
    assert report is not None
    assert report.ok
    assert report.samples == 4
    (error,) = report.errors
    assert error.output == "score"
    assert error.here is not None
    assert error.here < 1e-6
    assert error.allowed == pytest.approx(1e-3 * score(make_features(8))[:4].max())
    assert version_served(root_of(shop)) == FIRST


def test_an_engine_that_does_something_else_here_is_refused_and_the_last_good_one_stays(served: Shop) -> None:
    served.offer(THIRD, plan=served.onnx_plan(SQUARED))
    with pytest.raises(
        RefusedError, match=r"score: largest error 0\.\d+ \(was 0 when compared; 0.000\d+ is allowed\); `current` stays"
    ):
        served.pull(check_limit_s=CHECK_S)
    assert version_served(root_of(served)) == FIRST
    accepted = served.folder.read_accepted()
    assert accepted is not None
    assert accepted.number == 1, "a move whose engine was refused is not accepted"
    served.promote(cell(version=SECOND))
    remove(plan_of(served))
    with pytest.raises(RefusedError, match="is missing"):
        served.pull()
    assert [name[14:26] for name in names_in(root_of(served)) if "@" in name] == [FIRST], (
        "room is made before more is fetched"
    )


def test_a_smoke_reference_of_another_model_is_found_out(shop: Shop) -> None:
    other = put_shards(shop.store, [{"score": score(make_features(8))[:4] + 0.1}])
    manifest = manifest_of(shop.store, make_outcome(shop.store))
    smoke = manifest.smoke.model_copy(update={"reference": other, "candidate": other})
    shop.offer(plan=shop.onnx_plan(), smoke=smoke)
    with pytest.raises(RefusedError, match=r"score: largest error 0\.1 \(was 0 when compared"):
        shop.pull(check_limit_s=CHECK_S)
    assert version_served(root_of(shop)) is None


def test_an_engine_that_cannot_be_loaded_is_not_served(served: Shop) -> None:
    with pytest.raises(EnginegateError, match="cannot be run here, so `current` stays as it is: ONNX Runtime cannot"):
        served.pull(check_limit_s=CHECK_S)
    assert version_served(root_of(served)) == FIRST


def test_a_link_in_place_of_the_scratch_folder_is_refused_and_what_it_leads_to_stays(
    served: Shop, tmp_path: Path
) -> None:
    outside = tmp_path / "outside" / ("a" * 32)
    outside.mkdir(parents=True)
    outside.with_suffix(".lock").touch()
    shutil.rmtree(root_of(served) / ".scratch", ignore_errors=True)
    (root_of(served) / ".scratch").symlink_to(outside.parent)
    with pytest.raises(RefusedError, match=r"\.scratch is a link, and unfinished files are removed there"):
        served.pull()
    assert outside.is_dir()
    assert version_served(root_of(served)) == FIRST


def test_a_host_without_a_memory_refuses_a_history_that_lacks_the_move_it_is_told(served: Shop, tmp_path: Path) -> None:
    """A channel's object was put back to its first move: its signature is still a good one."""
    first = served.objects.read(PRODUCTION.key)
    served.offer(THIRD)
    moves = served.registry.channels.read(PRODUCTION).moves
    milestone = Milestone(len(moves), moves[-1].digest[7:19])
    assert Milestone.parse(str(milestone)) == milestone
    fresh = Shop(tmp_path / "fresh", served.objects)
    fresh.pull(at_least=milestone)
    assert version_served(root_of(fresh)) == THIRD
    now = served.objects.read(PRODUCTION.key)
    assert first is not None
    assert now is not None
    rewound = json.dumps({"moves": json.loads(first.content)["moves"][:1]}).encode()
    served.objects.replace(PRODUCTION.key, rewound, now.tag)
    other = Shop(tmp_path / "other", served.objects)
    for told in (milestone, Milestone(len(moves)), Milestone(1, "0" * 12)):
        with pytest.raises(RefusedError, match=rf"has 1 moves, and move {told}, which this deployment asks for"):
            other.pull(at_least=told)
    other.pull(at_least=Milestone(1))
    assert version_served(root_of(other)) == FIRST


@pytest.mark.parametrize("text", ["", "0", "x", "7:", "7:3F2A91BC4D5E", "-1", "7:3f2a", "1 "])
def test_what_is_no_move_is_bad_input(text: str) -> None:
    with pytest.raises(InputError, match="is no move; give its number"):
        Milestone.parse(text)
