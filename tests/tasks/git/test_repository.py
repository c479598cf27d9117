from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tasks.errors import InputError, StageError
from tasks.git.call import HARDENED
from tasks.git.cat_file import BlobReader
from tasks.git.repository import Repository
from tests.tasks.git.repositories import Source, git, make_source, pointer

if TYPE_CHECKING:
    from pathlib import Path

ZEROS = "0" * 40


def test_branches_tags_and_ids_name_their_commit(source: Source) -> None:
    first = source.commit({"a": "1"})
    git(source.root, "tag", "--annotate", "v1", "--message", "one")
    second = source.commit({"a": "2"})
    with closing(source.opened()) as repository:
        found = [repository.resolve(name) for name in ("main", "HEAD~1", "v1", "refs/tags/v1", second, second[:8])]
        assert found == [second, first, first, first, second, second]
        assert repository.first_parent(second) == first
        assert repository.first_parent(first) is None
        assert repository.is_ancestor(first, second)
        assert not repository.is_ancestor(second, first)


@pytest.mark.parametrize(
    "revision",
    [
        "", "-o", "--upload-pack=touch x", "--all", "main\nx", "main\0", "HEAD:a", ":/push", "main x", "a..b", "*",
        "x" * 300, "\x1b[31m", "nowhere", ZEROS, "f" * 40,
    ],
)  # fmt: skip
def test_what_is_no_revision_is_refused(source: Source, revision: str) -> None:
    source.commit({"a": "1"})
    with closing(source.opened()) as repository, pytest.raises(InputError, match=r"is no revision|has no commit"):
        repository.resolve(revision)


def test_a_branch_that_looks_like_an_option_is_no_option(source: Source) -> None:
    commit = source.commit({"a": "1"})
    git(source.root, "update-ref", "refs/heads/--upload-pack=x", commit)
    with closing(source.opened()) as repository:
        assert repository.resolve("refs/heads/--upload-pack=x") == commit
        with pytest.raises(InputError, match="is no revision"):
            repository.resolve("--upload-pack=x")


ODD_NAMES = ["-rf", "a b", "quo\"te'", "new\nline", "tab\t", "\u00e9\u4e2d", "--", ":(glob)*", "deep/er/file", "\udcff"]


def test_names_of_any_characters_are_listed_and_read(source: Source) -> None:
    commit = source.commit({name: name.encode(errors="surrogateescape") for name in ODD_NAMES})
    with closing(source.opened()) as repository:
        entries = repository.tree(commit).entries
        assert sorted(entries) == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            assert repository.read(entries[name].oid, 100) == os.fsencode(name)


def test_large_and_small_blobs_come_whole_in_any_order(source: Source) -> None:
    large = bytes(range(256)) * 20_000
    commit = source.commit({"large": large, "empty": b"", "line": b"\n", "small": b"x"})
    with closing(source.opened()) as repository:
        entries = repository.tree(commit).entries
        assert repository.read(entries["large"].oid, 10) is None
        assert repository.read(entries["small"].oid, 10) == b"x"
        assert next(repository.chunks(entries["large"].oid))[:3] == b"\0\1\2"  # given up in the middle
        assert [repository.read(entries[name].oid, 9) for name in ("empty", "line")] == [b"", b"\n"]
        assert b"".join(repository.chunks(entries["large"].oid)) == large
        assert repository.digest(entries["large"].oid) == f"sha256:{hashlib.sha256(large).hexdigest()}"


def test_the_digest_of_a_pointer_is_that_of_its_file(source: Source) -> None:
    commit = source.commit({"w": pointer("ab" * 32, 5), "near": pointer("ab" * 32, 5) + b"more"})
    with closing(source.opened()) as repository:
        entries = repository.tree(commit).entries
        assert repository.digest(entries["w"].oid) == "sha256:" + "ab" * 32
        near = hashlib.sha256(pointer("ab" * 32, 5) + b"more").hexdigest()
        assert repository.digest(entries["near"].oid) == f"sha256:{near}"


def test_a_folder_above_or_below_is_not_taken_for_the_repository(source: Source, tmp_path: Path) -> None:
    source.commit({"models/a": "1"})
    for path in (source.root / "models", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"is no git repository|is no folder"):
            Repository(path)


def test_bare_repositories_worktrees_and_empty_ones_are_repositories(source: Source, tmp_path: Path) -> None:
    with closing(source.opened()) as empty, pytest.raises(InputError, match="has no commit 'HEAD'; fetch it"):
        empty.resolve("HEAD")
    commit = source.commit({"a": "1"})
    git(tmp_path, "clone", "--quiet", "--bare", str(source.root), "bare")
    git(source.root, "worktree", "add", "--quiet", str(tmp_path / "beside"))
    for path in (tmp_path / "bare", tmp_path / "beside"):
        with closing(Repository(path)) as repository:
            assert repository.resolve("HEAD") == commit
            assert list(repository.tree(commit).entries) == ["a"]


def test_a_shallow_clone_says_how_to_fetch_deeper(source: Source, tmp_path: Path) -> None:
    old = source.commit({"a": "1"})
    new = source.commit({"a": "2"})
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{source.root}", "shallow")
    with closing(Repository(tmp_path / "shallow")) as repository:
        assert repository.resolve("HEAD") == new
        for ask in (lambda: repository.resolve(old), lambda: repository.first_parent(new)):
            with pytest.raises(InputError, match=r"is shallow: fetch deeper, as with `git fetch --unshallow`"):
                ask()


def test_objects_that_were_borrowed_from_a_repository_that_is_gone_are_missed(source: Source, tmp_path: Path) -> None:
    commit = source.commit({"a": "1"})
    git(tmp_path, "clone", "--quiet", "--shared", str(source.root), "borrower")
    shutil.rmtree(source.root)
    with closing(Repository(tmp_path / "borrower")) as repository, pytest.raises(InputError):
        repository.tree(repository.resolve(commit))


def test_a_missing_or_damaged_object_is_told_and_the_next_one_is_read(source: Source) -> None:
    commit = source.commit({"a": "first", "b": "second", "c": "third"})
    with closing(source.opened()) as repository:
        a, b, c = (repository.tree(commit).entries[name].oid for name in "abc")
        objects = source.root / ".git" / "objects"
        (objects / a[:2] / a[2:]).unlink()
        (objects / b[:2] / b[2:]).chmod(0o644)
        (objects / b[:2] / b[2:]).write_bytes(b"rubbish")
        for oid in (a, b):
            with pytest.raises(InputError, match=r"clone it again|git fsck"):
                repository.read(oid, 100)
        assert repository.read(c, 100) == b"third"
        with pytest.raises(InputError, match="is no file's content"):
            repository.read(commit, 100)


def test_a_git_that_says_nothing_is_given_up() -> None:
    reader = BlobReader([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), silence_s=0.1)
    with pytest.raises(StageError, match=r"said nothing for 0\.1 s"):
        reader.read("a" * 40, 1)


def test_replaced_and_grafted_commits_are_read_as_they_were_made(source: Source) -> None:
    old = source.commit({"a": "1"})
    new = source.commit({"a": "2"})
    git(source.root, "replace", new, old)
    (source.root / ".git" / "info" / "grafts").write_text(f"{new}\n")
    with closing(source.opened()) as repository:
        assert repository.read(repository.tree(new).entries["a"].oid, 9) == b"2"
        assert repository.first_parent(new) == old


def test_variables_of_a_hook_lead_to_no_other_repository(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = source.commit({"a": "1"})
    other = make_source(tmp_path / "other")
    other.commit({"b": "1"})
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.root / ".git" / "objects"))
    with closing(source.opened()) as repository:
        assert repository.resolve("HEAD") == commit


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_repository_of_another_user_is_read_only_where_the_reader_trusts_it(
    source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = source.commit({"a": "1"})
    for path in (source.root, source.root / ".git"):
        os.chown(path, 12345, 12345)
    git(source.root, "config", "--file", str(source.root / ".git" / "config"), "safe.directory", "*")
    with pytest.raises(InputError, match=r"belongs to another user.*git config --global --add safe.directory"):
        source.opened()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(f"[safe]\n directory = {source.root}\n")
    with closing(source.opened()) as repository:
        assert repository.resolve("HEAD") == commit
        assert list(repository.tree(commit).entries) == ["a"]
        assert repository.read(repository.tree(commit).entries["a"].oid, 9) == b"1"


HOSTILE = {
    "fsmonitor": "[core]\n fsmonitor = {program}\n",
    "hooks": "[core]\n hooksPath = {folder}\n",
    "filters": '[filter "evil"]\n clean = {program}\n smudge = {program}\n process = {program}\n required = true\n',
    "textconv": '[diff "evil"]\n textconv = {program}\n command = {program}\n[diff]\n external = {program}\n',
    "aliases": "[alias]\n rev-parse = !{program}\n ls-tree = !{program}\n cat-file = !{program}\n",
    "programs": "[core]\n pager = {program}\n editor = {program}\n askPass = {program}\n sshCommand = {program}\n"
    " gitProxy = {program}\n alternateRefsCommand = {program}\n[credential]\n helper = !{program}\n"
    "[uploadpack]\n packObjectsHook = {program}\n[gpg]\n program = {program}\n",
    "include": '[includeIf "gitdir:**"]\n path = {folder}/more\n[include]\n path = {folder}/more\n',
}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with a program under many names, which leaves the file `ran` behind."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in ("program", "post-checkout", "post-index-change", "reference-transaction", "git-remote-evil"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {folder}/ran\n")
        (folder / name).chmod(0o755)
    (folder / "more").write_text(HOSTILE["fsmonitor"].format(program=folder / "program"))
    return folder


def set_trap(source: Source, trap: Path, settings: str) -> None:
    with (source.root / ".git" / "config").open("a") as config:
        config.write(settings.format(program=trap / "program", folder=trap))
    (source.root / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_configuration_runs_nothing(source: Source, trap: Path, settings: str, tmp_path: Path) -> None:
    old = source.commit({"a": "1"})
    new = source.commit({"a": "2", ".gitattributes": "* filter=evil diff=evil text eol=crlf\n"})
    set_trap(source, trap, settings)
    with closing(source.opened()) as repository:
        assert repository.resolve("main") == new
        assert repository.is_ancestor(old, new)
        repository.export(new, [""], tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"2"
    assert not (trap / "ran").exists()


PROMISORS = {
    "ext": "ext::{program}",
    "a helper": "evil::somewhere",
    "ssh": "ssh://host.invalid/x",
    "a file": "file://{folder}",
}


@pytest.mark.parametrize("git_is_older", [False, True], ids=["git 2.44", "git before 2.44"])
@pytest.mark.parametrize("url", PROMISORS.values(), ids=PROMISORS)
def test_an_object_that_a_partial_clone_lacks_is_not_fetched(
    source: Source, trap: Path, url: str, git_is_older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = source.commit({"a": "1"})
    if git_is_older:  # it does not know this variable
        monkeypatch.delitem(HARDENED, "GIT_NO_LAZY_FETCH")
    monkeypatch.setenv("PATH", f"{trap}:{os.environ['PATH']}")
    with closing(source.opened()) as repository:
        oid = repository.tree(commit).entries["a"].oid
    (source.root / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    remote = f'[remote "origin"]\n url = {url}\n promisor = true\n uploadpack = {{program}}\n'
    loose = "".join(f'[protocol "{name}"]\n allow = always\n' for name in ("ext", "evil", "ssh", "file"))
    partial = "[core]\n repositoryformatversion = 1\n sshCommand = {program}\n[extensions]\n partialClone = origin\n"
    wanted = '[remote "origin"]\n partialclonefilter = blob:none\n'
    set_trap(source, trap, remote + loose + partial + wanted)
    with closing(source.opened()) as repository, pytest.raises(InputError):
        repository.read(oid, 9)
    assert not (trap / "ran").exists()
    with suppress(subprocess.CalledProcessError):
        git(source.root, "cat-file", "--batch", data=f"{oid}\n".encode())
    assert (trap / "ran").exists()  # a git that is not hardened steps into it


def test_the_trap_of_these_tests_would_catch_a_git_that_is_not_hardened(source: Source, trap: Path) -> None:
    source.commit({"a": "1"})
    set_trap(source, trap, HOSTILE["fsmonitor"])
    git(source.root, "status")
    assert (trap / "ran").exists()


def test_a_tree_that_holds_itself_many_times_over_is_refused_before_it_fills_memory(source: Source) -> None:
    oid, kind = git(source.root, "hash-object", "-w", "--stdin", data=b"x"), "100644 blob"
    for _ in range(7):  # ten to the seventh files
        lines = "\n".join(f"{kind} {oid}\t{number}" for number in range(10))
        oid, kind = git(source.root, "mktree", data=lines.encode()), "040000 tree"
    commit = git(source.root, "commit-tree", oid, data=b"bomb")
    with closing(source.opened()) as repository, pytest.raises(InputError, match="more to say than 64 MiB; a commit"):
        repository.tree(commit)
