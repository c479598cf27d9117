"""`enginegate submit`. Prefect is imported where it is needed: it reads its settings then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.console import short_commit
from flows.prefect_api import require_configured_api
from flows.pushes.verdict_table import commit_statuses, lacking_status, verdict_table
from tasks.errors import EnginegateError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flows.session import Session

WAIT_S = 7200
DAY_S = 24 * 3600


@click.command()
@click.argument("address")
@click.option("--commit", required=True, metavar="ID", help="The pushed commit's full id.")
@click.option("--from", "old", metavar="ID", help="The commit before; left out, the first parent; zeros: none.")
@click.option("--ref", metavar="REF", help="The branch, for people.")
@click.option(
    "--again",
    metavar="REASON",
    help="Make the engines again although they are made; see `convert`. The same reason sent twice is one run.",
)
@click.option("--wait/--no-wait", default=False, help="Wait for the verdicts.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=DAY_S),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait; the run goes on after it.",
)
@click.option("--summary", type=FilledPath(), metavar="FILE", help="Append the verdicts, as a table in Markdown.")
@click.option(
    "--statuses", type=FilledPath(), metavar="FILE", help="Write a commit status of GitHub's for each engine, a line."
)
@command_of
def submit(
    session: Session,
    address: str,
    commit: str,
    old: str | None,
    ref: str | None,
    again: str | None,
    wait: bool,
    timeout: float,
    summary: Path | None,
    statuses: Path | None,
) -> tuple[Document, int]:
    """Send a push to the repository at ADDRESS to Prefect, whose worker fetches and converts it.

    The same push sent twice is one run. Needs PREFECT_API_URL. With --wait, the exit code is that of `convert-commit`:
    2 where a model is broken, else the worst of its conversions.
    """
    if not require_configured_api():
        raise InputError("PREFECT_API_URL: is not set; set it to the server whose workers convert")
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - reads its settings when imported

    from flows.pushes.submission import Push, exit_code_of, read_results, submit_push, wait_for  # noqa: PLC0415

    push = Push(address, commit, old, ref, again)
    with get_client(sync_client=True) as client:
        run = submit_push(client, push)
        session.reporter.say(f"commit {short_commit(commit)}: run {run.name} ({run.id}) of {address}")
        document: Document = {"commit": commit, "run": str(run.id)}
        if not wait:
            _append(summary, f"Commit `{short_commit(commit)}` was sent to Prefect, run `{run.id}`.\n")
            return {**document, "models": None}, 0
        try:
            models = read_results(client, wait_for(client, run.id, timeout))
        except EnginegateError as error:
            _write(statuses, [lacking_status(str(error))])
            raise
    code = exit_code_of(models)
    _append(summary, verdict_table(commit, models))
    said = commit_statuses(models, code)
    _write(statuses, said)
    rows = [[status["state"], status["context"], status["description"]] for status in said]
    session.reporter.table(["state", "engine", "verdict"], rows)
    return {**document, "models": [model.model_dump(mode="json") for model in models]}, code


def _write(path: Path | None, statuses: Sequence[Document]) -> None:
    if path is not None:
        path.write_text("".join(f"{json.dumps(status)}\n" for status in statuses))


def _append(path: Path | None, text: str) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
