"""The flow that looks at branches on a schedule, for places where no push can tell of itself.

What was seen last of a branch is a record in the state folder, written after its commit was handed on: a watcher that
is killed hands the same commit on again, which is one conversion all the same. A branch that is seen for the first time
is only noted, as its commits were pushed before anybody watched.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow
from prefect.client.orchestration import get_client

from flows.console import short_commit
from flows.pushes.commit_flow import convert_commit
from flows.pushes.repositories import repository_path
from flows.pushes.submission import Push, submit_push
from flows.session import current_session
from tasks.errors import InputError, StageError
from tasks.git.mirror import branch_heads
from tasks.store.digests import digest_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.store.record_folder import RecordFolder

STAGE = "watch"
MOST_TRIES = 3
"""How often a commit whose conversion goes wrong is handed on, before the watcher lets it be."""
ZEROS = "0" * 40

Through = Literal["deployment", "here"]
First = Literal["note", "convert"]


@flow(name="watch", persist_result=False)
def watch(
    repositories: list[str],
    branches: list[str] | None = None,
    first: First = "note",
    through: Through = "here",
) -> dict[str, dict[str, str]]:
    """Hand on the head of every branch that moved since the last look; return these, by repository and branch.

    Args:
        repositories: absolute paths on the worker, or addresses that ENGINEGATE_REPOSITORIES allows.
        branches: names or patterns (`release/*`) of branches; `main`, if left out.
        first: what to do with a branch that was never seen: note its head, or convert all of its models.
        through: convert `here`, one after the other, or send each commit to the deployment `convert-commit`.

    Raises:
        InputError: a worker has no lasting home folder.
        StageError: at the end, where a repository or a commit went wrong; the others are done by then.
    """
    session = current_session()
    if not session.settings.home.is_absolute():
        raise InputError("ENGINEGATE_HOME: a watcher needs it, as an absolute path; set it where the worker is started")
    moved: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    for repository in dict.fromkeys(repositories):
        try:
            folder = repository_path(session, repository)
            heads = matching(branch_heads(folder), branches or ["main"])
        except Exception as error:  # noqa: BLE001 - one that is down keeps no other back
            faults.append(f"{repository}: {error}")
            continue
        watcher = _Watcher(session.state, repository, partial(_send, repository, folder, through), first)
        moved[repository] = watcher.look(heads)
        faults += watcher.faults
    if faults:
        raise StageError("\n".join(faults))
    return moved


def matching(heads: dict[str, str], patterns: list[str]) -> dict[str, str]:
    """The branches whose name matches a pattern of the shell's."""
    return {name: head for name, head in heads.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _send(repository: str, folder: Path, through: Through, branch: str, head: str, old: str) -> None:
    if through == "here":
        convert_commit(str(folder), head, old=old, ref=branch)
        return
    with get_client(sync_client=True) as client:
        submit_push(client, Push(repository, head, old, branch))


class _Watcher:
    """One look at a repository. `faults` says what went wrong."""

    def __init__(
        self, state: RecordFolder, repository: str, send: Callable[[str, str, str], None], first: First
    ) -> None:
        self._state, self._repository, self._send, self._first = state, repository, send, first
        self.faults: list[str] = []

    def look(self, heads: dict[str, str]) -> dict[str, str]:
        """Hand on what moved; the heads that were, by branch."""
        return {branch: head for branch, head in heads.items() if self._moved(branch, head)}

    def _moved(self, branch: str, head: str) -> bool:
        key = digest_json({"repository": self._repository, "branch": branch}).removeprefix("sha256:")
        with self._state.lock(STAGE, key):  # a second watcher waits, and then finds it seen
            record = self._state.read_record(STAGE, key) or {}
            old = _text(record, "head")
            if head == old:
                return False
            if old is None and self._first == "note":
                self._state.write_record(STAGE, key, self._seen(branch, head))
                return False
            self._hand_on(key, branch, head, old or ZEROS, record)
        return True

    def _hand_on(self, key: str, branch: str, head: str, old: str, record: dict[str, object]) -> None:
        tries = _count(record) + 1 if _text(record, "tried") == head else 1
        try:
            self._send(branch, head, old)
        except Exception as error:  # noqa: BLE001 - whatever befalls a commit keeps no other branch back
            self.faults.append(f"{self._repository}: {branch}: {short_commit(head)}: {error}")
            if tries < MOST_TRIES:
                again = {"repository": self._repository, "branch": branch, "head": _text(record, "head")}
                self._state.write_record(STAGE, key, {**again, "tried": head, "tries": tries})
                return
        self._state.write_record(STAGE, key, self._seen(branch, head))

    def _seen(self, branch: str, head: str) -> dict[str, Any]:
        return {"repository": self._repository, "branch": branch, "head": head}


def _text(record: dict[str, object], name: str) -> str | None:
    found = record.get(name)
    return found if isinstance(found, str) else None


def _count(record: dict[str, object]) -> int:
    found = record.get("tries")
    return found if isinstance(found, int) else 0
