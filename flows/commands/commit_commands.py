"""`enginegate convert-commit` and `enginegate runs`."""

from __future__ import annotations

import signal
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.console import MARKS, short_commit
from flows.pushes.commit_conversion import DELETED, CommitResult, Order
from flows.pushes.commit_conversion import convert_commit as convert_models
from flows.pushes.journal import UNFINISHED, Entry, Journal, cut
from tasks.errors import printable
from tasks.git.push_plan import is_zero
from tasks.git.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flows.session import Session

SHOWN_RUNS = 20
INTERRUPTED = "interrupted"
"""What `runs` calls an entry that is unfinished while no process that asked for it lives."""
STATE_MARKS = {"done": "✓", "failed": "✕", "running": "→", "waiting": "→", INTERRUPTED: "✕"}


@click.command()
@click.argument("repository", type=FilledPath())
@click.option(
    "--commit", required=True, metavar="SHA", help="The pushed commit: an id, a branch or a tag. Zeros: none."
)
@click.option("--from", "old", metavar="OLD", help="The commit before; see `enginegate plan`.")
@click.option("--ref", metavar="REF", help="The branch that was pushed; those of others supersede nothing.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option("--lfs", is_flag=True, help="Take files of git LFS from the repository's own lfs/objects.")
@click.option("--again", metavar="REASON", help="Make the engines again although they are made; see `convert`.")
@command_of
def convert_commit(
    session: Session,
    repository: Path,
    commit: str,
    old: str | None,
    ref: str | None,
    models: tuple[str, ...],
    lfs: bool,
    again: str | None,
) -> tuple[Document, int]:
    """Convert the models that a commit of REPOSITORY changed, each from a clean export of that commit.

    The same commit sent twice, at once or later, is one conversion, but for --again. One that has not started is left
    out where a commit that builds on it is on its way to another version of the model, or came there while this one
    waited; with ENGINEGATE_SUPERSEDE=cancel, one that runs is stopped too.

    The exit code is 2 if a model is broken; else the worst of the conversions: 1, 5, 2, 3, 4, 0.
    """
    order = Order(commit=commit, old=old, ref=ref, lfs=lfs, models=models or None, again=again)
    with end_politely(), closing(Repository(repository)) as opened:
        result = convert_models(session, opened, order)
    _show_result(session, result)
    return result.document(), result.exit_code


@contextmanager
def end_politely() -> Iterator[None]:
    """Within, SIGTERM ends the command as Ctrl-C does: conversions are stopped, and the journal says so."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_result(session: Session, result: CommitResult) -> None:
    if not result.models:
        nothing = f"commit {short_commit(result.commit)} changes no model"
        session.reporter.say(DELETED if is_zero(result.commit) else nothing)
        return
    rows = [row for model, entry in result.models for row in _result_rows(model, entry)]
    headings = ["", "model", "version", "state", "engine", "verdict", "reason"]
    session.reporter.table(headings, [[printable(cell) for cell in row] for row in rows])


def _result_rows(model: str | None, entry: Entry) -> list[list[str]]:
    """A row for each engine, or one for a model that has none."""
    about = [model or entry.request.directory or ".", entry.request.version or "-", entry.state.value]
    if not entry.engines:
        # A failure was told when it happened, with all its lines.
        reason = "see above" if entry.state.value == "failed" else _first_line(entry.reason)
        return [[STATE_MARKS.get(entry.state.value, "-"), *about, "-", "-", reason]]
    return [
        [
            MARKS.get(engine.verdict, "-"),
            *about,
            engine.engine_id,
            engine.verdict,
            _first_line(engine.reason or entry.reason),
        ]
        for engine in entry.engines
    ]


def _first_line(text: str) -> str:
    return cut(text.partition("\n")[0]) or "-"


@click.command()
@click.option("--model", metavar="NAME", help="Only those of this model.")
@click.option("--all", "everything", is_flag=True, help=f"All of them, not only the newest {SHOWN_RUNS}.")
@command_of
def runs(session: Session, model: str | None, everything: bool) -> tuple[Document, int]:
    """List the conversions that commits asked for, newest first, with their engines, and where they wait."""
    journal = Journal(session.state)
    found = [run for name in journal.models() if model in {None, name} for run in _runs_of(journal, name)]
    found.sort(key=lambda run: str(run["asked_at"]), reverse=True)
    shown = found if everything else found[:SHOWN_RUNS]
    headings = ["", "model", "commit", "version", "state", "since (UTC)", "engines", "why"]
    if shown:
        session.reporter.table(headings, [[printable(cell) for cell in _run_row(run)] for run in shown])
    else:
        of = "" if model is None else f" of {printable(model)}"
        session.reporter.say(f"no commit asked for a conversion{of} yet; `enginegate convert-commit` does, for a push")
    if len(shown) < len(found):
        session.reporter.say(f"{len(found) - len(shown)} older ones: --all shows them")
    return {"runs": shown, "more": len(found) - len(shown)}, 0


def _runs_of(journal: Journal, model: str) -> list[Document]:
    # Asked first: a run that ends meanwhile is then shown as it ended, never as interrupted.
    before = {entry.request for entry in journal.entries(model) if journal.is_asked(entry)}
    entries = journal.entries(model)
    alive = before | {entry.request for entry in entries if journal.is_asked(entry)}
    runs = (entry for entry in entries if entry.state.value == "running" and entry.request in alive)
    running = next(runs, None)
    return [_run_document(model, entry, running, entry.request in alive) for entry in entries]


def _run_document(model: str, entry: Entry, running: Entry | None, alive: bool) -> Document:
    unfinished = entry.state in UNFINISHED
    state = INTERRUPTED if unfinished and not alive else entry.state.value
    return {
        "model": model,
        "commit": entry.request.commit,
        "directory": entry.request.directory or ".",
        "version": entry.request.version,
        "ref": entry.ref,
        "state": state,
        "since": entry.since,
        "waits": _waits(state, entry, running),
        **entry.model_dump(include={"asked_at", "started_at", "ended_at", "exit_code", "superseded_by"}),
        "reason": cut(entry.reason),
        "to_make": list(entry.planned) if unfinished else [],
        "engines": [engine.model_dump() for engine in entry.engines],
    }


def _waits(state: str, entry: Entry, running: Entry | None) -> str | None:
    """What a conversion waits for; None where it does not wait."""
    if state == INTERRUPTED:
        return "its process died: send the commit again"
    if state == "running":
        return entry.note or None
    if state != "waiting":
        return None
    if running is not None:
        return f"behind the run of commit {short_commit(running.request.commit)}"
    return "for its turn in the process that asked"


def _run_row(run: Document) -> list[str]:
    engines = [f"{engine['engine_id'].partition('@')[0]} {engine['verdict']}" for engine in run["engines"]]
    engines += [f"{engine_id.partition('@')[0]} to make" for engine_id in run["to_make"]]
    return [
        STATE_MARKS.get(run["state"], "-"),
        run["model"],
        short_commit(run["commit"]),
        run["version"] or "-",
        run["state"],
        run["since"][:19].replace("T", " "),
        ", ".join(engines) or "-",
        run["waits"] or _first_line(run["reason"]),
    ]
