from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tasks.errors import EnginegateError, InputError, RefusedError
from tasks.git.tree import Entry, Tree, why_unsafe
from tests.tasks.git.repositories import Source, pointer

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.git.extract import LfsSource


def export(source: Source, commit: str, folder: Path, *paths: str, lfs: LfsSource = "refuse") -> None:
    with closing(source.opened()) as repository:
        repository.export(commit, paths or ("",), folder, lfs)


def test_files_are_written_byte_for_byte_whatever_attributes_say(source: Source, tmp_path: Path) -> None:
    large = bytes(range(256)) * 9000
    source.write({"m/a.txt": "$Id$ x\n", "m/sub/run.sh": "echo", "large": large, "other/b": "no"})
    source.write({".gitattributes": "* text eol=crlf ident export-subst export-ignore\n"})
    (source.root / "m" / "sub" / "run.sh").chmod(0o755)
    commit = source.commit()
    export(source, commit, tmp_path / "out", "m", "large")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert found == ["large", "m", "m/a.txt", "m/sub", "m/sub/run.sh"]
    assert (tmp_path / "out" / "m" / "a.txt").read_bytes() == b"$Id$ x\n"
    assert (tmp_path / "out" / "large").read_bytes() == large
    assert (tmp_path / "out" / "m" / "sub" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "m" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_links_between_exported_files_are_kept(source: Source, tmp_path: Path) -> None:
    source.write({"m/a": "1", "m/d/b": "2"})
    (source.root / "m" / "d" / "up").symlink_to("../a")
    (source.root / "m" / "folder").symlink_to("d")
    export(source, source.commit(), tmp_path / "out", "m")
    assert (tmp_path / "out" / "m" / "folder" / "up").read_text() == "1"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../etc", "../outside", "nowhere", "link", "folder/../../outside"]
)
def test_a_link_to_what_is_not_exported_is_refused_by_name(source: Source, tmp_path: Path, target: str) -> None:
    source.write({"m/a": "1", "outside": "2", "m/d/deep": "3"})
    (source.root / "m" / "folder").symlink_to("d")
    (source.root / "m" / "link").symlink_to(target)
    with pytest.raises(InputError, match="'m/link'"):
        export(source, source.commit(), tmp_path / "out", "m")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["..", ".git", ".GIT", "git~1", ".git ", ".g\u200cit", "a\\b", ".git::$DATA"])
def test_names_that_some_file_system_takes_for_others_are_refused(source: Source, tmp_path: Path, name: str) -> None:
    folder = source.tree({"config": f"100644 blob {source.blob(b'x')}"})
    commit = source.commit_tree(source.tree({name: f"040000 tree {folder}"}))
    with pytest.raises(InputError, match=r"is no name of a file here|cannot list"):
        export(source, commit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", [".gitignore", "a/.gitattributes", "git", "...", "a b", "-x", "new\nline", "gitx~1"])
def test_other_odd_names_are_fine(path: str) -> None:
    assert why_unsafe(path) is None


def test_a_file_is_never_written_through_a_link_of_the_same_name(source: Source, tmp_path: Path) -> None:
    inner = source.tree({"stolen": f"100644 blob {source.blob(b'x')}"})
    link = source.blob(str(tmp_path).encode())
    tree = source.tree({"b": f"040000 tree {inner}", "a": f"120000 blob {link}"})
    with pytest.raises(InputError, match="'a' leads through a link"):
        export(source, source.commit_tree(tree), tmp_path / "out")
    assert not (tmp_path / "stolen").exists()


def test_a_submodule_is_refused_where_it_is_needed_and_no_harm_elsewhere(source: Source, tmp_path: Path) -> None:
    good = source.tree({"f": f"100644 blob {source.blob(b'x')}"})
    commit = source.commit_tree(source.tree({"m": f"040000 tree {good}", "s": f"160000 commit {'1' * 40}"}))
    export(source, commit, tmp_path / "out", "m")
    with pytest.raises(InputError, match="'s' is a submodule, and submodules are not read"):
        export(source, commit, tmp_path / "more")


def test_an_export_needs_an_empty_folder_and_names_what_is_not_there(source: Source, tmp_path: Path) -> None:
    commit = source.commit({"a": "1"})
    with pytest.raises(InputError, match="is not empty"):
        export(source, commit, source.root)
    with pytest.raises(InputError, match="'nothing': the commit has nothing of this name"):
        export(source, commit, tmp_path / "out", "nothing")


def test_files_of_lfs_come_from_the_repository_s_own_store_and_are_checked(source: Source, tmp_path: Path) -> None:
    content = b"weights" * 1000
    sha = hashlib.sha256(content).hexdigest()
    commit = source.commit({"w": pointer(sha, len(content))})
    stored = source.root / ".git" / "lfs" / "objects" / sha[:2] / sha[2:4] / sha

    def refused(error: type[EnginegateError], words: str, name: str, lfs: LfsSource) -> None:
        with pytest.raises(error, match=words):
            export(source, commit, tmp_path / name, lfs=lfs)

    refused(InputError, "run `git lfs fetch`", "missing", "store")
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    refused(InputError, "w: is kept in git LFS, which is not allowed here", "refuse", "refuse")
    export(source, commit, tmp_path / "out", lfs="store")
    assert (tmp_path / "out" / "w").read_bytes() == content
    stored.write_bytes(content[::-1])
    refused(RefusedError, "is damaged", "damaged", "store")
    assert not (tmp_path / "damaged" / "w").exists()
    stored.unlink()
    stored.symlink_to("/etc/passwd")
    refused(InputError, "run `git lfs fetch`", "link", "store")


def test_a_path_is_resolved_as_the_file_system_would() -> None:
    entries = {"a/b/file": "100644", "l": "120000", "a/up": "120000"}
    tree = Tree({path: Entry(mode, "blob", path) for path, mode in entries.items()})
    targets = {"l": "a/b", "a/up": "../l/.."}
    found = [
        tree.resolve(path, lambda entry: targets[entry.oid]) for path in ("l/file", "a/up/b/file", "x/../a", "l/..")
    ]
    assert found == ["a/b/file", "a/b/file", "a", "a"]


def test_what_lies_below_a_folder_is_not_what_only_begins_like_it() -> None:
    tree = Tree({path: Entry("100644", "blob", "1") for path in ("a/x", "a/y/z", "a.txt", "a-b/c", "ab", "a0")})
    assert sorted(tree.under("a")) == ["a/x", "a/y/z"]
    assert list(tree.under("ab")) == ["ab"]
    assert len(tree.under("")) == 6
