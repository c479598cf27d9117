from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import InputError, StageError
from tasks.git import mirror as mirror_module
from tasks.git.mirror import branch_heads, open_mirror
from tasks.git.remote_address import allowed_prefixes, check_address
from tests.tasks.git.repositories import Source, git

ROOT = Path(__file__).resolve().parents[3]
GITHUB = ("https://github.com/acme",)


def address_of(source: Source) -> str:
    return f"file://{source.root}"


def mirrored(source: Source, home: Path) -> Path:
    return open_mirror(home, address_of(source), [f"file://{source.root.parent}"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/acme",
        "https://github.com/acme/models",
        "https://github.com/acme/models.git",
        "https://github.com/acme/models/",
    ],
)
def test_what_lies_below_a_prefix_is_allowed(address: str) -> None:
    assert check_address(address, GITHUB) == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/acmeevil/models",
        "https://github.com/other/models",
        "https://github.com:8443/acme/models",
        "https://github.com.evil.org/acme/models",
        "http://github.com/acme/models",
        "https://github.com/acme/../other/models",
        "https://github.com/acme/%2e%2e/other",
        "https://github.com/acme/./models",
        "https://github.com/acme//models",
        "https://github.com@evil.org/acme/models",
        "https://github.com/acme@evil.org/models",
        "https://ann:secret@github.com/acme/models",
        "https://GitHub.com/acme/models",
        "https://github.com/acme/models?x=1",
        "https://github.com/acme/models#x",
        "https://github.com/acme/mod\nels",
        "https://github.com/acme/models\n",
        "https://github.com\\@evil.org/acme",
        "ssh://github.com/acme/models",
        "ssh://-oProxyCommand=touch@github.com/acme",
        "ssh://-oProxyCommand=touch/acme",
        "https://github.com/acme/-x",
        "ext::sh -c touch% x",
        "--upload-pack=touch x",
        "git@github.com:acme/models",
        "/acme/models",
        "file:///acme/models",
        "",
        "https://github.com/acme/" + "a" * 2000,
    ],
)
def test_every_other_address_is_refused(address: str) -> None:
    with pytest.raises(InputError) as refused:
        check_address(address, GITHUB)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("setting", [None, "", " , "])
def test_nothing_is_fetched_where_nothing_is_allowed(source: Source, home: Path, setting: str | None) -> None:
    source.commit({"a": "1"})
    with pytest.raises(InputError, match="set ENGINEGATE_REPOSITORIES"):
        open_mirror(home, address_of(source), allowed_prefixes(setting))
    assert not home.exists()


@pytest.mark.parametrize("prefix", ["https://", "file://", "file:///", "*", "", "https://ann:secret@host/x", "-x"])
def test_a_prefix_that_would_allow_anything_is_refused(prefix: str) -> None:
    with pytest.raises(InputError, match="ENGINEGATE_REPOSITORIES") as refused:
        check_address("https://github.com/acme/models", [prefix])
    assert "secret" not in str(refused.value)


def test_prefixes_are_separated_by_commas_and_ssh_may_name_its_user() -> None:
    allowed = allowed_prefixes("https://a.org/x, ssh://git@b.org")
    assert allowed == ("https://a.org/x", "ssh://git@b.org")
    assert check_address("ssh://git@b.org/models", allowed) == "ssh://git@b.org/models"
    with pytest.raises(InputError, match="starts with none of"):
        check_address("ssh://root@b.org/models", allowed)


def test_a_link_out_of_an_allowed_folder_is_refused(source: Source, tmp_path: Path, home: Path) -> None:
    source.commit({"a": "1"})
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(source.root)
    with pytest.raises(InputError, match="starts with none of"):
        open_mirror(home, f"file://{tmp_path}/open/link", [f"file://{tmp_path}/open"])


def test_a_mirror_has_every_branch_and_follows_them(source: Source, home: Path) -> None:
    first = source.commit({"a": "1"})
    git(source.root, "branch", "feature/x")
    mirror = mirrored(source, home)
    assert branch_heads(mirror) == {"main": first, "feature/x": first}
    git(source.root, "branch", "-D", "feature/x")
    git(source.root, "tag", "v1")
    second = source.commit({"a": "2"})
    assert mirrored(source, home) == mirror
    assert branch_heads(mirror) == {"main": second}
    assert git(mirror, "tag") == ""
    assert git(mirror, "cat-file", "-t", first) == "commit"


def test_a_forced_push_is_followed_and_the_commit_before_stays(source: Source, home: Path) -> None:
    source.commit({"a": "1"})
    second = source.commit({"a": "2"})
    mirror = mirrored(source, home)
    git(source.root, "reset", "--hard", "--quiet", "HEAD~1")
    other = source.commit({"a": "3"})
    mirrored(source, home)
    assert branch_heads(mirror) == {"main": other}
    assert git(mirror, "cat-file", "-t", second) == "commit"


def test_a_repository_that_is_not_there_is_told_of_and_leaves_no_mirror(source: Source, home: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be fetched \(.*; \(1\) correct the address"):
        open_mirror(home, f"file://{source.root}/none", [f"file://{source.root}"])
    assert not list((home / "repositories").glob("*.git"))
    with pytest.raises(InputError, match="its branches cannot be read"):
        branch_heads(home)


def test_what_a_killed_clone_and_a_killed_fetch_left_is_mended(source: Source, home: Path) -> None:
    source.commit({"a": "1"})
    mirror = mirrored(source, home)
    part = mirror.with_suffix(".part")
    mirror.rename(part)
    (part / "config").write_text("half of")
    assert mirrored(source, home) == mirror
    assert not part.exists()
    second = source.commit({"a": "2"})
    for left in ("refs/heads/main.lock", "packed-refs.lock", "HEAD.lock", "config.lock", "objects/pack/tmp_pack_x"):
        (mirror / left).touch()
    assert branch_heads(mirrored(source, home)) == {"main": second}
    assert not list(mirror.rglob("*.lock"))
    assert not list(mirror.rglob("tmp_*"))


def test_a_process_killed_at_any_time_leaves_a_mirror_that_the_next_call_mends(source: Source, home: Path) -> None:
    source.write({f"{number}": os.urandom(2000) for number in range(300)})
    head = source.commit()
    code = (
        "import sys; from pathlib import Path; from tasks.git.mirror import open_mirror\n"
        "print('go', flush=True); open_mirror(Path(sys.argv[1]), sys.argv[2], [sys.argv[2]])"
    )
    for delay_s in (0.0, 0.01, 0.03, 0.06):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(home), address_of(source)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert branch_heads(mirrored(source, home)) == {"main": head}
    git(mirrored(source, home), "fsck", "--strict")


def test_callers_at_once_get_one_mirror(source: Source, home: Path) -> None:
    head = source.commit({"a": "1"})
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(mirrored(source, home))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert branch_heads(found[0]) == {"main": head}


def test_a_fetch_that_hangs_is_ended_with_all_it_started(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(mirror_module, "FETCH_LIMIT_S", 1.0)
    with pytest.raises(StageError, match="fetching took longer than 1 s"):
        open_mirror(home, "ssh://git@localhost/models", ["ssh://git@localhost"])
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_that_the_caller_s_environment_says_to_git_is_heard(
    source: Source, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = source.commit({"a": "1"})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    assert branch_heads(mirrored(source, home)) == {"main": head}
    assert not (tmp_path / "trace").exists()


def test_an_object_that_git_s_own_check_refuses_does_not_come(source: Source, home: Path) -> None:
    blob = source.blob(b"x")
    commit = source.commit_tree(source.tree({".git": f"100644 blob {blob}"}))
    git(source.root, "update-ref", "refs/heads/main", commit)
    with pytest.raises(InputError, match="cannot be fetched"):
        mirrored(source, home)


def test_what_a_server_says_loses_passwords_and_control_characters() -> None:
    told = str(mirror_module._refused("fatal: https://ann:secret@host/x \x1b[31mred\n", "https://host/x"))  # noqa: SLF001
    assert "secret" not in told
    assert "\x1b" not in told


def test_a_branch_whose_name_ends_a_line_in_unicode_is_a_branch(source: Source) -> None:
    head = source.commit({"a": "1"})
    git(source.root, "branch", "x\u2028y")
    assert branch_heads(source.root) == {"main": head, "x\u2028y": head}
