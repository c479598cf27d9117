"""The flow that converts what a commit changed, for workers, and leaves the verdicts as artifacts of its run."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.console import short_commit
from flows.pushes.commit_conversion import DELETED, CommitResult, Order
from flows.pushes.commit_conversion import convert_commit as convert_models
from flows.pushes.journal import Entry, State
from flows.pushes.repositories import repository_path
from flows.pushes.verdict_table import verdict_table
from flows.session import current_session
from tasks.errors import StageError
from tasks.git.push_plan import is_zero
from tasks.git.repository import Repository


@flow(name="convert-commit", flow_run_name="{repository} {commit}", persist_result=False)
def convert_commit(
    repository: str,
    commit: str,
    old: str | None = None,
    ref: str | None = None,
    lfs: bool = False,
    again: str | None = None,
) -> dict[str, Any]:
    """Convert the models that a commit changed; return the document that `enginegate convert-commit --json` prints.

    It is left as two artifacts too: `convert-commit-<12 digits>`, a table for people, and `…-models`, the document's
    models for programs.

    Args:
        repository: an absolute path on the worker, or an address that ENGINEGATE_REPOSITORIES allows.
        commit: the pushed commit: an id, a branch or a tag. Zeros, as git sends where a branch was deleted, are nothing
            to convert: the document has no models, and there are no artifacts.
        old: the commit before; its first parent, if None or empty.
        ref: the branch: commits of two branches do not supersede each other.
        lfs: take files of git LFS from the repository's own store.
        again: the reason for making engines again that are made already.

    Raises:
        InputError: a parameter is at fault, or the repository lacks a commit.
        StageError: at the end, where models failed; the others are converted by then.
    """
    session = current_session()
    if is_zero(commit):
        session.reporter.say(DELETED)
        return CommitResult(commit, (), broken=False).document()
    with closing(Repository(repository_path(session, repository))) as opened:
        order = Order(commit=commit, old=old or None, ref=ref, lfs=lfs, again=again or None)
        result = convert_models(session, opened, order)
    document = result.document()
    key = f"convert-commit-{short_commit(result.commit)}"
    create_markdown_artifact(markdown=verdict_table(result.commit, result.results), key=key)
    create_table_artifact(table=document["models"], key=f"{key}-models")
    failed = [f"{model or entry.request.directory}: {entry.reason}" for model, entry in _failed(result)]
    if failed:
        raise StageError("\n".join(failed))
    return document


def _failed(result: CommitResult) -> list[tuple[str | None, Entry]]:
    return [(model, entry) for model, entry in result.models if entry.state is State.FAILED]
