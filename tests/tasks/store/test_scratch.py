from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import IO

import pytest

from tasks.errors import RefusedError
from tasks.store.scratch import ScratchSpace
from tests.tasks.processes import changes_of, is_killed_at, race


def contents(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_a_folder_is_private_empty_and_gone_afterwards(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path)
    with space.folder() as one, space.folder() as other:
        assert one != other
        assert list(one.iterdir()) == []
        (one / "sub").mkdir()
        (one / "sub" / "file").touch(mode=0o444)
    assert contents(tmp_path) == []


def test_a_folder_is_gone_after_an_error_too(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path)
    with pytest.raises(KeyboardInterrupt), space.folder():
        raise KeyboardInterrupt
    assert contents(tmp_path) == []


def test_the_folder_of_a_live_process_is_never_swept(tmp_path: Path) -> None:
    with ScratchSpace(tmp_path).folder() as folder:
        (folder / "file").touch()
        ScratchSpace(tmp_path)  # flock holds between two openings of a file, in one process too
        race([lambda: ScratchSpace(tmp_path)] * 3)
        assert (folder / "file").exists()
    assert contents(tmp_path) == []


def test_the_folder_of_a_killed_process_is_swept_by_the_next_opener_and_no_other_is(tmp_path: Path) -> None:
    def work() -> None:
        with ScratchSpace(tmp_path).folder() as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "file").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with ScratchSpace(tmp_path).folder() as mine:
        assert is_killed_at(10_000, work)
        assert len(list(tmp_path.glob("*.lock"))) == 2
        ScratchSpace(tmp_path)
        assert contents(tmp_path) == sorted([mine.name, f"{mine.name}.lock"])


def test_a_link_is_no_place_for_scratch_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "0123456789abcdef0123456789abcdef").mkdir(parents=True)
    (tmp_path / "elsewhere" / "0123456789abcdef0123456789abcdef.lock").touch()
    (tmp_path / "scratch").symlink_to("elsewhere")
    before = contents(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="scratch is a link, and unfinished files are removed there"):
        ScratchSpace(tmp_path / "scratch")
    assert contents(tmp_path / "elsewhere") == before


def test_files_of_others_are_not_swept(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.lock").touch()
    (tmp_path / f"{'f' * 32}.lock").symlink_to("notes.lock")
    os.mkfifo(tmp_path / f"{'e' * 32}.lock")
    before = contents(tmp_path)
    ScratchSpace(tmp_path)
    assert set(contents(tmp_path)) >= set(before) - {f"{'e' * 32}.lock"}


def test_killed_at_any_change_writing_shows_the_old_or_the_new_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target, change = tmp_path / "record", 0
    target.write_bytes(b"old")
    while is_killed_at(change, lambda: ScratchSpace(tmp_path / "scratch").write(target, b"new")):
        assert target.read_bytes() in {b"old", b"new"}
        ScratchSpace(tmp_path / "scratch")
        assert contents(tmp_path / "scratch") == []
        target.write_bytes(b"old")
        change += 1
    assert change >= 8
    assert target.read_bytes() == b"new"


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    for replace, naming in ((True, "replace"), (False, "link")):
        made = changes_of(
            lambda replace=replace: ScratchSpace(tmp_path / "scratch").write(tmp_path / "a", b"x", replace=replace)
        )
        assert [name for name in made if name in {"write", "fsync", naming}] == ["write", "fsync", naming]
        (tmp_path / "a").unlink()


def test_of_two_writers_who_must_not_replace_exactly_one_succeeds(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path / "scratch")

    def write(number: int) -> str:
        space.write(tmp_path / "deep" / "target", str(number).encode(), replace=False)
        return f"wrote {number}"

    results = race([lambda number=number: write(number) for number in range(6)])  # type: ignore[misc]
    winners = [result for result in results if result.startswith("wrote")]
    assert len(winners) == 1
    assert [result for result in results if result not in winners] == ["FileExistsError"] * 5
    assert (tmp_path / "deep" / "target").read_text() == winners[0].removeprefix("wrote ")
    assert contents(tmp_path / "scratch") == []


def test_readers_see_whole_contents_while_others_replace_them(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"0" * 5000)

    def write(letter: bytes) -> str:
        space = ScratchSpace(tmp_path / "scratch")
        for _ in range(30):
            space.write(target, letter * 5000)
        return "done"

    def read() -> str:
        seen = [target.read_bytes() for _ in range(300)]
        return str(all(len(content) == 5000 and len(set(content)) == 1 for content in seen))

    assert race([lambda: write(b"a"), lambda: write(b"b"), read]) == ["done", "done", "True"]


def test_a_lock_that_was_swept_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, []

    def sweep_first(lock: IO[bytes], operation: int) -> None:
        if not swept:
            swept.append(lock.name)
            ScratchSpace(tmp_path)
        flock(lock, operation)

    space = ScratchSpace(tmp_path)
    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with space.folder() as folder:
        assert not Path(swept[0]).exists()
        ScratchSpace(tmp_path)
        assert contents(tmp_path) == [folder.name, f"{folder.name}.lock"]
    assert contents(tmp_path) == []


def test_many_openers_and_users_at_once_never_sweep_each_other(tmp_path: Path) -> None:
    def work() -> str:
        for number in range(40):
            with ScratchSpace(tmp_path).folder() as folder:
                (folder / "file").write_text(str(number))
                assert (folder / "file").read_text() == str(number)
        return "done"

    assert race([work] * 4) == ["done"] * 4
    assert contents(tmp_path) == []
