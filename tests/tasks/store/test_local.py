from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tasks.artifact import Artifact
from tasks.errors import RefusedError
from tasks.store.digests import artifact_digest, digest_file
from tasks.store.local import LocalStore
from tests.tasks.processes import changes_of, is_killed_at, race
from tests.tasks.tiny import put

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "k" * 64


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blob_files(store: LocalStore) -> list[Path]:
    return [path for path in (store.root / "blobs").rglob("*") if path.is_file()]


def damage(path: Path) -> None:
    """Change a file without changing its size, unless it is empty."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"!")


def test_what_is_put_comes_back_whole_and_checked(store: LocalStore, tmp_path: Path) -> None:
    files = {"a": b"one", "sub/b": b"two", "sub/c": b"one", "empty": b""}
    artifact = put(store, files)
    assert [file.path for file in artifact.files] == sorted(files)
    assert artifact.digest == artifact_digest(artifact.files)
    assert artifact.size_bytes == 9
    assert files_below(store.fetch(artifact, tmp_path / "out")) == files


def test_links_are_not_taken_in(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with store.scratch() as folder:
        (folder / "real").write_text("real")
        (folder / "link").symlink_to(tmp_path / "secret")
        (folder / "folder").symlink_to(tmp_path)
        assert [file.path for file in store.put(folder).files] == ["real"]


def test_damage_is_refused_once_and_then_absent_so_that_it_is_remade(store: LocalStore, tmp_path: Path) -> None:
    artifact = put(store, {"a": b"one", "b": b"two"})
    damage(store.root / "blobs" / "sha256" / artifact.files[1].digest[7:9] / artifact.files[1].digest[9:])
    with pytest.raises(RefusedError, match=r"artifact store: b \(sha256:.* has digest .*run the conversion again"):
        store.fetch(artifact, tmp_path / "out")
    assert not store.contains(artifact)
    assert put(store, {"a": b"one", "b": b"two"}) == artifact
    assert files_below(store.fetch(artifact, tmp_path / "again")) == {"a": b"one", "b": b"two"}


def test_an_artifact_whose_list_of_files_was_edited_is_not_there(store: LocalStore) -> None:
    artifact, other = put(store, {"a": b"one"}), put(store, {"a": b"two"})
    assert store.contains(artifact)
    assert not store.contains(Artifact(digest=artifact.digest, files=other.files))
    assert not store.contains(Artifact(digest=artifact.digest, files=()))


def test_a_record_reads_back_and_is_replaced(store: LocalStore) -> None:
    assert store.read_record("build", KEY) is None
    for content in ({"a": [1, None, "ä"]}, {"a": 2}):
        store.write_record("build", KEY, content)
        assert store.read_record("build", KEY) == content
        assert LocalStore(store.root).read_record("build", KEY) == content
    assert store.read_record("compare", KEY) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"a": 1'])
def test_an_unreadable_record_is_no_record(store: LocalStore, content: bytes) -> None:
    store.write_record("build", KEY, {"a": 1})
    (store.root / "records" / "build" / f"{KEY}.json").write_bytes(content)
    assert store.read_record("build", KEY) is None


def test_killed_at_any_change_a_put_leaves_whole_blobs_only_and_nothing_in_scratch(tmp_path: Path) -> None:
    files = {"a": b"one" * 1000, "sub/b": b"two" * 1000}
    change = 0
    while is_killed_at(change, lambda: put(LocalStore(tmp_path), files)):
        store = LocalStore(tmp_path)
        assert all(digest_file(path)[0] == f"sha256:{path.parent.name}{path.name}" for path in blob_files(store))
        assert list((tmp_path / "scratch").glob("*")) == []
        for path in blob_files(store):
            path.unlink()
        change += 1
    assert change > 20
    store = LocalStore(tmp_path)
    assert store.contains(put(store, files))


def test_killed_at_any_change_a_record_points_at_what_is_there(tmp_path: Path) -> None:
    def work() -> None:
        store = LocalStore(tmp_path)
        artifact = put(store, {"a": b"one"})
        store.write_record("build", KEY, {"artifact": artifact.model_dump(mode="json")})

    change = 0
    while is_killed_at(change, work):
        store = LocalStore(tmp_path)
        record = store.read_record("build", KEY)
        assert record is None or store.contains(Artifact.model_validate(record["artifact"]))
        change += 1
    assert change > 15
    assert LocalStore(tmp_path).read_record("build", KEY) is not None


def test_a_file_that_is_put_is_on_the_disk_before_it_is_a_blob(store: LocalStore) -> None:
    made = changes_of(lambda: put(store, {"a": b"one", "b": b"two"}))
    assert [name for name in made if name in {"fsync", "replace"}] == ["fsync", "replace"] * 2


def test_many_writers_of_the_same_and_of_other_files_at_once_store_each_once(tmp_path: Path) -> None:
    LocalStore(tmp_path)

    def work(number: int) -> str:
        store = LocalStore(tmp_path)
        for turn in range(15):
            artifact = put(store, {"shared": f"turn {turn}".encode() * 500, "own": f"{number} {turn}".encode()})
            with store.scratch() as folder:
                store.fetch(artifact, folder / "out")
        return artifact.files[1].digest

    assert len({*race([lambda number=number: work(number) for number in range(4)])}) == 1  # type: ignore[misc]
    assert len(blob_files(LocalStore(tmp_path))) == 15 + 4 * 15
    assert list((tmp_path / "scratch").glob("*")) == []


def test_a_stage_is_held_by_one_process_at_a_time(store: LocalStore, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def work() -> str:
        for _ in range(25):
            with LocalStore(store.root).lock("build", KEY):
                counter.write_text(str(int(counter.read_text()) + 1))
        return "done"

    assert race([work] * 3) == ["done"] * 3
    assert counter.read_text() == "75"


def test_a_killed_process_holds_no_stage(store: LocalStore) -> None:
    def work() -> None:
        with store.lock("build", KEY):
            os.kill(os.getpid(), signal.SIGKILL)

    assert is_killed_at(10_000, work)
    with store.lock("build", KEY):
        pass


def test_stages_and_keys_are_held_apart(store: LocalStore) -> None:
    def take(stage: str, key: str) -> str:
        with LocalStore(store.root).lock(stage, key):
            return "held"

    with store.lock("build", KEY):
        others = [lambda: take("build", "j" * 64), lambda: take("compare", KEY)]
        assert race(others) == ["held", "held"]


class StoreMachine(RuleBasedStateMachine):
    """Puts, damage, loss and fetches in any order: a fetch gives the right bytes or refuses."""

    artifacts: Any = Bundle("artifacts")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = LocalStore(Path(self.folder.name) / "store")
        self.contents: dict[str, dict[str, bytes]] = {}
        self.spoiled: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(target=artifacts, files=st.dictionaries(st.sampled_from(["a", "b/c"]), st.sampled_from([b"", b"x", b"y"])))
    def put(self, files: dict[str, bytes]) -> Any:
        artifact = put(self.store, files) if files else multiple()
        if files:
            self.contents[artifact.digest] = files
            self.spoiled -= {file.digest for file in artifact.files}
        return artifact

    @rule(artifact=artifacts, spoil=st.sampled_from([damage, Path.unlink]))
    def spoil(self, artifact: Artifact, spoil: Callable[[Path], None]) -> None:
        file = artifact.files[0]
        path = self.store.root / "blobs" / "sha256" / file.digest[7:9] / file.digest[9:]
        if path.exists():
            spoil(path)
            self.spoiled.add(file.digest)

    @rule(artifact=artifacts)
    def fetch(self, artifact: Artifact) -> None:
        good = not self.spoiled & {file.digest for file in artifact.files}
        with self.store.scratch() as folder:
            if good:
                assert files_below(self.store.fetch(artifact, folder / "out")) == self.contents[artifact.digest]
                return
            with pytest.raises(RefusedError):
                self.store.fetch(artifact, folder / "out")
        assert not self.store.contains(artifact)

    @rule()
    def open_again(self) -> None:
        self.store = LocalStore(self.store.root)

    @invariant()
    def scratch_is_empty(self) -> None:
        if hasattr(self, "store"):
            assert list((self.store.root / "scratch").glob("*")) == []


StoreMachine.TestCase.settings = settings(derandomize=True, deadline=None, max_examples=30, stateful_step_count=20)
TestStoreMachine = StoreMachine.TestCase
