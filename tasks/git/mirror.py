"""Mirrors of repositories at addresses: bare ones in the home folder, with every branch, fetched each time.

The worker's own settings of git say how it signs in (credential helpers, keys of ssh); no address holds a password, and
nobody is asked for one. What comes is checked by git (`fsckObjects`) before it is seen. Objects of git LFS do not come:
`git lfs` takes its addresses from a file in the tree, so a commit could name any. For models in git LFS, keep a clone
with `git lfs fetch` on the worker and name its folder in place of the address.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError
from tasks.git.call import call_git
from tasks.git.remote_address import check_address, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MIRRORS = "repositories"
FETCH_LIMIT_S = 600.0
POLL_S = 0.1
LONGEST_COMPLAINT = 500
BRANCHES = "refs/heads/"
_OPTIONS = (
    "--no-pager", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false", "-c", "http.followRedirects=false", "-c", "transfer.fsckObjects=true",
    "-c", "fetch.fsckObjects=true", "-c", "fetch.recurseSubmodules=false", "-c", "fetch.writeCommitGraph=false",
    "-c", "transfer.bundleURI=false", "-c", "fetch.bundleURI=",
)  # fmt: skip
# What a process that was killed leaves of git's in a repository, and what then stops the next one.
_LEFT_OVER = ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/tmp_*", "objects/incoming-*")


def open_mirror(home: Path, address: str, allowed: Sequence[str]) -> Path:
    """Fetch every branch of the repository at `address`; return the bare mirror below `home`/repositories.

    Branches that are gone there go here; commits stay. Of several callers at once, one fetches after the other.

    Args:
        home: the home folder.
        address: https://, ssh:// or file://; text of a stranger's.
        allowed: prefixes of addresses that may be fetched, each ending where a part of a path does.

    Raises:
        InputError: the address is none or is not allowed, or the repository is not there or not for us.
        StageError: it took longer than ten minutes, or another fetch of it did.
    """
    place = check_address(address, allowed)
    name = hashlib.sha256(place.encode()).hexdigest()[:32]
    folder = home.resolve() / MIRRORS
    folder.mkdir(parents=True, exist_ok=True)
    mirror, part = folder / f"{name}.git", folder / f"{name}.part"
    with _locked(folder / f"{name}.lock", place) as lock:
        shutil.rmtree(part, ignore_errors=True)
        if mirror.is_dir():
            _sweep(mirror)
            _fetch(mirror, place, lock)
            return mirror
        made = call_git(folder, "init", "--quiet", "--bare", "--template=", "--", str(part))
        if made.code != 0:
            raise _refused(made.complaint, place)
        _fetch(part, place, lock)
        part.rename(mirror)
    return mirror


def branch_heads(repository: Path) -> dict[str, str]:
    """The full id of the commit at the head of each branch of a repository, by the branch's name.

    Raises:
        InputError: the folder is no repository that can be read.
    """
    answer = call_git(
        repository, "for-each-ref", "--format=%(objecttype) %(objectname) %(refname)", BRANCHES,
        ceiling=repository.resolve().parent,
    )  # fmt: skip
    if answer.code != 0:
        raise InputError(f"{repository}: its branches cannot be read ({answer.complaint}); name a git repository")
    # Cut as bytes: a branch's name may hold what Unicode calls the end of a line.
    lines = (os.fsdecode(line).split(" ", 2) for line in answer.output.split(b"\n") if line)
    return {name.removeprefix(BRANCHES): oid for kind, oid, name in lines if kind == "commit"}


@contextmanager
def _locked(path: Path, place: str) -> Iterator[int]:
    """Hold a lock, of which git gets a copy: if this process is killed, the lock is free once git has ended too."""
    deadline = time.monotonic() + FETCH_LIMIT_S
    with path.open("ab") as stream:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise StageError(f"{place}: another fetch of it takes longer than {FETCH_LIMIT_S:g} s; try again later")
            time.sleep(POLL_S)
        try:
            yield stream.fileno()
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)  # also where a helper that git left behind holds its copy


def _sweep(mirror: Path) -> None:
    """Remove what a killed fetch left; the lock is ours, and readers write nothing."""
    for pattern in _LEFT_OVER:
        for path in mirror.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _fetch(mirror: Path, place: str, lock: int) -> None:
    command = [
        "git", "-C", str(mirror), *_OPTIONS, "fetch", "--quiet", "--prune", "--no-tags", "--force",
        "--no-write-fetch-head", "--no-recurse-submodules", "--end-of-options", place,
        f"+{BRANCHES}*:{BRANCHES}*",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(place, mirror),
        pass_fds=(lock,),
        start_new_session=True,  # no terminal, at which ssh would ask; and one group to end
    )
    try:
        _, complaint = process.communicate(timeout=FETCH_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise StageError(
            f"{place}: fetching took longer than {FETCH_LIMIT_S:g} s; try again, or see to the network"
        ) from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise _refused(complaint.decode(errors="replace") or f"git ended with {process.returncode}", place)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git with all that it started; it leads its group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _environment(place: str, mirror: Path) -> dict[str, str]:
    """None of the caller's GIT_* variables, one transport, and no question to anybody."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return inherited | {
        "GIT_DIR": str(mirror),
        "GIT_ALLOW_PROTOCOL": scheme_of(place),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }


def _refused(complaint: str, place: str) -> InputError:
    # What a server says is a stranger's text, and an address that git's settings rewrote may hold a password.
    said = re.sub(r"//[^/\s]*@", "//", " ".join(complaint.split()))[:LONGEST_COMPLAINT]
    shown = "".join(each if each.isprintable() else "?" for each in said)
    return InputError(
        f"{place}: cannot be fetched ({shown}); (1) correct the address, (2) or let git on this worker sign in, by a"
        " credential helper or a key of ssh: `git ls-remote` shows whether it can; (3) or try again later"
    )
